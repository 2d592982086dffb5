"""Gradients whose entries are in other places: transposed, laid out in another order, reversed or shifted."""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from gradguard.diagnosis.causes.fields.values import (
    Index,
    first_convincing,
    gradient_of,
    is_unexplained,
    rearranged,
)
from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms

MAX_AXES = 5  # of which all orders are tried: 120
Move = Callable[[Index], Index]


def in_another_order(tensor: Symptoms) -> Diagnosis | None:
    """The right values stand in other places of this gradient, by one rule for all of them."""
    gradient = gradient_of(tensor)
    if gradient is None or not is_unexplained(tensor):
        return None
    index, shape = tensor.evidence.index, tensor.evidence.shape
    moves = itertools.chain(_transposed(shape), _reversed(shape), _interleaved(shape), _shifted(shape))
    candidates = ((words, partial(rearranged, tensor, gradient, [move(i) for i in index])) for words, move in moves)
    found = first_convincing(candidates)
    if found is None:
        return None
    key = found[0].split(" ")[0].rstrip(":")
    return Diagnosis(
        key=key,
        explanation=f"numerical is backprop {found[0]}, at each of the {tensor.evidence.entries.size} entries measured",
        cause=_CAUSES[key],
    )


_CAUSES = {
    "transposed": "a forgotten transpose, or one too many, where this gradient is formed or reshaped",
    "reversed": "the entries run backwards along an axis: a kernel that is not flipped, or reversed time",
    "interleaved": (
        "a fused axis is split in the wrong order: its parts (gates or heads) alternate entry by entry instead of "
        "lying one after the other"
    ),
    "shifted": "an index is off by one, so each entry is in the place of its neighbour",
}


def _transposed(shape: Index) -> Iterator[tuple[str, Move]]:
    """Axes in another order: as the axes of the tensor where their lengths allow it, else in memory."""
    if not 2 <= len(shape) <= MAX_AXES:
        return
    for order in itertools.permutations(range(len(shape))):
        if order == tuple(range(len(shape))):
            continue
        axes = "" if len(shape) == 2 else f" (its axes in the order {', '.join(map(str, order))})"
        other = tuple(shape[axis] for axis in order)
        if other == shape:
            yield f"transposed{axes}", partial(_picked, order=order)
            continue
        yield f"transposed in memory{axes}", partial(_from_memory, shape=shape, other=other, order=order)
        yield f"transposed in memory{axes}", partial(_to_memory, shape=shape, other=other, order=order)


def _picked(place: Index, order: Index) -> Index:
    return tuple(place[axis] for axis in order)


def _from_memory(place: Index, shape: Index, other: Index, order: Index) -> Index:
    """Where an entry is if the transposed array was reshaped to this shape."""
    position = np.ravel_multi_index(_picked(place, order), other)
    return tuple(int(i) for i in np.unravel_index(position, shape))


def _to_memory(place: Index, shape: Index, other: Index, order: Index) -> Index:
    """Where an entry is if the array was reshaped to the other shape and then transposed."""
    inside = np.unravel_index(int(np.ravel_multi_index(place, shape)), other)
    found = dict(zip(order, inside, strict=True))
    return tuple(int(found[axis]) for axis in range(len(shape)))


def _reversed(shape: Index) -> Iterator[tuple[str, Move]]:
    """Some axes run backwards."""
    long = [axis for axis, length in enumerate(shape) if length > 1][:MAX_AXES]
    for count in range(1, len(long) + 1):
        for axes in itertools.combinations(long, count):
            words = " and ".join(map(str, axes))
            yield f"reversed along axis {words}", partial(_backwards, shape=shape, axes=axes)


def _backwards(place: Index, shape: Index, axes: Index) -> Index:
    return tuple(shape[axis] - 1 - i if axis in axes else i for axis, i in enumerate(place))


def _interleaved(shape: Index) -> Iterator[tuple[str, Move]]:
    """An axis of k parts is laid out as entries of k parts each, or the other way round."""
    for axis, length in enumerate(shape):
        for parts in _divisors(length):
            yield (
                f"interleaved: {parts} parts of axis {axis} by entries",
                partial(_dealt, axis=axis, parts=parts, width=length // parts),
            )


def _divisors(length: int) -> list[int]:
    small = [part for part in range(2, math.isqrt(length) + 1) if length % part == 0]
    return sorted({*small, *(length // part for part in small)})


def _dealt(place: Index, axis: int, parts: int, width: int) -> Index:
    part, entry = divmod(place[axis], width)
    return (*place[:axis], entry * parts + part, *place[axis + 1 :])


def _shifted(shape: Index) -> Iterator[tuple[str, Move]]:
    """The indices along an axis are off by one."""
    for axis, length in enumerate(shape):
        if length > 2:
            for by in (1, -1):
                yield f"shifted by {by} along axis {axis}", partial(_beside, axis=axis, by=by, length=length)


def _beside(place: Index, axis: int, by: int, length: int) -> Index:
    return (*place[:axis], (place[axis] - by) % length, *place[axis + 1 :])
