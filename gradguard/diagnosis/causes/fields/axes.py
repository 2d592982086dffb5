"""Gradients in which the parts of one axis are permuted: its gates, its heads, its rows or columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array, Float64, ShardedArray
from gradguard.diagnosis.causes.fields.fit import MIN_SUPPORT, RESOLVED
from gradguard.diagnosis.causes.fields.values import gradient_of, is_unexplained
from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms

MAX_LENGTH = 2**14  # of an axis of which all entries beside a measured one are read
MAX_PARTS = 12  # equal parts that a fused axis is thought to have, gates or heads
MATCH = 4.0  # deviations within which two entries are the same
NEAR = 0.3  # of a value, within which the entries that chance might meet are counted
MAX_LISTED = 6  # parts of which the report says where they went


@dataclass(frozen=True, slots=True)
class _Order:
    """A permutation of the parts of an axis that explains every measured entry.

    Attributes:
        axis: The axis.
        parts: How many equal parts it has.
        sources: For each part that is elsewhere, the part of g that it equals.
        support: The power of ten by which chance is excluded.
    """

    axis: int
    parts: int
    sources: dict[int, int]
    support: float


def axis_in_another_order(tensor: Symptoms) -> Diagnosis | None:
    """The parts of one axis are permuted: each is found whole at the place of another."""
    gradient = gradient_of(tensor)
    if gradient is None or isinstance(gradient, ShardedArray) or not is_unexplained(tensor):
        return None
    found = [
        order
        for axis, length in enumerate(tensor.evidence.shape)
        if 2 <= length <= MAX_LENGTH
        for order in _orders(tensor, gradient, axis)
        if order.support >= MIN_SUPPORT
    ]
    if not found:
        return None
    best = max(found, key=lambda order: order.support)
    names = _names(tensor, best)
    listed = ", ".join(f"{names[part]} is {names[source]}" for part, source in list(best.sources.items())[:MAX_LISTED])
    what = "entries" if best.parts == tensor.evidence.shape[best.axis] else f"{best.parts} parts"
    return Diagnosis(
        key=f"permuted:axis {best.axis}",
        explanation=f"numerical is backprop with the {what} of axis {best.axis} in another order: {listed}",
        cause=f"the {what} of axis {best.axis} are permuted where this gradient is formed",
    )


def _orders(tensor: Symptoms, gradient: Array, axis: int) -> list[_Order]:
    """The permutations of few parts (gates, heads), or where there is none of single entries, that explain n."""
    entries, index = tensor.evidence.entries, np.array(tensor.evidence.index, dtype=int)
    lines = np.stack([_line(gradient, place, axis) for place in tensor.evidence.index])
    if not np.isfinite(lines).all():
        return []
    tolerance = MATCH * np.hypot(entries.error, entries.rounding)
    chance = _chance(entries.n, tolerance, lines)
    length = lines.shape[1]
    telling = (np.abs(entries.n - entries.g) > tolerance) & (np.abs(entries.n) > RESOLVED * tolerance / MATCH)
    is_same = np.abs(lines - entries.n[:, None]) <= tolerance[:, None]
    found = []
    for parts in [*(part for part in range(2, min(MAX_PARTS, length - 1) + 1) if length % part == 0), length]:
        order = _order(is_same, index[:, axis], parts, np.where(telling, chance, 1.0))
        if order is not None:
            found.append(_Order(axis, parts, *order))
    return found


def _line(gradient: Array, place: tuple[int, ...], axis: int) -> Float64:
    """All entries beside one along an axis, (length,)."""
    beside = (*place[:axis], *place[axis + 1 :])
    return np.asarray(np.moveaxis(gradient, axis, -1)[beside], np.float64)


def _chance(n: Float64, tolerance: Float64, lines: Float64) -> Float64:
    """How probable it is that an unrelated entry of the gradient meets each n, (m,)."""
    values = np.sort(np.unique(lines, axis=0).ravel())  # several entries may lie on one line

    def share(reach: Float64) -> Float64:
        inside = np.searchsorted(values, n + reach, "right") - np.searchsorted(values, n - reach, "left")
        return np.asarray(np.maximum(inside - 1, 0) / values.size)

    near = np.maximum(NEAR * np.abs(n), tolerance)
    dense = np.maximum(share(near), 1 / values.size) * tolerance / near
    return np.asarray(np.minimum(1.0, np.maximum(dense, share(tolerance))))


def _order(
    is_same: NDArray[np.bool_], position: NDArray[np.int_], parts: int, chance: Float64
) -> tuple[dict[int, int], float] | None:
    """Where each part went, and how unlikely chance is; None if a part is nowhere, or two are in one place.

    Args:
        is_same: Whether each measured entry equals each entry beside it along the axis, (m, length).
        position: Where the measured entries are along the axis, (m,).
        parts: The number of equal parts.
        chance: How probable it is that an unrelated entry meets each n, (m,).
    """
    width = is_same.shape[1] // parts
    part, offset = np.divmod(position, width)
    by_part = is_same.reshape(-1, parts, width)[np.arange(position.size), :, offset]
    sources: dict[int, int] = {}
    taken: set[int] = set()
    support = 0.0
    for target in np.unique(part):
        inside = part == target
        possible = np.flatnonzero(by_part[inside].all(0))
        if not possible.size:
            return None
        if target in possible:
            taken.add(int(target))
            continue
        free = [int(source) for source in possible if source not in taken]
        if not free:
            return None
        sources[int(target)] = free[0]
        taken.add(free[0])
        support -= float(min(0.0, np.log10(parts) + np.log10(chance[inside]).sum()))
    return (sources, support) if sources else None


def _names(tensor: Symptoms, order: _Order) -> Sequence[str]:
    """What the parts are called: by their blocks where each part is one, else by numbers."""
    what = "index" if order.parts == tensor.evidence.shape[order.axis] else "part"
    names = [f"{what} {part}" for part in range(order.parts)]
    if len(tensor.evidence.blocks) != order.parts:
        return names
    width = tensor.evidence.shape[order.axis] // order.parts
    part = np.array([place[order.axis] // width for place in tensor.evidence.index], dtype=int)
    for name, mask in tensor.evidence.blocks.items():
        inside = np.unique(part[mask])
        if inside.size == 1 and (part == inside[0]).sum() == mask.sum():
            names[int(inside[0])] = name
    return names
