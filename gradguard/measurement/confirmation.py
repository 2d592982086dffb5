"""Evidence that survives another step: a bug keeps its ratio at shorter steps, truncation and kinks do not."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64
from gradguard.differences import noise
from gradguard.differences.four_point import NOISE_OF_NUMERICAL, FourPoint
from gradguard.differences.kinks import jumps
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps, dithered
from gradguard.measurement.amplification import amplified
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.measured import Measured
from gradguard.measurement.step_search import CALMER, LOUD, Adapted, _recentred
from gradguard.measurement.tensor import Rounding
from gradguard.perturbation.directions import Probe
from gradguard.statistics.discrepancy import norm
from gradguard.statistics.pairs import ALARM

OTHER_STEPS = (1 / 2, 1 / 5)
AGAIN = 64  # differences measured again
MOVES = 5.0  # standard deviations by which a difference moves from step to step, and is no bug's
SHORTER = 3.0  # times, at least, the step at which a disagreement must last
MUCH_SHORTER = 5.0  # times the step, at which one must be as clear where the loss is rough
SEEN = 5.0  # standard deviations in a difference, or what is predicted of it: less is rounded alike at all steps
NEAR = 1 / 400  # of the longest step: so near no network levels off
CONFIRMED = 3  # single disagreements that are looked at so closely
CORNERS = 8  # differences along each of some probes, that tell together whether there are corners
AT_CORNER = 8  # such probes
SMOOTH = 128  # differences along one that tell that there is none
NO_CORNER = 1 / 4  # of a disagreement, that a jump in slope is below
FEWEST = 4  # differences that tell as much where the disagreement is clearer
SHOWN = 15.0  # standard deviations of a disagreement, at which so many differences show so small a jump
LASTING = 0.6  # of a disagreement that remains, if it is a bug's
SURE = 3.0  # standard deviations that remain
Measure = Callable[[NDArray[np.intp], Float64], FourPoint]
SUSPICIOUS = 4.0  # standard deviations from which a difference is measured again
RETREATS = 5  # to shorter steps
RETREAT = 1 / 5  # of the step
QUIET = 2.0  # sigma in units of what was heard near x, up to which nothing but rounding is in it
MANY = 0.1  # of the differences that no step suits, from which it is the loss that is rough
TOO_LOUD = 100.0  # from which sigma is no noise, but a loss whose bends are shorter than the steps
CHAOS = 1e4  # sigma in units of what rounding the loss adds, or the parameters, from which that is amplified too far


def remeasure_suspects(settled: Measured, measure: Measure) -> tuple[Measured, bool]:
    """The differences that disagree most with the gradient, measured at other steps.

    Rounding noise is the same at every step. What grows with the step, in n or in the fourth difference, is of the
    loss itself.

    Returns:
        The differences with wider bars, and whether anything moves.
    """
    suspects = settled.suspects[:AGAIN]
    before = settled.points.take(suspects)
    noisy = noise.from_fourth_differences(before, settled.sigma, 0.0)
    moved, surviving, moves = settled.moved.copy(), np.zeros_like(settled.surviving), False
    for factor in OTHER_STEPS:
        again = measure(suspects, before.step * factor)
        distance = np.nan_to_num(np.abs(again.n - before.n), nan=np.inf)
        spread = NOISE_OF_NUMERICAL * settled.sigma * np.hypot(1 / before.length, 1 / again.length)
        grown = noisy / noise.from_fourth_differences(again, settled.sigma, 0.0)
        moves |= bool((distance > MOVES * spread).any()) or grown > 1 + 4 / np.sqrt(suspects.size)
        beyond = distance if settled.nonsmooth else np.maximum(0, distance - 3 * spread)
        moved[suspects] = np.maximum(moved[suspects], beyond)
        z = again.evidence(settled.sigma, settled.rounding[suspects])
        surviving[suspects] = z * np.sign(before.n - before.g) > ALARM
    return replace(settled, moved=moved, surviving=surviving), moves


def is_confirmed(settled: Measured, steps: Steps, measure: Measure) -> bool:
    """Whether what disagrees does so at much shorter steps, where whatever the loss does further away is gone.

    Nor may it be a corner, which no step is too short for; one that disagrees so clearly would show in its differences.
    """
    surviving = [[i] for i in settled.suspects if settled.surviving[i] and settled.converging[i]][:CONFIRMED]
    if surviving and not settled.nonsmooth:
        return True
    clear = np.abs(settled.points.predicted) > SHORTER * SEEN * settled.sigma
    single = [[i] for i in settled.suspects[:CONFIRMED]] if settled.largest > ALARM else []
    together = [i for i in settled.telling if clear[i]][:AGAIN]
    lasting = (which for which in [*single, together] if _persists(settled, which, steps, measure))
    return any(not _is_corner(settled, which, measure) for which in chain(surviving, lasting))


def is_confirmed_at_short_steps(settled: Measured, steps: Steps, measure: Measure) -> bool:
    """Whether one of the clearest disagreements is as clear at steps too short for what is rough, and at no corner.

    The noise of so short a difference is larger by as much, and goes with the square of the repeats.
    """
    clear = [i for i in settled.suspects[:CONFIRMED] if abs(settled.pairs.z[i]) > ALARM]
    return any(
        (settled.surviving[i] or _persists(settled, [i], steps, measure, MUCH_SHORTER, ALARM))
        and _is_smooth(settled, i, measure)
        for i in clear
    )


def _is_smooth(settled: Measured, i: int, measure: Measure) -> bool:
    """Whether the loss shows no corner at x, along a suspect or the next ones.

    The clearer the disagreement, the closer they are looked for.
    """
    clear = max(1.0, abs(float(settled.pairs.z[i])) / SHOWN)
    nearer = min(clear, MUCH_SHORTER)
    step = float(settled.points.step[i]) / nearer
    again = _again(measure, [i], step, max(FEWEST, int(SMOOTH * (nearer / clear) ** 2)))
    (jump,), (spread,) = jumps(again, settled.sigma)
    most = NO_CORNER * abs(float(_off(again)[0]))
    if not abs(jump) + 2 * spread < most:
        return False
    found, errors = jumps(_again(measure, settled.suspects[:AT_CORNER], step, FEWEST), settled.sigma)
    return bool(np.mean(found**2 - errors**2) < most**2)


def _is_corner(settled: Measured, which: Sequence[int], measure: Measure) -> bool:
    """Whether corners of the loss close by explain disagreements: n is off by half of the jump in slope there.

    Corners on either side of x hide each other along one probe, and hardly along the next ones, too.
    """
    some = list(dict.fromkeys([*which, *settled.suspects]))[:AT_CORNER]
    is_clear = abs(float(settled.pairs.z[which[0]])) > MUCH_SHORTER * SHOWN
    again = _again(measure, some, float(settled.points.step[which[0]]), FEWEST if is_clear else CORNERS)
    jump, spread = jumps(again, settled.sigma)
    seen = np.sum((jump / spread) ** 2 - 1) / np.sqrt(2 * len(some))
    off = _off(again)[: len(which)]
    beyond = np.mean(off**2) * NO_CORNER**2 - np.mean(jump**2 - spread**2)
    return not (seen <= SURE or beyond >= 0)  # nan where the loss is not finite: nothing is proven there


def _again(
    measure: Measure, which: Sequence[int] | NDArray[np.intp], step: Float64 | float, repeats: int
) -> list[FourPoint]:
    """Differences along some probes, so often, at about one step, or one for each."""
    chosen = np.array(which, dtype=np.intp)
    steps = np.broadcast_to(step, chosen.shape)
    return [measure(chosen, at) for at in np.multiply.outer(dithered(1.0, repeats), steps)]


def _off(again: Sequence[FourPoint]) -> Float64:
    """The mean of n - g along each probe."""
    off: Float64 = np.mean([each.n - each.g for each in again], axis=0)
    return off


def _persists(
    settled: Measured,
    which: Sequence[int],
    steps: Steps,
    measure: Measure,
    nearer: float = SHORTER,
    sure: float = SURE,
) -> bool:
    """Whether the factor by which some differences are off is much the same at shorter steps, measured so often there.

    The less n is beside g, the further the step is shortened: a loss that has levelled off must come into its range.
    """
    before, deviation = settled.points.take(np.array(which, dtype=np.intp)), settled.pairs.deviation[which]
    shorter, repeats = _shorter(before, settled.sigma, steps, nearer), int(nearer**2)
    if not len(which) or not (shorter < before.step).all():
        return False
    slope = (before.g if before.g.any() else before.n) / deviation
    again = [each.n for each in _again(measure, which, shorter, repeats)]
    off, lasting = (float(np.sum(slope * (n - before.g) / deviation)) for n in (before.n, np.mean(again, axis=0)))
    noisy = NOISE_OF_NUMERICAL * settled.sigma / before.length * (before.step / shorter) / np.sqrt(repeats)
    error = norm(slope * np.hypot(noisy, settled.rounding[which]) / deviation)
    return lasting * off > 0 and abs(lasting) > max(LASTING * abs(off), sure * error)


def _shorter(before: FourPoint, sigma: float, steps: Steps, times: float) -> Float64:
    """Steps so many times shorter, or more; inf where there are none, or too little would be seen to prove anything.

    Where g is large and n is small, as near as what g predicts would be seen: n must be small there, too.
    """
    numerical, predicted = np.abs(before.numerical), np.abs(before.predicted)
    with np.errstate(divide="ignore"):
        in_range = before.step / np.maximum(1, predicted / numerical)
        visible = before.step * times * SEEN * sigma / predicted
    nearest = np.minimum(np.maximum(visible, times * steps.shortest), NEAR * steps.longest)
    shorter = np.minimum(before.step, np.maximum(in_range, nearest)) / times
    seen = np.maximum(numerical, predicted) * shorter / before.step
    too_little = seen < 0.99 * SEEN * sigma  # where it is just visible, it is just that
    return np.where(too_little | (shorter < steps.shortest), np.inf, shorter)


def confirm_measurement(
    context: MeasurementContext,
    name: str,
    chosen: Sequence[Probe],
    rounding: Rounding,
    heard: Noise,
    steps: Steps,
    found: Adapted,
) -> Measured:
    """The differences of one tensor along some probes that count: what disagrees is measured again.

    Args:
        context: What to measure with.
        name: The tensor.
        chosen: K probes.
        rounding: Backprop's own rounding error along each.
        heard: The noise of the loss near the unperturbed parameters.
        steps: The range of the steps.
        found: The differences at steps that suit them.
    """

    def measure(which: NDArray[np.intp], at: Float64) -> FourPoint:
        return context.measure(name, [chosen[i] for i in which], at)

    points, sigma = found.points, found.sigma
    nothing = np.zeros(len(chosen))
    settled = Measured(
        points, sigma, heard.floor, nothing + rounding.total, nothing + rounding.own, nothing, nothing > 0
    )
    many = float(np.mean(~settled.resolved)) > MANY
    settled = replace(settled, nonsmooth=sigma > QUIET * heard.sigma or many or bool(settled.nonquadratic.any()))
    for _ in range(RETREATS):
        moves = False
        if settled.significance > SUSPICIOUS:
            settled, moves = remeasure_suspects(settled, measure)
        if not moves and settled.sigma <= LOUD * heard.sigma:
            break
        nearer = _retreated(settled, measure, steps, heard)
        if not moves and _is_noise(context, settled.sigma, heard) and nearer.sigma > CALMER * settled.sigma:
            break
        settled = nearer
    if settled.significance > ALARM:
        settled = replace(settled, rounding=amplified(context, name, chosen, settled))
    if settled.significance > ALARM and not (
        _is_noise(context, settled.sigma, heard) and is_confirmed(settled, steps, measure)
    ):
        return replace(settled, nonsmooth=True, moved=np.abs(settled.points.n - settled.points.g))
    return settled


def _is_noise(context: MeasurementContext, sigma: float, heard: Noise) -> bool:
    """Whether what scatters the losses can be rounding."""
    return sigma <= min(TOO_LOUD * heard.sigma, CHAOS * max(heard.floor, context.unit * abs(context.loss)))


def _retreated(settled: Measured, measure: Measure, steps: Steps, heard: Noise) -> Measured:
    """The same differences at shorter steps, where a rough loss is smoother."""
    shorter = steps.clip(settled.points.step * RETREAT)
    points = _recentred(measure(np.arange(shorter.size), shorter), heard)
    sigma = noise.from_fourth_differences(points, heard.sigma, heard.floor)
    nothing = np.zeros(shorter.size)
    return Measured(points, sigma, heard.floor, settled.rounding, settled.own, nothing, nothing > 0, nonsmooth=True)
