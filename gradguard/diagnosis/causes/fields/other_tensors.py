"""Gradients that belong to another tensor."""

from collections.abc import Iterator

import numpy as np

from gradguard.arrays import Array, ShardedArray, reductions
from gradguard.diagnosis.causes.fields.fit import Fit
from gradguard.diagnosis.causes.fields.values import Index, gradient_of, is_unexplained, rearranged
from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms
from gradguard.report import listed

MAX_NAMED = 3  # tensors that one gradient may belong to, beyond which naming them helps nobody


def of_another_tensor(tensor: Symptoms) -> Diagnosis | None:
    """The right gradient of this tensor is the one that was given for another, which is wrong as well."""
    if gradient_of(tensor) is None or not is_unexplained(tensor):
        return None
    found = [name for name, fit in _fits(tensor) if fit is not None and fit.is_convincing]
    if not found or len(found) > MAX_NAMED:
        return None
    given = listed([f"`{name}`" for name in found])
    return Diagnosis(
        key=f"of_another_tensor:{found[0]}",
        explanation=f"numerical is the gradient passed for {given}, at all {tensor.evidence.entries.size} entries",
        cause=f"the gradients of `{tensor.evidence.name}` and {given} are swapped, or stored under wrong names",
    )


def _fits(tensor: Symptoms) -> Iterator[tuple[str, Fit | None]]:
    """The fit of n by each other gradient of this shape, or of this shape transposed."""
    surroundings, evidence = tensor.surroundings, tensor.evidence
    for name, other in surroundings.gradients.items():
        if name == evidence.name or name not in surroundings.suspects:
            continue
        for places in _places(evidence.index, evidence.shape, other.shape):
            yield name, rearranged(tensor, other, places)


def _places(index: tuple[Index, ...], shape: Index, other: Index) -> Iterator[list[Index]]:
    if other == shape:
        yield list(index)
    elif other == shape[::-1]:
        yield [place[::-1] for place in index]
    elif np.prod(other) == np.prod(shape) and max(shape) == max(other) == np.prod(shape):  # a row against a column
        yield [
            tuple(int(i) for i in np.unravel_index(int(np.ravel_multi_index(place, shape)), other)) for place in index
        ]


def written_twice(tensor: Symptoms) -> Diagnosis | None:
    """The gradient given is bit for bit that of another tensor, for which it is right."""
    gradient, surroundings = gradient_of(tensor), tensor.surroundings
    if gradient is None or not is_unexplained(tensor) or not tensor.evidence.norm:
        return None
    same = [
        name
        for name, other in surroundings.gradients.items()
        if name != tensor.evidence.name and name not in surroundings.suspects and _is_same(gradient, other)
    ]
    if not same:
        return None
    given = listed([f"`{name}`" for name in same[:MAX_NAMED]])
    return Diagnosis(
        key=f"written_twice:{same[0]}",
        explanation=f"backprop is bit for bit the gradient of another tensor, {given}, which agrees; numerical is not",
        cause=f"the gradient of {given} is also written here, or both names share one array",
    )


def _is_same(one: Array, other: Array) -> bool:
    """Whether two gradients are equal bit for bit; of sharded ones a process sees a part only."""
    is_whole = not isinstance(one, ShardedArray) and not isinstance(other, ShardedArray)
    return is_whole and one.shape == other.shape and one.dtype == other.dtype and reductions.same_bits(one, other)
