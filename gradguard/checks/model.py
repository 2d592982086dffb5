"""The check of a whole model, in the order of its questions: is a gradient wrong, which one, and in what way?

Each question is asked only if the one before says so. Entries of tensors that agree are measured last, for the charts.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from gradguard.examination import (
    EXPLAIN,
    REPEATS_BEFORE,
    SIDE_BY_SIDE,
    CheckPlan,
    Deadline,
    Effort,
    Known,
    KnownSteps,
    check_tensors,
    detached,
    independent,
    nondeterministic,
    repeats_needed,
    unmeasurable,
)
from gradguard.intended import not_measured
from gradguard.measurement import MeasurementContext, TensorMeasurement
from gradguard.perturbation import groups_to_move
from gradguard.references import References
from gradguard.report import TensorReport, Verdict
from gradguard.screening import (
    Located,
    ModelProbe,
    Screen,
    Screened,
    cover,
    is_visible,
    locate,
    screened,
    suspected,
    with_screen,
)

NEAR_A_BUG = 3  # Gaussian directions through each tensor that agrees, where others do not
NOT_TOLD_APART = ("not_confirmed",)  # causes after which a tensor is examined again, with more probes


class NotSameLossError(Exception):
    """The loss on float64 copies is not the loss of the training, as a tensor that was accused has shown."""


@dataclass(slots=True)
class ModelCheck:
    """What a check of a model found.

    Attributes:
        reports: The report of each tensor.
        measured: The differences of the tensors that were examined by differences.
        screens: The screens of the groups of tensors, to be continued at the next check.
        finer: The screens of groups of tensors that these promise too little of, likewise.
        located: The tensors whose own probe alarmed.
        explained: The tensors that were examined because something accused them.
        left: Groups of tensors that alarmed and could not be looked at in time.
        references: The exact derivatives that the loss has, once they were asked for.
    """

    reports: dict[str, TensorReport]
    measured: dict[str, TensorMeasurement] = field(default_factory=dict)
    screens: list[Screen] = field(default_factory=list)
    finer: tuple[Screen, ...] = ()
    located: tuple[str, ...] = ()
    explained: set[str] = field(default_factory=set)
    left: tuple[tuple[str, ...], ...] = ()

    references: References | None = None

    def known(self, context: MeasurementContext) -> Known:
        """What the check knows of the loss so far."""
        if self.references is None:
            self.references = References(context)
        entries = next((KnownSteps.of(measured).entries for measured in self.measured.values()), None)
        return Known(self.references, KnownSteps(entries, self.screens[0].usual_step if self.screens else None))


def check_model(
    context: MeasurementContext,
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
    chart_seconds: float | None,
) -> ModelCheck:
    """Screen all tensors, locate and explain what is wrong, and measure a few entries of the others.

    Args:
        context: What to measure with.
        plan: What to measure of tensors that agree, and what to compare it with.
        rng: Draws the probes.
        deadline: When nothing more is begun.
        chart_seconds: How long entries of tensors that agree may be measured, once that took as many evaluations as all
            else; None for no such bound.

    Raises:
        NotSameLossError: As in `explain`.
    """
    names = list(context.arrays)
    found = ModelCheck(unmeasurable(context, names))
    if not context.is_measurable:
        return found
    left = {name: array for name, array in context.arrays.items() if name not in found.reports}
    if not context.repeats(REPEATS_BEFORE):
        return ModelCheck(nondeterministic(context, names))
    if context.near is None or not left:
        return found
    declared = [name for name in left if name in plan.declared]
    left = {name: array for name, array in left.items() if name not in plan.declared}
    found.screens = [Screen.of(context, group, context.near) for group in groups_to_move(left)]
    results = [screen.probe_all(context, rng) for screen in found.screens]
    if not declared and all(result.loss_unchanged for result in results):
        return ModelCheck(found.reports | independent(context, list(left)) | detached(context, list(left)))
    following = deadline.restarted()
    for screen, result in zip(found.screens, results, strict=True):
        _follow(context, found, screen, result, plan, rng, following)
    explain_declared(context, found, declared, plan, rng, following)
    if not any(report.verdict is Verdict.nondeterministic for report in found.reports.values()):
        _measure_charts(context, found, plan, rng, deadline, chart_seconds)
    in_doubt = [report for report in found.reports.values() if report.verdict is Verdict.nondeterministic]
    if in_doubt or not context.repeats(repeats_needed(context, found.reports), lambda: following.is_over):
        return ModelCheck(nondeterministic(context, names))
    found.reports = {name: found.reports[name] for name in names}
    return found


def _follow(
    context: MeasurementContext,
    found: ModelCheck,
    screen: Screen,
    result: Screened,
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
) -> None:
    """Locate and explain what a screen shows, and report the tensors that it covers."""
    located = Located((), {}, ())
    if result.alarm is not None:
        located = locate_twice(context, screen, [screen.names], rng, deadline, result.alarm)
    explain(context, found, located, plan, rng, deadline)
    visible = {
        name: min(error, located.visible.get(name, math.inf))
        for name, error in result.visible.items()
        if name not in found.reports
    }
    promises = partial(is_visible, thresholds=plan.thresholds)
    finer = cover(context, screen, visible, promises, rng, lambda: deadline.is_over)
    found.finer += finer.screens
    explain(context, found, finer.located, plan, rng, deadline)
    for name, error in visible.items():
        if name not in found.reports:
            smallest = min(error, finer.located.visible.get(name, math.inf))
            found.reports[name] = screened(name, context.arrays[name].shape, smallest, plan.step, plan.thresholds)


def locate_twice(
    context: MeasurementContext,
    screen: Screen,
    groups: Sequence[Sequence[str]],
    rng: np.random.Generator,
    deadline: Deadline,
    alarm: ModelProbe | None = None,
) -> Located:
    """What is wrong among some groups, by fresh probes once more where the first ones accuse nobody.

    A gradient that misses a part is seen by a Gaussian direction with some luck only.

    Args:
        context: What to measure with.
        screen: The screen that alarmed.
        groups: The tensors, in groups.
        rng: Draws the probes.
        deadline: When no further group is begun.
        alarm: The probe of the first group that alarmed; None where it is to be probed again.
    """
    located = locate(context, screen, groups, rng, lambda: deadline.is_over, alarm)
    if located.wrong or located.left:
        return located
    return locate(context, screen, groups, rng, lambda: deadline.is_over)


def explain(
    context: MeasurementContext,
    found: ModelCheck,
    located: Located,
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
    effort: Effort = EXPLAIN,
    *,
    is_told: bool = False,
) -> None:
    """Examine the tensors that were located; report those for which there was no time as suspected.

    Args:
        context: What to measure with.
        found: Takes the reports and measurements.
        located: What was located.
        plan: What to compare the measurements with.
        rng: Draws the probes.
        deadline: When no further tensor is begun.
        effort: How much to measure of each, at most.
        is_told: Whether it is known already that they are wrong: then all of that is measured, whatever time it takes.

    Raises:
        NotSameLossError: The float64 loss does not follow a tensor that is accused, although the live loss does.
    """
    left = list(located.left)
    wrong = [name for name in located.wrong if name not in found.explained]
    if wrong:
        reason = context.reason_not_same_loss(wrong)
        if reason:
            raise NotSameLossError(reason)
        context.try_batches(lambda: deadline.is_over)
        asked = dataclasses.replace(effort, entries=max(effort.entries, plan.effort.entries))
        affordable = math.inf if is_told else deadline.affordable(context.objective.evaluations)
        explaining = dataclasses.replace(plan, effort=asked.within(affordable))
        reports, measured = check_tensors(context, wrong, explaining, rng, deadline, found.known(context))
        found.reports |= reports
        found.measured |= measured
        found.explained |= set(reports)
        left += [(name,) for name in wrong if name not in reports]
    shapes = {name: array.shape for name, array in context.arrays.items()}
    found.reports |= {name: suspected(name, shapes[name], group) for group in left for name in group}
    found.located += located.wrong
    found.left += tuple(left)


def explain_declared(
    context: MeasurementContext,
    found: ModelCheck,
    names: Sequence[str],
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
) -> None:
    """Examine tensors that are declared to differ: no screen covers them, since it would alarm at every check.

    Raises:
        NotSameLossError: As in `explain`.
    """
    located, left = found.located, found.left
    explain(context, found, Located(tuple(names), {}, ()), plan, rng, deadline)
    found.located, found.left = located, left
    for name in names:
        if name not in found.explained:
            found.reports[name] = not_measured(name, context.arrays[name].shape, plan.declared[name])


def _measure_charts(
    context: MeasurementContext,
    found: ModelCheck,
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
    seconds: float | None,
) -> None:
    """Measure a few entries of the tensors that agree, those first that the screen could not promise anything of."""
    covered = [name for screen in found.screens for name in screen.names]
    covered = [name for name in covered if found.reports[name].measured_at is None]
    covered = [name for name in covered if not any(name in group for group in found.left)]
    waiting = sorted(covered, key=lambda name: found.reports[name].verdict.is_bug is False)
    if not waiting:
        return
    context.try_batches(lambda: deadline.is_over)
    if found.located:
        # Where one gradient is wrong, others are likely to be wrong where a few directions do not show it.
        plan = dataclasses.replace(plan, effort=dataclasses.replace(plan.effort, gaussian=NEAR_A_BUG))
    answered, bound = context.objective.evaluations, deadline.from_now(seconds)
    cost = 0  # of the last group
    for names in _side_by_side(waiting, context.objective.at_once):
        before = context.objective.evaluations
        is_enough = bound.is_over and before >= 2 * answered
        are_ok = all(found.reports[name].verdict is Verdict.ok for name in names)
        if deadline.affordable(before) < cost or (is_enough and are_ok):
            break
        reports, measured = check_tensors(context, names, plan, rng, deadline, found.known(context))
        unsure = [name for name, report in reports.items() if _is_unsure(report)]
        if unsure:
            more = dataclasses.replace(plan, effort=EXPLAIN)
            again, measured_again = check_tensors(context, unsure, more, rng, deadline, found.known(context))
            reports, measured = reports | again, measured | measured_again
        found.measured |= measured
        found.reports |= {
            name: with_screen(report, found.reports[name].smallest_visible, plan.step, plan.thresholds)
            for name, report in reports.items()
        }
        cost = context.objective.evaluations - before


def _is_unsure(report: TensorReport) -> bool:
    """Whether few entries disagree, so that more must tell."""
    return bool(report.verdict.is_bug) or report.cause_key in NOT_TOLD_APART


def _side_by_side(names: Sequence[str], at_once: int) -> Iterator[Sequence[str]]:
    """The tensors that are examined together, where a batched loss evaluates many points in one call."""
    together = SIDE_BY_SIDE if at_once > 1 else 1
    yield from (names[start : start + together] for start in range(0, len(names), together))
