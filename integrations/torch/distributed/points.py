"""Where a rank has perturbed the parameters, in three numbers that the ranks compare with each loss."""

import math

Point = tuple[float, float, float]
"""The number of the tensor, the entry, the displacement.

The entry is its flat index, or `WHOLE_TENSOR` or `ALONG_DIRECTION`. Where several tensors are perturbed it is
`SEVERAL_TENSORS`, and the others are sums over them, in which nothing cancels.
"""
UNPERTURBED: Point = (0.0, 0.0, 0.0)
WHOLE_TENSOR, ALONG_DIRECTION, SEVERAL_TENSORS = -1.0, -2.0, -3.0


class Perturbations:
    """The tensors that this rank has perturbed at this moment."""

    def __init__(self) -> None:
        self._points: dict[int, Point] = {}

    def record(self, number: int, entry: float, displacement: float = 0.0) -> None:
        """A tensor is perturbed; it replaces what was recorded of the same tensor."""
        self._points[number] = (float(number), entry, displacement)

    def forget(self, number: int) -> None:
        """A tensor has its unperturbed values again."""
        self._points.pop(number, None)

    def clear(self) -> None:
        """All tensors have their unperturbed values."""
        self._points.clear()

    @property
    def point(self) -> Point:
        """Where the parameters are."""
        points = list(self._points.values())
        if len(points) < 2:
            return points[0] if points else UNPERTURBED
        sides = sum(math.copysign(number + 1, displacement) for number, _, displacement in points)
        return sides, SEVERAL_TENSORS, sum((number + 1) * abs(displacement) for number, _, displacement in points)
