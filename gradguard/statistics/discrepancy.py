"""The discrepancy between numerical and backprop derivatives, and the floor that error bars put under it."""

import math

import numpy as np

from gradguard.arrays import Float64


def discrepancy_of(n: Float64, g: Float64) -> float:
    """D = ||n - g|| / (||n|| + ||g||): 0 if they are equal, 1 if they are opposite or one is 0; 0 if both are 0.

    Args:
        n: Numerical derivatives, shape (m,).
        g: Backprop's, shape (m,).
    """
    unit = max(float(np.abs(n).max(initial=0.0)), float(np.abs(g).max(initial=0.0)))
    if unit == 0:
        return 0.0
    n, g = n / unit, g / unit
    return norm(n - g) / (norm(n) + norm(g))


def floor_of(n: Float64, g: Float64, error: Float64, rounding: Float64) -> float:
    """The discrepancy that the error bars alone would give; inf if n and g are 0 and the bars are not.

    Args:
        n: Numerical derivatives, shape (m,).
        g: Backprop's, shape (m,).
        error: The error bars of n, shape (m,).
        rounding: Backprop's own rounding error, in the units of g, shape (m,).
    """
    total, bars = norm(n) + norm(g), norm(np.hypot(error, rounding))
    if total == 0:
        return math.inf if bars > 0 else 0.0
    return bars / total


def norm(values: Float64) -> float:
    """The Euclidean norm: inf or nan if an entry is, unlike `gradguard.arrays.reductions.norm_of_finite`.

    It is computed in units of the largest value, so that no square overflows or underflows.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.sum((values / largest) ** 2)))
