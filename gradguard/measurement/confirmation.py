"""Disagreements confirmed at other steps: a bug keeps its ratio at shorter steps, truncation and kinks do not."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64
from gradguard.differences import NOISE_OF_NUMERICAL, FourPoint, Steps, jumps, noise
from gradguard.measurement.amplification import with_amplification
from gradguard.measurement.measured import Measured
from gradguard.measurement.step_search import QUIETER, TOO_NOISY, recentred, spread_steps
from gradguard.statistics import norm

OTHER_STEPS = (1 / 2, 1 / 5)  # of the step, at which a disagreement is measured again; the last if it is `PLAIN`
PLAIN = 30.0  # standard deviations of a disagreement of which five times the noise leaves an alarm
SUSPECTS = 3  # differences measured again, at most: a bug that most of them do not show is none
MOVING = 2  # of them that must move before the loss, and not a step that is too long for one of them, is to blame
MOVED = 5.0  # standard deviations by which a difference moves between steps if truncation or a kink moves it
SHORTER = 3.0  # times shorter than the step: where a disagreement must persist
MUCH_SHORTER = 5.0  # times shorter than the step: where it must be as clear if the loss is not smooth
VISIBLE = 5.0  # standard deviations of a difference below which the losses are rounded alike at all steps
NEAREST = 1 / 400  # of the longest step: no network levels off so near
POOLED = 8  # differences that together may show a factor that no single one shows
SINGLE_SUSPECTS = 3  # disagreements that are each confirmed by many differences
KINK_PROBES = 8  # probes along which a kink at the parameters is looked for
KINK_REPEATS = 8  # differences along each of them, at steps within an octave
MOST_OCTAVES = 3.0  # that the steps of a search for kinks spread over
CLEAR_REPEATS = 4  # differences along one suspect, at least
MAX_JUMP = 1 / 4  # ratio of a jump in slope to n - g below which a kink does not explain it; a kink needs 2
CLEAR = 15.0  # standard deviations of a disagreement for which `MOST_REPEATS` show a jump of `MAX_JUMP`
PERSISTING = 0.6  # of a disagreement that remains at shorter steps if it is a bug; truncation leaves a ninth
SURE = 3.0  # standard deviations by which what remains must be clear of 0
QUIET = 2.0  # ratio of sigma to the noise near the parameters up to which it is rounding; 3 gave 5 bugs in 500 kinks
RETREAT = 1 / 5  # of the step, where a loss that is not smooth is smoother
UNRESOLVED = 0.1  # share of unresolved differences, of at least two, above which the loss is treated as not smooth
NOT_NOISE = 100.0  # ratio of sigma to the noise near the parameters above which it is unresolved curvature
CHAOS = 1e4  # ratio of sigma to one rounding of the loss above which the forward pass amplifies roundings too much


def confirm_measurement(measured: Measured, amplification: float | None = None) -> Measured:
    """The differences that count: suspects are measured again, and if the loss moves them, all are, at shorter steps.

    Args:
        measured: The differences along one kind of probe.
        amplification: How much larger backprop's rounding error is than its usual bound, where other probes of the
            tensor have shown it.
    """
    rules, near = measured.rules, measured.plan.noise
    measured = replace(measured, nonsmooth=_seems_nonsmooth(measured))
    for _ in range(rules.retreats):
        moves = False
        if measured.significance > rules.remeasure_from:
            measured, moves = remeasure_suspects(measured)
        if not moves and measured.sigma <= TOO_NOISY * near.sigma:
            break
        nearer = _at_shorter_steps(measured)
        if not moves and _is_noise(measured) and nearer.sigma > QUIETER * measured.sigma:
            break
        measured = nearer
    if measured.significance > rules.alarm and rules.amplification:
        measured = with_amplification(measured, amplification)
    if measured.significance > rules.alarm and not (_is_noise(measured) and is_confirmed(measured)):
        return replace(measured, nonsmooth=True, moved=np.abs(measured.points.n - measured.points.g))
    return measured


def _seems_nonsmooth(measured: Measured) -> bool:
    """Whether noise, unresolved differences or kinks suggest that the loss is not smooth on the scale of the steps.

    Noise that is small beside backprop's rounding error suggests nothing: kinks that make it do not move n by more.
    """
    noisy = NOISE_OF_NUMERICAL * measured.sigma / measured.points.length > measured.rounding
    rough = measured.sigma > QUIET * measured.plan.noise.sigma and bool(noisy.any())
    unresolved = int(np.count_nonzero(~measured.resolved)) > max(1, UNRESOLVED * measured.resolved.size)
    return rough or unresolved or bool(measured.nonquadratic.any())


def _is_noise(measured: Measured) -> bool:
    """Whether rounding can explain the scatter of the losses."""
    context, near = measured.plan.tensor.context, measured.plan.noise
    return measured.sigma <= min(NOT_NOISE * near.sigma, CHAOS * max(near.floor, context.unit * abs(context.loss)))


def _at_shorter_steps(measured: Measured) -> Measured:
    """The same differences at shorter steps."""
    plan = measured.plan
    shorter = plan.steps.clip(measured.points.step * RETREAT)
    points = recentred(plan.measure(np.arange(shorter.size), shorter), plan.noise)
    sigma = noise.from_fourth_differences(points, plan.noise.sigma, plan.noise.floor)
    zeros = np.zeros(shorter.size)
    return replace(measured, points=points, sigma=sigma, moved=zeros, confirmed=zeros > 0, nonsmooth=True)


def remeasure_suspects(measured: Measured) -> tuple[Measured, bool]:
    """The differences that disagree most with the gradient, measured at shorter steps.

    Rounding noise is the same at every step. What grows with the step, in n or in the fourth difference, is of the
    loss itself.

    Returns:
        The differences with wider error bars, and whether the loss moves them.
    """
    suspects = measured.suspects[:SUSPECTS]
    before = measured.points.take(suspects)
    scatter = noise.from_fourth_differences(before, measured.sigma, 0.0)
    moved, confirmed = measured.moved.copy(), np.zeros_like(measured.confirmed)
    moves = False
    is_plain = bool((np.abs(measured.pairs.z[suspects]) > PLAIN).all())
    for again in _measured_at(measured, suspects, before.step, OTHER_STEPS[-1:] if is_plain else OTHER_STEPS):
        distance = np.nan_to_num(np.abs(again.n - before.n), nan=np.inf)
        spread = NOISE_OF_NUMERICAL * measured.sigma * np.hypot(1 / before.length, 1 / again.length)
        growth = scatter / noise.from_fourth_differences(again, measured.sigma, 0.0)
        moving = int(np.count_nonzero(distance > MOVED * spread))
        moves |= moving >= min(MOVING, suspects.size) or growth > 1 + 4 / np.sqrt(suspects.size)
        beyond = distance if measured.nonsmooth else np.maximum(0, distance - 3 * spread)
        moved[suspects] = np.maximum(moved[suspects], beyond)
        z = again.evidence(measured.sigma, measured.rounding[suspects])
        confirmed[suspects] = z * np.sign(before.n - before.g) > measured.rules.alarm
    return replace(measured, moved=moved, confirmed=confirmed), moves


def is_confirmed(measured: Measured) -> bool:
    """Whether a disagreement persists at much shorter steps, and no kink at the parameters explains it.

    No step is too short for a kink; but a kink that explains a clear disagreement shows in the even differences.
    """
    if not measured.rules.short_steps:
        return True
    confirmed = [[i] for i in measured.suspects if measured.confirmed[i] and measured.converging[i]][:SINGLE_SUSPECTS]
    if confirmed and not measured.nonsmooth:
        return True
    clear = np.abs(measured.points.predicted) > SHORTER * VISIBLE * measured.sigma
    single = [[i] for i in measured.suspects[:SINGLE_SUSPECTS]] if measured.largest > measured.rules.alarm else []
    pooled = [i for i in measured.most_telling if clear[i]][:POOLED]
    persisting = (which for which in [*single, pooled] if _persists(measured, which))
    return any(not _is_kink(measured, which) for which in chain(confirmed, persisting))


def is_confirmed_at_short_steps(measured: Measured) -> bool:
    """Whether a clear disagreement is as clear at steps shorter than the loss is rough, and at no kink.

    The noise of so short a difference is larger, and falls with the square root of the repeats.
    """
    clear = [i for i in measured.suspects[:SINGLE_SUSPECTS] if abs(measured.pairs.z[i]) > measured.rules.alarm]
    return any(
        (measured.confirmed[i] or _persists(measured, [i], MUCH_SHORTER, measured.rules.alarm))
        and _is_smooth(measured, i)
        for i in clear
    )


def _is_smooth(measured: Measured, suspect: int) -> bool:
    """Whether there is no kink at the parameters along a suspect and the next ones.

    The clearer the disagreement, the closer to the parameters a kink is looked for.
    """
    clear = max(1.0, abs(float(measured.pairs.z[suspect])) / CLEAR)
    nearer, octaves = _nearness(measured, suspect)
    step = float(measured.points.step[suspect]) / nearer
    repeats = int(measured.plan.tensor.context.most_repeats * (nearer / clear / octaves) ** 2)
    again = _repeated(measured, [suspect], step, max(CLEAR_REPEATS, repeats), octaves)
    (jump,), (spread,) = jumps(again, measured.sigma)
    most = MAX_JUMP * abs(float(_mean_error(again)[0]))
    if not abs(jump) + 2 * spread < most:
        return False
    others = _repeated(measured, measured.suspects[:KINK_PROBES], step, _repeats_over(octaves), octaves)
    found, errors = jumps(others, measured.sigma)
    return bool(np.mean(found**2 - errors**2) < most**2)


def _nearness(measured: Measured, suspect: int) -> tuple[float, float]:
    """How much shorter than its step a kink is looked for that would explain a suspect, and over how many octaves.

    The clearer a disagreement is, the shorter steps show it. No step is longer than that of the suspect, dithered.
    """
    nearer = min(max(1.0, abs(float(measured.pairs.z[suspect])) / CLEAR), MUCH_SHORTER)
    return nearer, min(MOST_OCTAVES, 1 + 2 * math.log2(nearer))


def _repeats_over(octaves: float) -> int:
    """How many differences along each of `KINK_PROBES` show a jump in slope, over some octaves of steps."""
    return round(KINK_REPEATS / octaves)


def _is_kink(measured: Measured, which: Sequence[int]) -> bool:
    """Whether a kink near the parameters explains disagreements: n is off there by half of the jump in slope.

    Kinks on either side of the parameters hide each other along one probe, and hardly along several.
    """
    if not measured.rules.kink_search:
        return False
    probes = list(dict.fromkeys([*which, *measured.suspects]))[:KINK_PROBES]
    nearer, octaves = _nearness(measured, which[0])
    step = float(measured.points.step[which[0]]) / nearer
    again = _repeated(measured, probes, step, _repeats_over(octaves), octaves)
    jump, spread = jumps(again, measured.sigma)
    significance = np.sum((jump / spread) ** 2 - 1) / np.sqrt(2 * len(probes))
    error = _mean_error(again)[: len(which)]
    beyond = np.mean(error**2) * MAX_JUMP**2 - np.mean(jump**2 - spread**2)
    return not (significance <= SURE or beyond >= 0)  # nan where the loss is not finite: that proves nothing


def _repeated(
    measured: Measured,
    which: Sequence[int] | NDArray[np.intp],
    step: Float64 | float,
    repeats: int,
    octaves: float = 1.0,
) -> list[FourPoint]:
    """Differences along some probes, `repeats` times, at steps about a given one, or about one for each probe."""
    chosen = np.array(which, dtype=np.intp)
    steps = np.broadcast_to(step, chosen.shape)
    return _measured_at(measured, chosen, steps, spread_steps(measured.plan, 1.0, repeats, octaves).tolist())


def _measured_at(
    measured: Measured, which: NDArray[np.intp], steps: Float64, factors: Sequence[float]
) -> list[FourPoint]:
    """Differences along some probes at several multiples of their steps; a batched loss takes all in one call."""
    points = measured.plan.measure(np.tile(which, len(factors)), np.multiply.outer(factors, steps).ravel())
    return [points.take(places) for places in np.arange(points.step.size).reshape(len(factors), which.size)]


def _mean_error(again: Sequence[FourPoint]) -> Float64:
    """The mean of n - g along each probe."""
    error: Float64 = np.mean([each.n - each.g for each in again], axis=0)
    return error


def _persists(measured: Measured, which: Sequence[int], nearer: float = SHORTER, sure: float = SURE) -> bool:
    """Whether some differences are off by much the same factor at steps `nearer` times shorter, measured repeatedly.

    The smaller n is beside g, the more the step is shortened: a loss that has levelled off must come into its range.
    """
    before, deviation = measured.points.take(np.array(which, dtype=np.intp)), measured.pairs.deviation[which]
    shorter, repeats = _shorter(before, measured.sigma, measured.plan.steps, nearer), int(nearer**2)
    if not len(which) or not (shorter < before.step).all():
        return False
    slope = (before.g if before.g.any() else before.n) / deviation
    again = [each.n for each in _repeated(measured, which, shorter, repeats)]
    first, later = (float(np.sum(slope * (n - before.g) / deviation)) for n in (before.n, np.mean(again, axis=0)))
    noisy = NOISE_OF_NUMERICAL * measured.sigma / before.length * (before.step / shorter) / np.sqrt(repeats)
    error = norm(slope * np.hypot(noisy, measured.rounding[which]) / deviation)
    return later * first > 0 and abs(later) > max(PERSISTING * abs(first), sure * error)


def _shorter(before: FourPoint, sigma: float, steps: Steps, times: float) -> Float64:
    """Steps at least `times` shorter; inf where there are none, or where the difference would be lost in the noise.

    Where g is large and n is small, the step goes down to where a derivative of g would just be visible.
    """
    numerical, predicted = np.abs(before.numerical), np.abs(before.predicted)
    with np.errstate(divide="ignore"):
        in_range = before.step / np.maximum(1, predicted / numerical)
        visible = before.step * times * VISIBLE * sigma / predicted
    nearest = np.minimum(np.maximum(visible, times * steps.shortest), NEAREST * steps.longest)
    shorter = np.minimum(before.step, np.maximum(in_range, nearest)) / times
    size = np.maximum(numerical, predicted) * shorter / before.step
    lost = size < 0.99 * VISIBLE * sigma  # 0.99: at the step where it is just visible, rounding must not decide
    return np.where(lost | (shorter < steps.shortest), np.inf, shorter)
