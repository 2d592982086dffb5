"""How many signs of numerical and backprop derivatives agree, of those that can be resolved."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64


@dataclass(frozen=True, slots=True)
class Signs:
    """Counts of signs.

    Attributes:
        agreeing: Entries whose two signs are resolved and equal.
        resolvable: Entries whose two signs are resolved.
    """

    agreeing: int
    resolvable: int

    @property
    def share(self) -> float:
        """Agreeing / resolvable; 1 if no sign is resolved, since none disagrees."""
        return self.agreeing / self.resolvable if self.resolvable else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Clopper-Pearson interval of `share`."""
        return clopper_pearson(self.agreeing, self.resolvable)


def resolvable_signs(n: Float64, g: Float64, error: Float64, rounding: Float64) -> NDArray[np.bool_]:
    """Where both signs are resolved: |n| is over three error bars, |g| over backprop's own rounding; all (m,)."""
    return (np.abs(n) > 3 * error) & (np.abs(g) > rounding)


def count_signs(n: Float64, g: Float64, error: Float64, rounding: Float64) -> Signs:
    """Sign agreement over the resolvable entries only; arguments of shape (m,)."""
    clear = resolvable_signs(n, g, error, rounding)
    return Signs(int(np.sum(np.sign(n[clear]) == np.sign(g[clear]))), int(clear.sum()))


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """The exact interval of a binomial share.

    Source: Clopper and Pearson 1934.
    """
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _root(lambda p: _upper_tail(successes, trials, p) - tail)
    high = 1.0 if successes == trials else _root(lambda p: tail - (1 - _upper_tail(successes + 1, trials, p)))
    return low, high


def _upper_tail(successes: int, trials: int, p: float) -> float:
    """The probability of at least so many successes."""
    k = np.arange(successes, trials + 1)
    log_choose = [math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in k]
    return float(np.exp(np.array(log_choose) + k * math.log(p) + (trials - k) * math.log1p(-p)).sum())


def _root(increasing: Callable[[float], float]) -> float:
    """The root of an increasing function between 0 and 1, by bisection."""
    low, high = 1e-12, 1 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return (low + high) / 2
