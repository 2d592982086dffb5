"""How noisy the loss is, and the step that suits it.

The rounding noise of a loss is no fixed multiple of its last digit: 0.005 to 73 units in the last place were seen. It
is measured, never assumed. sigma is always the standard deviation of one evaluation of the (reduced) loss.
"""

from typing import Any

import numpy as np

from gradguard.differences import NOISE_OF_FOURTH, FourPoint
from gradguard.loss import Objective
from gradguard.parameters import Float64

JITTER = 256  # in unit roundoffs: closer points share their rounding errors
PAIRS = 6
TARGET_Z3 = 3.5  # the step is best where truncation just shows
TOO_LONG_Z3 = 6.0
TOO_SHORT_Z3 = 2.0


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Half the distance from 1 to the next number: 2^-24 for float32."""
    return float(np.finfo(dtype).eps) / 2


def resolution(values: Float64, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The coarsest dtype that holds all the values: a float32 loss is often handed over as a Python float.

    Args:
        values: Losses, shape (any,).
        dtype: What they came as.
    """
    candidates = [np.dtype(kind) for kind in (np.float16, np.float32) if np.dtype(kind).itemsize < dtype.itemsize]
    with np.errstate(over="ignore"):
        fits = (kind for kind in candidates if np.array_equal(values.astype(kind).astype(np.float64), values))
        return next(fits, dtype if dtype.kind == "f" else np.dtype(np.float64))


def quantum(values: Float64, dtype: np.dtype[Any]) -> Float64:
    """The distance from each value to the next one of its dtype, in float64."""
    spacing: Float64 = np.spacing(np.abs(values).astype(dtype)).astype(np.float64)
    return spacing


def rounding_floor(objective: Objective, centre: Float64, dtype: np.dtype[Any]) -> float:
    """The sigma that rounding each loss to its dtype adds by itself: its quantum over sqrt(12)."""
    return objective.spread(quantum(centre, dtype)) / float(np.sqrt(12))


def jitter(objective: Objective, name: str, centre: Float64, rng: np.random.Generator) -> tuple[float, np.dtype[Any]]:
    """sigma, and the dtype of the loss's values, from antithetic pairs of points some hundred roundoffs from x.

    The sum of the losses at x + e and x - e is free of the slope, so that its variance is that of the noise. Twelve
    evaluations.

    Source: Shi, Xie, Xuan and Nocedal 2022 (10.1137/21M1452470) discuss such sampling; the spacing is measured.
    """
    sums, seen = [], [centre]
    with objective.space.moving(name) as (array, base):
        roundoff = unit_roundoff(base.dtype)
        for _ in range(PAIRS):
            offset = JITTER * roundoff * rng.standard_normal(base.shape) * base
            pair = []
            for sign in (1, -1):
                array[...] = base + sign * offset
                pair.append(objective())
            sums.append(objective.total(pair[0] + pair[1] - 2 * centre))
            seen += pair
    dtype = resolution(np.concatenate(seen), objective.dtype)
    sigma = float(np.std(sums, ddof=1) / np.sqrt(2))
    return max(sigma, rounding_floor(objective, centre, dtype)), dtype


def from_fourth_differences(points: FourPoint, prior: float, floor: float) -> float:
    """Sigma from the fourth differences of many probes: their winsorised RMS about their mean.

    Args:
        points: Differences at steps where truncation hardly shows.
        prior: An earlier sigma; it counts as much as six of the differences.
        floor: sigma is not less than that.
    """
    fourth = points.fourth[np.isfinite(points.fourth)]
    if fourth.size < 2:
        return max(prior, floor)
    deviation = fourth - np.median(fourth)
    variance = max((np.median(np.abs(deviation)) / 0.6745) ** 2 / NOISE_OF_FOURTH**2, floor**2)
    for _ in range(4):
        variance = 1.02 * np.mean(np.minimum(deviation**2 / NOISE_OF_FOURTH**2, 9 * variance))
        variance = max(variance, floor**2)
    pooled = (fourth.size * variance + PAIRS * prior**2) / (fourth.size + PAIRS)
    return max(float(np.sqrt(pooled)), floor)


def better_step(step: Float64, z3: Float64, weak: "np.ndarray[Any, np.dtype[np.bool_]]") -> Float64:
    """The step to measure with again: shorter where truncation shows, longer where only noise does.

    Args:
        step: h, shape (K,).
        z3: Truncation in standard deviations of its noise; not finite where the loss overflowed.
        weak: Where the difference itself is not yet clear of the noise.
    """
    shorter = step / np.clip((z3 / TARGET_Z3) ** (1 / 3), 1.3, 4)
    longer = np.where(weak & (z3 < TOO_SHORT_Z3), 2.5 * step, step)
    return np.where(np.isfinite(z3), np.where(z3 > TOO_LONG_Z3, shorter, longer), step / 4)


def next_step(step: float, z3: float) -> float:
    """The step of the next routine check: it creeps to where truncation just shows."""
    if not np.isfinite(z3) or z3 > TOO_LONG_Z3:
        return step / float(np.clip((z3 / 4) ** (1 / 3), 1.15, 3)) if np.isfinite(z3) else step / 3
    return 1.25 * step if z3 < TOO_SHORT_Z3 else step


def updated_variance(variance: float, fourth: float, checks: int) -> float:
    """The running noise variance after one more fourth difference (all five points): an average of the last thirty.

    Args:
        variance: Before.
        fourth: x4, whose variance is 70 sigma^2.
        checks: How many fourth differences came before; the average is faster at first.
    """
    weight = max(0.03, 1 / (checks + 8))
    return (1 - weight) * variance + weight * 1.02 * min(fourth**2 / 70, 9 * variance)
