"""Which entry of a tensor is wrong, where a direction through all of them disagrees and those measured so far agree."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array, norm_of_finite
from gradguard.perturbation import Direction, EntryProbe, Probe


def wrong_entry(
    direction: Direction, residual: float, residual_of: Callable[[Direction, float], float]
) -> EntryProbe | None:
    """An entry whose gradient is wrong, found by halving the direction; None where the tensor is spread over processes.

    Along one direction, the residual of one half of the entries is that of all less that of the other half. So one
    difference tells which half is further off, and log2(size) of them lead to one entry.

    Args:
        direction: A direction that disagrees.
        residual: n - g along it.
        residual_of: Measures n - g along a direction through a share of the entries.
    """
    vector = direction.vector
    if not isinstance(vector, np.ndarray):
        return None
    low, high = 0, vector.size
    while high - low > 1:
        middle = (low + high) // 2
        part = _part(vector, low, middle)
        length = norm_of_finite(part)
        of_first = 0.0
        if length:
            part /= length
            of_first = length * residual_of(_fixed(part), (middle - low) / vector.size)
        if abs(of_first) > abs(residual - of_first):
            high, residual = middle, of_first
        elif math.isfinite(of_first):
            low, residual = middle, residual - of_first
        else:
            return None
    return EntryProbe(tuple(int(i) for i in np.unravel_index(low, vector.shape)))


def further_entries(
    entries: Sequence[Probe],
    is_wrong: NDArray[np.bool_],
    shape: tuple[int, ...],
    hidden: Callable[[], EntryProbe | None],
) -> list[EntryProbe]:
    """Entries to measure besides: around the one that is wrong, or around a hidden one; none where several are wrong.

    Args:
        entries: Those that are measured.
        is_wrong: Which of them disagree.
        shape: Of the tensor.
        hidden: Searches a wrong entry, where none of them disagrees.
    """
    wrong = [probe for probe, disagrees in zip(entries, is_wrong, strict=True) if disagrees]
    found = wrong[0] if wrong else hidden()
    if len(wrong) > 1 or not isinstance(found, EntryProbe):
        return []
    return [probe for probe in with_its_like(found, shape) if probe not in entries]


def with_its_like(entry: EntryProbe, shape: tuple[int, ...]) -> list[EntryProbe]:
    """An entry with two others along each axis, which tell an error of one entry from one of its row or column."""
    found = {entry.index: entry}
    for axis, length in enumerate(shape):
        for offset in (length // 3, 2 * length // 3):
            other = (entry.index[axis] + max(1, offset)) % length
            index = (*entry.index[:axis], other, *entry.index[axis + 1 :])
            found[index] = EntryProbe(index)
    return list(found.values())


def _fixed(vector: Array) -> Direction:
    return Direction(lambda: vector)


def _part(vector: Array, low: int, high: int) -> Array:
    """The vector, with zeros outside a range of positions."""
    part = np.zeros_like(vector)
    part.reshape(-1)[low:high] = vector.reshape(-1)[low:high]
    return part
