"""The one factor between numerical and backprop derivatives, with its error and the evidence that it is not 1.

Throughout, n and g are numerical and backprop derivatives along m entries or directions, `error` is the error bar of n,
and `rounding` is backprop's own rounding error, in the units of g; all of shape (m,).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Float64
from gradguard.statistics.discrepancy import norm

HUBER = 1.5  # deviations beyond which a residual loses weight; 97 % of the intervals held the factor on LSTMs
ITERATIONS = 30  # of reweighted least squares; with three wrong entries of sixty 0.0014 standard errors were left
SMALLEST = 1e-150  # error bar in the largest n, and g in the largest g: dividing by it, and squaring, never overflows


@dataclass(frozen=True, slots=True)
class Ratio:
    """The one factor k that makes n closest to k g, and how pure that relation is.

    Attributes:
        value: k = n / g, pooled; nan where g is 0.
        error: One standard error of k.
        purity: The reduced chi^2 of n - k g: about 1 or less if one factor explains all of n.
        worst: The largest |n - k g| in error bars.
    """

    value: float
    error: float
    purity: float
    worst: float


def fit_ratio(n: Float64, g: Float64, error: Float64, rounding: Float64, proportional: Float64 | None = None) -> Ratio:
    """N / g by a robust fit: from the weighted median, with Huber's weights and a sandwich standard error.

    Backprop's own rounding may push all entries the same way, so it does not average out.

    Source: Huber 1964; the sandwich is not let below the Fisher error.

    Args:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error.
        proportional: The part of `rounding` that is in proportion to g; all of it unless given. The rest is of the
            forward pass, which n and g share: a g that is too small by a factor has so much less of it.
    """
    used = np.isfinite(n) & (g != 0) & (np.abs(g) >= SMALLEST * np.abs(g).max(initial=0.0))
    if not used.any():
        return Ratio(math.nan, math.inf, math.nan, math.nan)
    proportional = (rounding if proportional is None else proportional)[used]
    n, g, rounding = n[used], g[used], rounding[used]
    error = np.maximum(error[used], 1e-15 * np.maximum(np.abs(n), np.abs(g)))
    # In units of the largest of each, nothing overflows or underflows when it is squared.
    unit_n, unit_g = float(max(np.abs(n).max(), error.max())) or 1.0, float(np.abs(g).max())
    n, error, g = n / unit_n, np.maximum(error / unit_n, SMALLEST), g / unit_g
    shared = np.sqrt(np.maximum(0.0, rounding**2 - proportional**2)) / unit_n
    rounding, proportional = rounding / unit_n, proportional / unit_g

    def deviation_at(k: float) -> Float64:
        deviation: Float64 = np.hypot(error, np.hypot(shared, abs(k) * proportional))
        return deviation

    k, weight, deviation = _huber_fit(n, g, _weighted_median(n, g, np.hypot(error, rounding)), deviation_at)
    residual = (n - k * g) / deviation
    information = float(np.sum(weight * g**2))
    fisher = 1 / norm(g / deviation)
    sandwich = norm(weight * g * (n - k * g)) / information
    coherent = float(np.sum(weight * np.abs(g) * np.maximum(shared, abs(k) * proportional))) / information
    purity = float(np.sum(residual**2)) / max(1, n.size - 1)
    value, spread = k, math.hypot(max(fisher, sandwich), coherent / 2)
    with np.errstate(over="ignore"):
        value, spread = np.array([value, spread]) * np.float64(unit_n) / unit_g
    return Ratio(float(value), float(spread), purity, float(np.abs(residual).max()))


def _huber_fit(
    n: Float64, g: Float64, start: float, deviation_at: Callable[[float], Float64]
) -> tuple[float, Float64, Float64]:
    """Huber's estimate of k by reweighted least squares; k, and the weights and deviations of n - k g, (m,) each.

    Args:
        n: Numerical.
        g: Backprop.
        start: The first k.
        deviation_at: The deviations of n - k g for some k.
    """
    k = start
    for _ in range(ITERATIONS):
        deviation = deviation_at(k)
        weight = (
            np.minimum(1, HUBER / np.maximum(np.abs(n - k * g) / deviation, HUBER)) * (deviation.min() / deviation) ** 2
        )
        previous, k = k, float(np.sum(weight * g * n) / np.sum(weight * g**2))
        if abs(k - previous) <= 1e-14 * abs(k):
            break
    return k, weight, deviation


def evidence_of_factor(n: Float64, g: Float64, error: Float64, rounding: Float64, min_slope: float) -> float:
    """How many standard deviations the one factor between n and g is from 1: a score test with Huber's weights.

    It asks how likely the data are if the factor is 1, so that a g of mere rounding is not taken for a small factor.
    Entries below the noise are left out: a loss with a coarse quantum does not move there at all.

    Args:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error.
        min_slope: Standard deviations of n - g that |g| must exceed for an entry to count (`Rules.factor_clear`).
    """
    deviation = np.hypot(error, rounding)
    used = np.isfinite(n) & (np.abs(g) > min_slope * deviation) & (deviation > 0)
    if not used.any():
        return 0.0
    deviation = deviation[used]
    residual, slope = (n - g)[used] / deviation, g[used] / deviation
    weight = np.minimum(1, HUBER / np.maximum(np.abs(residual), HUBER))
    coherent = float(np.sum(weight * np.abs(slope) * rounding[used] / deviation)) / 2
    return abs(float(np.sum(slope * np.clip(residual, -HUBER, HUBER)))) / math.hypot(norm(slope), coherent)


def _weighted_median(n: Float64, g: Float64, deviation: Float64) -> float:
    """The median of n / g, each weighted by |g| / deviation."""
    with np.errstate(over="ignore"):
        values = n / g
    order = np.argsort(values)
    weights = np.abs(g[order]) / deviation[order]
    cumulative = np.cumsum(weights / weights.max())
    return float(np.nan_to_num(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)]))
