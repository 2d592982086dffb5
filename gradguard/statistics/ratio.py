"""How well numerical and backprop gradients agree, each number with its uncertainty.

Throughout, n and g are numerical and backprop derivatives of m entries or directions, `error` is the error bar of n and
`rounding` backprop's own rounding error, in the units of g; all of shape (m,).
"""

import math
from dataclasses import dataclass

import numpy as np

from gradguard.arrays.types import Float64
from gradguard.statistics.discrepancy import norm

HUBER = 1.5
LEAST = 1e-150  # error bar, in the largest n: dividing by it, and squaring, overflows for no derivative


@dataclass(frozen=True, slots=True)
class Ratio:
    """The one factor k that makes n closest to k g, and how pure that relation is.

    Attributes:
        value: k = n / g, pooled; nan where g is 0.
        error: One standard error of k.
        purity: The reduced chi^2 of n - k g: about 1 or less where one factor says it all.
        worst: The largest |n - k g| in error bars.
    """

    value: float
    error: float
    purity: float
    worst: float


def fit_ratio(n: Float64, g: Float64, error: Float64, rounding: Float64, own: Float64 | None = None) -> Ratio:
    """N / g by a robust fit: from the weighted median, Huber's weights, and a sandwich standard error.

    Backprop's own rounding may push all entries the same way, and does not average out.

    Source: Huber 1964; the sandwich is not let below the Fisher error.

    Args:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error.
        own: Of `rounding`, what is in proportion to g; all of it unless given. The rest is of the forward pass, which n
            and g share: a g that is too small by a factor has so much less of it.
    """
    used = np.isfinite(n) & (g != 0) & (np.abs(g) >= LEAST * np.abs(g).max(initial=0.0))
    if not used.any():
        return Ratio(math.nan, math.inf, math.nan, math.nan)
    own = (rounding if own is None else own)[used]
    n, g, rounding = n[used], g[used], rounding[used]
    error = np.maximum(error[used], 1e-15 * np.maximum(np.abs(n), np.abs(g)))
    # In units of the largest of each, nothing overflows or underflows when it is squared.
    unit_n, unit_g = float(max(np.abs(n).max(), error.max())) or 1.0, float(np.abs(g).max())
    n, error, g = n / unit_n, np.maximum(error / unit_n, LEAST), g / unit_g
    astray, relative = rounding / unit_n, own / unit_g
    shared = np.where(rounding > own, astray, 0.0)
    k = _weighted_median(n, g, np.hypot(error, astray))
    for _ in range(30):
        deviation = np.hypot(error, np.maximum(astray, abs(k) * relative))
        weight = (
            np.minimum(1, HUBER / np.maximum(np.abs(n - k * g) / deviation, HUBER)) * (deviation.min() / deviation) ** 2
        )
        previous, k = k, float(np.sum(weight * g * n) / np.sum(weight * g**2))
        if abs(k - previous) <= 1e-14 * abs(k):
            break
    residual = (n - k * g) / deviation
    information = float(np.sum(weight * g**2))
    fisher = 1 / norm(g / deviation)
    sandwich = norm(weight * g * (n - k * g)) / information
    coherent = float(np.sum(weight * np.abs(g) * np.maximum(shared, abs(k) * relative))) / information
    purity = float(np.sum(residual**2)) / max(1, n.size - 1)
    value, spread = k, math.hypot(max(fisher, sandwich), coherent / 2)
    with np.errstate(over="ignore"):
        value, spread = np.array([value, spread]) * np.float64(unit_n) / unit_g
    return Ratio(float(value), float(spread), purity, float(np.abs(residual).max()))


def evidence_of_factor(n: Float64, g: Float64, error: Float64, rounding: Float64, clear: float) -> float:
    """How many standard deviations the one factor between n and g is from 1: the score test, with Huber's weights.

    It asks what the data would be if the factor were 1, so that a g of mere rounding is not taken for a small factor.
    What is below the noise is left out: a loss with a coarse quantum does not move there at all, for no entry.

    Args:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error.
        clear: Standard deviations of n - g in g from which an entry counts (`Rules.factor_clear`).
    """
    deviation = np.hypot(error, rounding)
    used = np.isfinite(n) & (np.abs(g) > clear * deviation) & (deviation > 0)
    if not used.any():
        return 0.0
    deviation = deviation[used]
    residual, slope = (n - g)[used] / deviation, g[used] / deviation
    weight = np.minimum(1, HUBER / np.maximum(np.abs(residual), HUBER))
    coherent = float(np.sum(weight * np.abs(slope) * rounding[used] / deviation)) / 2
    return abs(float(np.sum(slope * np.clip(residual, -HUBER, HUBER)))) / math.hypot(norm(slope), coherent)


def _weighted_median(n: Float64, g: Float64, deviation: Float64) -> float:
    """The median of n / g, each weighted by how well it is known."""
    with np.errstate(over="ignore"):
        values = n / g
    order = np.argsort(values)
    weights = np.abs(g[order]) / deviation[order]
    cumulative = np.cumsum(weights / weights.max())
    return float(np.nan_to_num(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)]))
