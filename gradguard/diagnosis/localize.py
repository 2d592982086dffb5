"""The slice of a tensor that holds all its wrong entries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_SHARE_WRONG = 0.5  # of the entries in the slice; of a larger slice, most entries would be right
MIN_ENTRIES_OUTSIDE = 3  # all right; with fewer, the slice is almost the whole sample
EQUAL_BLOCKS = (4, 3, 2)  # gates of an LSTM, gates of a GRU, two halves


@dataclass(frozen=True, slots=True)
class AxisSlice:
    """A slice of one axis.

    Attributes:
        axis: The axis.
        first: The first index that is wrong.
        last: The last one.
        length: The length of the axis.
        block: The number of this equal block of a fused tensor, from 1; 0 if it is none.
        blocks: The number of equal blocks.
    """

    axis: int
    first: int
    last: int
    length: int
    block: int = 0
    blocks: int = 0

    @property
    def block_name(self) -> str:
        """The equal block by its number, whichever axis it lies along; "" if it is none."""
        return f"block {self.block} of {self.blocks}" if self.block else ""

    def __str__(self) -> str:
        if self.block:
            return f"{self.block_name} along axis {self.axis}"
        if self.first == self.last:
            return f"index {self.first} of axis {self.axis}"
        return f"indices {self.first} to {self.last} of axis {self.axis}"

    def holds(self, index: Sequence[tuple[int, ...]]) -> NDArray[np.bool_]:
        """A mask over some entries, by their indices: those in this slice."""
        positions = np.array([entry[self.axis] for entry in index], dtype=int)
        return (self.first <= positions) & (positions <= self.last)


def locate(index: Sequence[tuple[int, ...]], wrong: NDArray[np.bool_], shape: tuple[int, ...]) -> AxisSlice | None:
    """The smallest slice of an axis, or equal block of one, that holds all the wrong entries; None if there is none.

    Args:
        index: The index of each of m entries in the tensor.
        wrong: Which of them are wrong, (m,).
        shape: The shape of the tensor.
    """
    if not wrong.any() or wrong.all():
        return None
    indices = np.array(index, dtype=int)
    candidates = []
    for axis, length in enumerate(shape):
        positions = indices[wrong, axis]
        candidate = _as_block(AxisSlice(axis, int(positions.min()), int(positions.max()), length))
        inside = candidate.holds(index)
        if wrong[inside].mean() >= MIN_SHARE_WRONG and (~inside).sum() >= MIN_ENTRIES_OUTSIDE:
            candidates.append(candidate)
    return min(candidates, key=lambda one: (one.last - one.first + 1) / one.length, default=None)


def _as_block(part: AxisSlice) -> AxisSlice:
    """The equal block that the slice lies in and mostly fills, or the slice itself if there is none."""
    for count in EQUAL_BLOCKS:
        width = part.length // count
        if part.length % count or width < 2 or part.first // width != part.last // width:
            continue
        if 2 * (part.last - part.first + 1) > width:
            block = part.first // width
            return AxisSlice(part.axis, block * width, (block + 1) * width - 1, part.length, block + 1, count)
    return part
