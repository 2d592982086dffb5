"""How well numerical and backprop gradients agree, each number with its uncertainty.

Throughout, n and g are numerical and backprop derivatives of m entries or directions, `error` is the error bar of n and
`rounding` backprop's own rounding error, in the units of g; all of shape (m,).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64

HUBER = 1.5
CLEAR = 3.0  # standard deviations of n - g in g, from which an entry counts towards a factor
LEAST = 1e-150  # error bar, in the largest n: dividing by it, and squaring, overflows for no derivative


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


def evidence_of_factor(n: Float64, g: Float64, error: Float64, rounding: Float64) -> float:
    """How many standard deviations the one factor between n and g is from 1: the score test, with Huber's weights.

    It asks what the data would be if the factor were 1, so that a g of mere rounding is not taken for a small factor.
    What is below the noise is left out: a loss with a coarse quantum does not move there at all, for no entry.
    """
    deviation = np.hypot(error, rounding)
    used = np.isfinite(n) & (np.abs(g) > CLEAR * deviation) & (deviation > 0)
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


@dataclass(frozen=True, slots=True)
class Signs:
    """How many signs could be told, and how many agree."""

    agreeing: int
    resolvable: int

    @property
    def share(self) -> float:
        """Agreeing / resolvable; 1 where none could be told, since none disagrees."""
        return self.agreeing / self.resolvable if self.resolvable else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval of `share`."""
        return clopper_pearson(self.agreeing, self.resolvable)


def resolvable_signs(n: Float64, g: Float64, error: Float64, rounding: Float64) -> NDArray[np.bool_]:
    """Where both signs can be told: |n| over three error bars, |g| over backprop's own rounding."""
    return (np.abs(n) > 3 * error) & (np.abs(g) > rounding)


def count_signs(n: Float64, g: Float64, error: Float64, rounding: Float64) -> Signs:
    """Sign agreement over the resolvable entries only."""
    clear = resolvable_signs(n, g, error, rounding)
    return Signs(int(np.sum(np.sign(n[clear]) == np.sign(g[clear]))), int(clear.sum()))


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a binomial share.

    Source: Clopper and Pearson 1934.
    """
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _bisect(lambda p: _upper_tail(successes, trials, p) - tail)
    high = 1.0 if successes == trials else _bisect(lambda p: tail - (1 - _upper_tail(successes + 1, trials, p)))
    return low, high


def _upper_tail(successes: int, trials: int, p: float) -> float:
    k = np.arange(successes, trials + 1)
    log_choose = [math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in k]
    return float(np.exp(np.array(log_choose) + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


def _bisect(increasing: Callable[[float], float]) -> float:
    low, high = 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return (low + high) / 2
