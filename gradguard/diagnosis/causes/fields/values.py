"""Entries of known arrays at chosen places, and the rounding error of gradients there."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gradguard.arrays import Array, Float64, reductions
from gradguard.diagnosis.causes.fields.fit import Fit, Prediction, fitted
from gradguard.diagnosis.causes.symptoms import Symptoms
from gradguard.report import Verdict

Index = tuple[int, ...]
UNEXPLAINED = (Verdict.structure, Verdict.spurious, Verdict.missing)


def is_unexplained(tensor: Symptoms) -> bool:
    """Whether no factor and no clip explains the error, and single entries were measured."""
    return tensor.verdict in UNEXPLAINED and tensor.evidence.entries.size > 1


def values_at(array: Array, places: Sequence[Index]) -> Float64:
    """The entries of an array at some places, whichever process holds them."""
    return np.array([float(array[place]) for place in places], np.float64)


def gradient_of(tensor: Symptoms) -> Array | None:
    """The whole gradient of the tensor; None where only its sampled entries are known."""
    gradient = tensor.surroundings.gradients.get(tensor.evidence.name)
    return gradient if gradient is not None and gradient.shape == tensor.evidence.shape else None


def rearranged(tensor: Symptoms, source: Array, places: Sequence[Index]) -> Fit | None:
    """The fit of n by the entries of a gradient at other places, as they are.

    Args:
        tensor: The tensor.
        source: The gradient, of this tensor or another.
        places: Where in the source each measured entry is to be found.
    """
    values = values_at(source, places)
    if not np.isfinite(values).all() or np.array_equal(values, tensor.evidence.entries.g):
        return None
    nothing = np.empty((values.size, 0))
    prediction = Prediction(values, nothing, rounding_of(tensor, source), is_rearranged=True)
    return fitted(tensor.evidence.entries, prediction, tensor.evidence.rules)


def rounding_of(tensor: Symptoms, source: Array) -> Float64:
    """Backprop's rounding error in the entries of another gradient: the same relative to the largest of each."""
    entries = tensor.evidence.entries
    own = reductions.largest_magnitude(tensor.surroundings.gradients[tensor.evidence.name])
    other = reductions.largest_magnitude(source)
    scale = max(1.0, other / own) if own else 1.0
    return entries.rounding * scale


def first_convincing(candidates: Iterator[tuple[str, Callable[[], Fit | None]]]) -> tuple[str, Fit] | None:
    """The first candidate whose fit convinces, with its fit."""
    for label, fit_of in candidates:
        fit = fit_of()
        if fit is not None and fit.is_convincing:
            return label, fit
    return None
