"""Differences at steps that suit them, and evidence that survives another step.

A difference that disagrees with the gradient is measured again at shorter steps before it counts: a bug keeps its
ratio, a kink or truncation moves. Where something moves, everything is measured at shorter steps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard import noise
from gradguard.bench import Bench
from gradguard.differences import NOISE_OF_NUMERICAL, FourPoint
from gradguard.evidence import ALARM, Pairs
from gradguard.noise import Noise
from gradguard.parameters import Float64
from gradguard.probes import Probe

ROUNDS = 6  # of bettering the steps
PILOTS = 6
SHOWS = 3.0  # z3 of the pilots from which truncation is more than a chance of their noise
KINK = 25.0  # standard deviations of the noise by which the fourth difference shows a kink
SUSPICIOUS = 4.0  # standard deviations from which a difference is measured again
AGAIN = 64  # differences measured again
OTHER_STEPS = (1 / 2, 1 / 5)
MOVES = 5.0  # standard deviations by which a difference moves from step to step, and is no bug's
RETREATS = 5  # to shorter steps
QUIET = 1.7  # sigma in units of what was heard near x, up to which nothing but rounding is in it
LOUD = 3.0  # sigma in units of what was heard near x, from which the steps may be too long for a rough loss
CALMER = 0.6  # of sigma, at shorter steps, by which the loss is rough and not noisy
REPEATS = 9
CONFIRMED = 3  # disagreements that are measured so often
LASTING = 0.6  # of a disagreement that remains at a shorter step, if it is a bug's
NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2
NUDGED = 16  # differences measured there
ASTRAY = 2  # roundings all through a pass, in moves of the parameters by one roundoff

Measure = Callable[[NDArray[np.intp], Float64], FourPoint]


@dataclass(frozen=True, slots=True)
class Settled:
    """Differences at steps that suit them.

    Attributes:
        points: The differences, of K probes.
        sigma: The noise of the loss along these probes.
        rounding: Backprop's own rounding error along each, (K,).
        moved: How far n moved at other steps, (K,); 0 where it was not measured again.
        rough: Whether the loss is not smooth on the scale of the steps: then only single differences count.
        survives: Whether a disagreement is as clear at the shortest of the other steps.
    """

    points: FourPoint
    sigma: float
    rounding: Float64
    moved: Float64
    rough: bool = False
    survives: bool = False

    @property
    def pairs(self) -> Pairs:
        """The derivatives with their bars."""
        return Pairs.measured(self.points, self.sigma, self.rounding, self.moved)

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Where a step was found at which truncation is small, or small enough beside the derivative itself."""
        short_enough = self.points.truncation_in_noise(self.sigma) <= noise.TOO_LONG_Z3
        negligible = self.points.truncation_bar(self.sigma) <= 1e-3 * np.abs(self.points.numerical)
        return np.isfinite(self.points.n) & (short_enough | negligible) & ~self.kinked

    @property
    def kinked(self) -> NDArray[np.bool_]:
        """Where left and right slopes differ: the even part grows as the step, and not only as its square."""
        fourth = np.abs(self.points.fourth)
        return (fourth > KINK * self.sigma) & (fourth > np.abs(self.points.even1))

    @property
    def suspects(self) -> NDArray[np.intp]:
        """The probes, those first that disagree most with the gradient."""
        return np.argsort(np.where(self.resolved, -np.abs(self.pairs.z), 0.0), kind="stable")

    @property
    def largest(self) -> float:
        """The largest disagreement of a resolved difference, in standard deviations."""
        return float(np.abs(self.pairs.z[self.resolved]).max(initial=0.0))

    @property
    def significance(self) -> float:
        """How far the resolved differences are from the gradient, in standard deviations."""
        return self.pairs.where(self.resolved).significance(self.rough)


def settle(bench: Bench, name: str, chosen: Sequence[Probe], rounding: float, heard: Noise) -> Settled:
    """Differences of one tensor along some probes, at steps that suit them.

    Args:
        bench: What to measure with.
        name: The tensor.
        chosen: K probes.
        rounding: Backprop's own rounding error along each.
        heard: The noise of the loss near the unperturbed parameters.
    """

    def measure(which: NDArray[np.intp], steps: Float64) -> FourPoint:
        return bench.measure(name, [chosen[i] for i in which], steps)

    array = bench.objective.space.arrays[name]
    shortest = 64 * float(np.spacing(np.abs(array[np.isfinite(array)]).max(initial=0)))
    points, sigma = _adapted(measure, len(chosen), bench.start_step(name), shortest, heard, bench.roundoff)
    settled = Settled(points, sigma, np.full(len(chosen), rounding), np.zeros(len(chosen)))
    is_loud = sigma > QUIET * heard.sigma
    settled = replace(settled, rough=is_loud or bool((~settled.resolved).any()))
    for _ in range(RETREATS):
        moves = False
        if settled.significance > SUSPICIOUS:
            settled, moves = _measured_again(settled, measure)
        if not moves and settled.sigma <= LOUD * heard.sigma:
            break
        nearer = _retreated(settled, measure, shortest, heard)
        if not moves and nearer.sigma > CALMER * settled.sigma:
            break
        settled = nearer
    if settled.significance > ALARM:
        settled = replace(settled, rounding=_amplified(bench, name, chosen, settled))
    if settled.largest > ALARM and not (settled.survives or _repeats(settled, measure)):
        return replace(settled, rough=True, moved=np.abs(settled.points.n - settled.points.g))
    return settled


def _retreated(settled: Settled, measure: Measure, shortest: float, heard: Noise) -> Settled:
    """The same differences at shorter steps, where a rough loss is smoother."""
    steps = np.maximum(settled.points.step * min(OTHER_STEPS), shortest)
    points = measure(np.arange(steps.size), steps).recentred()
    sigma = noise.from_fourth_differences(points, heard.sigma, heard.floor)
    return Settled(points, sigma, settled.rounding, np.zeros(steps.size), rough=True)


def _adapted(
    measure: Measure, count: int, step: float, shortest: float, heard: Noise, roundoff: float
) -> tuple[FourPoint, float]:
    """Differences at steps where truncation just shows, found probe by probe, and sigma."""
    everywhere = np.arange(count)
    start, sigma = _pilot(measure, everywhere[:: -(-count // PILOTS)], step, shortest, heard)
    points = measure(everywhere, np.full(count, start))
    for _ in range(ROUNDS):
        sigma = min(sigma, noise.from_fourth_differences(points, heard.sigma, heard.floor))
        steps = np.maximum(_next_steps(points, sigma, roundoff), shortest)
        redone = steps != points.step
        if not redone.any():
            break
        points = points.where(redone, measure(everywhere[redone], steps[redone]))
    calm = points.take(points.truncation_in_noise(sigma) <= noise.TOO_LONG_Z3)
    return points.recentred(), noise.from_fourth_differences(calm, sigma, heard.floor)


def _pilot(
    measure: Measure, which: NDArray[np.intp], step: float, shortest: float, heard: Noise
) -> tuple[float, float]:
    """The step at which truncation just shows for a few probes of the tensor, and sigma.

    The fourth difference holds noise at short steps, and truncation too at long ones: the least of them is sigma.
    """
    sigma = np.inf
    for _ in range(ROUNDS + 2):
        step = max(step, shortest)
        points = measure(which, np.full(which.size, step))
        sigma = max(heard.sigma, min(sigma, noise.from_fourth_differences(points, heard.sigma, heard.floor)))
        moving = points.odd2 != 0
        z3 = np.quantile(points.truncation_in_noise(sigma)[moving], 0.75) if moving.any() else 0.0
        if not np.isfinite(z3):
            step /= 4
        elif z3 > noise.TOO_LONG_Z3:
            step /= float(np.clip((z3 / noise.TARGET_Z3) ** (1 / 3), 1.3, 10))
        elif z3 < SHOWS:
            step *= 3
        else:
            break
    return max(step, shortest), float(sigma)


def _next_steps(points: FourPoint, sigma: float, roundoff: float) -> Float64:
    """Each probe's better step; the same where its bar is already below backprop's own rounding."""
    z3 = points.truncation_in_noise(sigma)
    weak = np.abs(points.numerical) < 30 * NOISE_OF_NUMERICAL * sigma
    with np.errstate(invalid="ignore"):
        fine = points.bar(sigma) <= roundoff * np.nanmax(np.abs(points.n), initial=0.0)
    bent = np.abs(points.fourth) > KINK * sigma  # a kink, or a fourth derivative at too long a step
    better = np.where(bent & (z3 <= noise.TOO_LONG_Z3), points.step / 2, noise.better_step(points.step, z3, weak))
    return np.where(fine, points.step, better)


def _measured_again(settled: Settled, measure: Measure) -> tuple[Settled, bool]:
    """The differences that disagree most with the gradient, measured at other steps.

    Rounding noise is the same at every step. What grows with the step, in n or in the fourth difference, is of the
    loss itself.

    Returns:
        The differences with wider bars, and whether anything moves.
    """
    suspects = settled.suspects[:AGAIN]
    before = settled.points.take(suspects)
    noisy = noise.from_fourth_differences(before, settled.sigma, 0.0)
    moved, moves, survives = settled.moved.copy(), False, False
    for factor in OTHER_STEPS:
        again = measure(suspects, before.step * factor)
        distance = np.nan_to_num(np.abs(again.n - before.n), nan=np.inf)
        spread = NOISE_OF_NUMERICAL * settled.sigma * np.hypot(1 / before.length, 1 / again.length)
        grown = noisy / noise.from_fourth_differences(again, settled.sigma, 0.0)
        moves |= bool((distance > MOVES * spread).any()) or grown > 1 + 4 / np.sqrt(suspects.size)
        beyond = distance if settled.rough else np.maximum(0, distance - 3 * spread)
        moved[suspects] = np.maximum(moved[suspects], beyond)
        z = again.evidence(settled.sigma, settled.rounding[suspects])
        survives = bool((z * np.sign(before.n - before.g) > ALARM).any())
    return replace(settled, moved=moved, survives=survives), moves


def _repeats(settled: Settled, measure: Measure) -> bool:
    """Whether the worst disagreements hold at a third of the step, measured so often that it shows as clearly there."""
    for suspect in settled.suspects[:CONFIRMED]:
        before = settled.points.take(np.array([suspect]))
        steps = before.step * np.linspace(0.28, 0.39, REPEATS)
        again = measure(np.full(REPEATS, suspect), steps)
        lasting = float(np.mean(again.n)) - float(before.g[0])
        if abs(lasting) > LASTING * abs(before.n[0] - before.g[0]) and lasting * (before.n[0] - before.g[0]) > 0:
            return True
    return False


def _amplified(bench: Bench, name: str, chosen: Sequence[Probe], settled: Settled) -> Float64:
    """Backprop's own rounding error where the forward pass amplifies roundings, as a sharp recurrence does.

    Backprop follows the rounded forward pass. How far that leads it astray is how far the derivatives move when the
    parameters do by a rounding; they are moved further, so that it shows, and the effect is scaled back.
    """
    suspects = settled.suspects[:NUDGED]
    before = settled.points.take(suspects)
    furthest = np.zeros(suspects.size)
    for seed in range(NUDGES):
        with bench.nudged(NUDGE, seed) as nudged:
            after = nudged.measure(name, [chosen[i] for i in suspects], before.step)
        furthest = np.maximum(furthest, np.nan_to_num(np.abs(after.n - before.n), nan=np.inf))
    astray = ASTRAY * bench.unit / NUDGE * furthest
    rounding: Float64 = np.maximum(settled.rounding, np.sqrt(np.mean(astray**2)))
    rounding[suspects] = np.maximum(rounding[suspects], astray)
    return rounding
