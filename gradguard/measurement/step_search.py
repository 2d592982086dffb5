"""The search for the step of each probe: where truncation just shows above the noise."""

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64
from gradguard.differences import (
    NOISE_OF_NUMERICAL,
    TARGET_Z3,
    TOO_LONG_Z3,
    FourPoint,
    Noise,
    better_step,
    dithered,
    noise,
)
from gradguard.loss import Search
from gradguard.measurement.measured import KINK, Measured, ProbePlan

ROUNDS = 6  # of improving the steps: four that may shorten a step and two that may lengthen it
CLEAR = 30.0  # standard deviations of n - g from which no longer step is tried: it would say the same
WORTH_A_TRY = 1.5  # ratio of a longer step to the present one below which it is not worth four evaluations
# Ratio of sigma to the noise near the parameters above which the steps may be too long for a loss that is not smooth.
TOO_NOISY = 3.0
QUIETER = 0.6  # ratio of sigma at a shorter step to sigma below which it was curvature and not noise


def measured_at_best_steps(plan: ProbePlan) -> Search[Measured]:
    """The differences along the probes of a plan, each at a step where truncation just shows, and their noise.

    The step is improved probe by probe. A longer step that proves too long is not taken; the next one to try is the
    geometric mean of it and the present one.
    """
    steps, everywhere = plan.steps, np.arange(len(plan.probes))
    start, sigma = steps.start, plan.noise.sigma
    if plan.pilots:
        start, sigma = yield from _pilot(plan, everywhere[:: -(-len(plan.probes) // plan.pilots)])
    points = yield from plan.measuring(everywhere, steps.clip(spread_steps(plan, start, len(plan.probes))))
    ceiling = np.full(len(plan.probes), np.inf)
    for _ in range(ROUNDS):
        sigma = min(sigma, noise.from_fourth_differences(points, plan.noise.sigma, plan.noise.floor))
        better = _next_steps(points, sigma, plan)
        better = steps.clip(np.where(points.loss_unchanged, steps.longest, better))
        better = np.where(better > points.step, np.minimum(better, np.sqrt(points.step * ceiling)), better)
        redone = (better < points.step) | (better > WORTH_A_TRY * points.step)
        if not redone.any():
            break
        newer = yield from plan.measuring(everywhere[redone], better[redone])
        tried = points.where(redone, newer)
        too_long = (better > points.step) & redone & _is_too_long(tried, sigma)
        ceiling[too_long] = better[too_long]
        points = tried.where(too_long, points.take(too_long))
    short_enough = points.take(points.truncation_in_noise(sigma) <= TOO_LONG_Z3)
    sigma = noise.from_fourth_differences(short_enough, sigma, plan.noise.floor)
    return Measured.first(plan, recentred(points, plan.noise), sigma)


def spread_steps(plan: ProbePlan, step: float, count: int, octaves: float = 1.0) -> Float64:
    """Steps about one, dithered if the rules say so, shape (count,)."""
    return dithered(step, count, octaves) if plan.tensor.context.rules.dithered else np.full(count, step)


def recentred(points: FourPoint, near: Noise) -> FourPoint:
    """The differences without the noise of L(0), unless what they share comes from kinks.

    Args:
        points: The differences.
        near: The noise of the loss near the parameters.
    """
    return points if points.corners(near.floor).any() else points.recentred(TOO_NOISY * near.sigma)


def _pilot(plan: ProbePlan, which: NDArray[np.intp]) -> Search[tuple[float, float]]:
    """The step at which truncation just shows for a few of the probes, and sigma.

    The step rises until truncation shows beyond doubt, since a few quanta may pass for truncation, and then comes down.
    The fourth difference holds noise at short steps, and curvature too at long ones: its minimum gives sigma.
    """
    near, steps = plan.noise, plan.steps
    step, sigma, before, rising = steps.start, np.inf, np.inf, True
    for _ in range(ROUNDS + 2):
        points = yield from plan.measuring(which, steps.clip(spread_steps(plan, step, which.size)))
        apparent = noise.from_fourth_differences(points, near.sigma, near.floor)
        curved = apparent > TOO_NOISY * near.sigma and apparent < QUIETER * before
        sigma, before = max(near.sigma, min(sigma, apparent)), apparent
        changed = points.odd2 != 0
        z3 = np.quantile(points.truncation_in_noise(sigma)[changed], 0.75) if changed.any() else 0.0
        if z3 > TOO_LONG_Z3 and np.isfinite(z3):
            factor, rising = 1 / float(np.clip((z3 / TARGET_Z3) ** (1 / 3), 1.3, 10)), False
        elif curved or not np.isfinite(z3):
            factor, rising = 1 / 4, False
        elif rising:
            factor = 3.0
        else:
            break
        previous, step = step, float(steps.clip(factor * step))
        if step == previous:
            break
    return step, float(sigma)


def _is_too_long(points: FourPoint, sigma: float) -> NDArray[np.bool_]:
    """Whether truncation, or a fourth difference larger than usual curvature makes, shows beyond doubt."""
    return np.asarray(~(points.truncation_in_noise(sigma) <= TOO_LONG_Z3) | _is_nonquadratic(points, sigma))


def _is_nonquadratic(points: FourPoint, sigma: float) -> NDArray[np.bool_]:
    """Whether the fourth difference shows a kink, or a fourth derivative at too long a step."""
    return np.asarray(np.abs(points.recentred(sigma).fourth) > KINK * sigma)


def _next_steps(points: FourPoint, sigma: float, plan: ProbePlan) -> Float64:
    """A better step for each probe; the same step where its error bar is already below backprop's rounding error."""
    z3, roundoff = points.truncation_in_noise(sigma), plan.tensor.context.roundoff
    with np.errstate(invalid="ignore"):
        fine = points.bar(sigma) <= roundoff * np.nanmax(np.abs(points.n), initial=0.0)
        clear = np.abs(points.evidence(sigma, plan.rounding)) > CLEAR
    weak = ~clear & (np.abs(points.numerical) < plan.enough * NOISE_OF_NUMERICAL * sigma)
    nonquadratic = _is_nonquadratic(points, sigma) & (z3 <= TOO_LONG_Z3)
    better = np.where(nonquadratic, points.step / 2, better_step(points.step, z3, weak))
    return np.where(fine, points.step, better)
