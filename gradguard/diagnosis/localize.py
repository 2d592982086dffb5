"""Where in a tensor its wrong entries lie, when they lie together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 0.5  # of the entries inside the place are wrong, and none outside
OUTSIDE = 3  # entries outside that must be right, or the place is no finding
EQUAL_BLOCKS = (4, 3, 2)  # LSTM, GRU, anything in two halves


@dataclass(frozen=True, slots=True)
class AxisSlice:
    """A slice of one axis.

    Attributes:
        axis: The axis.
        first: The first index that is wrong.
        last: The last one.
        length: Of the axis.
        block: Which of the equal blocks of a fused tensor this is, from 1; 0 if it is none.
        blocks: How many equal blocks there are.
    """

    axis: int
    first: int
    last: int
    length: int
    block: int = 0
    blocks: int = 0

    @property
    def block_name(self) -> str:
        """The equal block by its number, whichever axis it is along; "" if it is none."""
        return f"block {self.block} of {self.blocks}" if self.block else ""

    def __str__(self) -> str:
        if self.block:
            return f"{self.block_name} along axis {self.axis}"
        if self.first == self.last:
            return f"index {self.first} of axis {self.axis}"
        return f"indices {self.first} to {self.last} of axis {self.axis}"

    def holds(self, index: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
        """Which of some entries lie in this place."""
        along = np.array([place[self.axis] for place in index], dtype=int)
        return (self.first <= along) & (along <= self.last)


def locate(index: Sequence[tuple[int, ...]], wrong: NDArray[np.bool_], shape: tuple[int, ...]) -> AxisSlice | None:
    """The smallest slice of an axis, or equal block of one, that holds all the wrong entries; None if there is none.

    Args:
        index: Where the entries lie.
        wrong: Which of them are wrong.
        shape: Of the tensor.
    """
    if not wrong.any() or wrong.all():
        return None
    places = np.array(index, dtype=int)
    found = []
    for axis, length in enumerate(shape):
        along = places[wrong, axis]
        place = _as_block(AxisSlice(axis, int(along.min()), int(along.max()), length))
        inside = place.holds(index)
        if wrong[inside].mean() >= MOST and (~inside).sum() >= OUTSIDE:
            found.append(place)
    return min(found, key=lambda place: (place.last - place.first + 1) / place.length, default=None)


def _as_block(place: AxisSlice) -> AxisSlice:
    """The equal block that the place lies in and mostly fills, if there is one."""
    for count in EQUAL_BLOCKS:
        width = place.length // count
        if place.length % count or width < 2 or place.first // width != place.last // width:
            continue
        if 2 * (place.last - place.first + 1) > width:
            block = place.first // width
            return AxisSlice(place.axis, block * width, (block + 1) * width - 1, place.length, block + 1, count)
    return place
