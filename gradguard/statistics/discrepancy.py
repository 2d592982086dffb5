"""The discrepancy between numerical and backprop derivatives, and the floor that error bars put under it."""

import math

import numpy as np

from gradguard.arrays.types import Float64


def discrepancy_of(n: Float64, g: Float64) -> float:
    """D = ||n - g|| / (||n|| + ||g||): 0 for equal, 1 for opposite or unrelated in size; 0 where both are 0."""
    unit = max(float(np.abs(n).max(initial=0.0)), float(np.abs(g).max(initial=0.0)))
    if unit == 0:
        return 0.0
    n, g = n / unit, g / unit
    return norm(n - g) / (norm(n) + norm(g))


def floor_of(n: Float64, g: Float64, error: Float64, rounding: Float64) -> float:
    """The discrepancy that the error bars alone would give; inf where n and g are 0 and the bars are not."""
    total, bars = norm(n) + norm(g), norm(np.hypot(error, rounding))
    if total == 0:
        return math.inf if bars > 0 else 0.0
    return bars / total


def norm(values: Float64) -> float:
    """The Euclidean norm, in units of the largest value, so that squares neither overflow nor underflow."""
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.sum((values / largest) ** 2)))
