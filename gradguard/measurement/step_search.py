"""The search for the step of each probe: where truncation just shows above the noise."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64
from gradguard.differences import noise
from gradguard.differences.four_point import NOISE_OF_NUMERICAL, FourPoint
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import TARGET_Z3, TOO_LONG_Z3, Steps, better_step, dithered
from gradguard.loss.interleaving import Search
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.measured import KINK
from gradguard.perturbation.directions import Probe

ROUNDS = 6  # of bettering the steps
PILOTS = 3
WORTH_A_TRY = 1.5  # times the step, below which a longer one gains too little
WEAK = 30.0  # standard deviations of a difference, up to which a longer step is worth four more evaluations
LOUD = 3.0  # sigma in units of what was heard near x, from which the steps may be too long for a rough loss
CALMER = 0.6  # of sigma, at shorter steps, by which the loss is rough and not noisy
Measuring = Callable[[NDArray[np.intp], Float64], Search[FourPoint]]


@dataclass(frozen=True, slots=True)
class Adapted:
    """Differences at steps that suit them.

    Attributes:
        points: The differences.
        sigma: The noise of the loss along them.
    """

    points: FourPoint
    sigma: float


def adapted(
    context: MeasurementContext,
    name: str,
    chosen: Sequence[Probe],
    heard: Noise,
    steps: Steps,
    enough: float = WEAK,
    pilots: int = PILOTS,
) -> Search[Adapted]:
    """Differences of one tensor along some probes, at steps where truncation just shows, and sigma.

    They are found probe by probe. A longer step that proves too long is not taken, and the next to try is half-way
    there.

    Args:
        context: What to measure with.
        name: The tensor.
        chosen: K probes.
        heard: The noise of the loss near the unperturbed parameters.
        steps: The steps to try.
        enough: Standard deviations of a difference from which no longer step is tried.
        pilots: How many of them find the step that all of them begin with.
    """

    def measuring(which: NDArray[np.intp], at: Float64) -> Search[FourPoint]:
        return context.measuring(name, [chosen[i] for i in which], at)

    everywhere = np.arange(len(chosen))
    start, sigma = yield from _pilot(measuring, everywhere[:: -(-len(chosen) // pilots)], steps, heard)
    points = yield from measuring(everywhere, steps.clip(dithered(start, len(chosen))))
    ceiling = np.full(len(chosen), np.inf)
    for _ in range(ROUNDS):
        sigma = min(sigma, noise.from_fourth_differences(points, heard.sigma, heard.floor))
        better = _next_steps(points, sigma, context.roundoff, enough)
        better = steps.clip(np.where(points.loss_unchanged, steps.longest, better))
        better = np.where(better > points.step, np.minimum(better, np.sqrt(points.step * ceiling)), better)
        redone = (better < points.step) | (better > WORTH_A_TRY * points.step)
        if not redone.any():
            break
        newer = yield from measuring(everywhere[redone], better[redone])
        tried = points.where(redone, newer)
        overdone = (better > points.step) & redone & _is_too_long(tried, sigma)
        ceiling[overdone] = better[overdone]
        points = tried.where(overdone, points.take(overdone))
    calm = points.take(points.truncation_in_noise(sigma) <= TOO_LONG_Z3)
    return Adapted(_recentred(points, heard), noise.from_fourth_differences(calm, sigma, heard.floor))


def _recentred(points: FourPoint, heard: Noise) -> FourPoint:
    """The differences freed of the noise of L(0), where what they share is not corners."""
    return points if points.corners(heard.floor).any() else points.recentred(LOUD * heard.sigma)


def _pilot(measuring: Measuring, which: NDArray[np.intp], steps: Steps, heard: Noise) -> Search[tuple[float, float]]:
    """The step at which truncation just shows for a few probes of the tensor, and sigma.

    It rises until truncation shows beyond doubt, since a few quanta may pass for it, and then comes down. The fourth
    difference holds noise at short steps, and truncation too at long ones: the least of them is sigma.
    """
    step, sigma, before, rising = steps.start, np.inf, np.inf, True
    for _ in range(ROUNDS + 2):
        points = yield from measuring(which, steps.clip(dithered(step, which.size)))
        seeming = noise.from_fourth_differences(points, heard.sigma, heard.floor)
        too_nonquadratic = seeming > LOUD * heard.sigma and seeming < CALMER * before
        sigma, before = max(heard.sigma, min(sigma, seeming)), seeming
        moving = points.odd2 != 0
        z3 = np.quantile(points.truncation_in_noise(sigma)[moving], 0.75) if moving.any() else 0.0
        if z3 > TOO_LONG_Z3 and np.isfinite(z3):
            factor, rising = 1 / float(np.clip((z3 / TARGET_Z3) ** (1 / 3), 1.3, 10)), False
        elif too_nonquadratic or not np.isfinite(z3):
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
    """Whether truncation shows beyond doubt, or more than the usual bend does."""
    return np.asarray(~(points.truncation_in_noise(sigma) <= TOO_LONG_Z3) | _is_nonquadratic(points, sigma))


def _is_nonquadratic(points: FourPoint, sigma: float) -> NDArray[np.bool_]:
    """Whether the fourth difference shows a kink, or a fourth derivative at too long a step."""
    return np.asarray(np.abs(points.recentred(sigma).fourth) > KINK * sigma)


def _next_steps(points: FourPoint, sigma: float, roundoff: float, enough: float) -> Float64:
    """Each probe's better step; the same where its bar is already below backprop's own rounding."""
    z3 = points.truncation_in_noise(sigma)
    weak = np.abs(points.numerical) < enough * NOISE_OF_NUMERICAL * sigma
    with np.errstate(invalid="ignore"):
        fine = points.bar(sigma) <= roundoff * np.nanmax(np.abs(points.n), initial=0.0)
    nonquadratic = _is_nonquadratic(points, sigma) & (z3 <= TOO_LONG_Z3)
    better = np.where(nonquadratic, points.step / 2, better_step(points.step, z3, weak))
    return np.where(fine, points.step, better)
