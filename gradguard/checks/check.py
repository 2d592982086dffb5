"""One check, from parameters to report: preflight, measure, diagnose."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import (
    Blocks,
    Masks,
    block_masks,
    read_gradients,
    read_parameters,
    require_constants,
    require_entries,
)
from gradguard.checks.effort import ENTRIES, Deadline, Effort
from gradguard.checks.exact import remeasured
from gradguard.checks.examine import all_evidence, examine
from gradguard.checks.preflight import (
    REPEATS_BEFORE,
    agrees,
    detached,
    is_detached,
    nondeterministic,
    repeats_needed,
    unmeasurable,
)
from gradguard.diagnosis import History, diagnose_tensor, revise_across_tensors, summary, worst_verdict
from gradguard.loss import Loss, require_reduction
from gradguard.measurement import CheckTarget, MeasurementContext, TensorMeasurement, require_precision
from gradguard.perturbation import Rollback, Snapshot, combined_snapshot
from gradguard.report import Report, TensorReport, Thresholds, with_bar
from gradguard.statistics import DEFAULT_RULES, Rules

SIDE_BY_SIDE = 16  # tensors whose points go into the same calls of a batched loss


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of `check`, as the user gave them."""

    constants: Mapping[str, float] | None = None
    blocks: Blocks | None = None
    reduction: str | None = None
    precision: str = "auto"
    snapshot: Snapshot | Iterable[Snapshot] | None = None
    entries: int | None = None
    seed: int = 0


def check(
    params: Mapping[str, object],
    grads: Mapping[str, object],
    loss: Loss,
    *,
    constants: Mapping[str, float] | None = None,
    blocks: Blocks | None = None,
    reduction: str | None = None,
    precision: str = "auto",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | None = None,
    seed: int = 0,
) -> Report:
    """Check the gradients of a loss once; no training loop is needed.

    Args:
        params: The parameters by name, floating-point arrays.
        grads: Their gradients, by the same names.
        loss: `loss()` reads the live arrays; `loss(params)` is handed a mapping of the same names. It returns a
            scalar, or an array of unreduced losses (then say which `reduction` the gradient is of).
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, to name a ratio after.
        blocks: Named parts of tensors, such as `{"W": gates("ifog", axis=1)}`.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native", "float64" or "auto".
        snapshot: Captures state that an evaluation of the loss disturbs, and returns what puts it back.
        entries: How many entries of a tensor to measure at most, 300 by default.
        seed: Seeds the choice of directions and entries.

    Raises:
        TypeError: Something is of a kind that cannot be checked; the message names it.
        ValueError: Names, shapes, sizes or an option's value do not fit; the message says what was expected.
    """
    return checked(params, grads, loss, CheckOptions(constants, blocks, reduction, precision, snapshot, entries, seed))


def checked(
    params: Mapping[str, object],
    grads: Mapping[str, object],
    loss: Loss,
    options: CheckOptions,
    rules: Rules = DEFAULT_RULES,
) -> Report:
    """The report of `check`, by some rules.

    Raises:
        TypeError: As in `check`.
        ValueError: As in `check`.
    """
    started = time.perf_counter()
    arrays = read_parameters(params)
    gradients = read_gradients(grads, arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    masks, known = block_masks(options.blocks, shapes), require_constants(options.constants)
    effort = Effort(entries=require_entries(options.entries, ENTRIES))
    state = Rollback(gradients, combined_snapshot(options.snapshot))

    def measure() -> tuple[MeasurementContext, dict[str, TensorReport]]:
        reduction, precision = require_reduction(options.reduction), require_precision(options.precision)
        context = CheckTarget(params, arrays, loss, reduction, state, rules=rules).context(precision)
        plan = CheckPlan(effort, masks, dict.fromkeys(arrays, History(known, shapes=shapes)), Thresholds())
        rng, deadline = np.random.default_rng(options.seed), Deadline(time.perf_counter, started)
        return context, check_tensors(context, list(arrays), plan, rng, deadline)[0]

    context, tensors = state.run(measure)
    return report_of(context, tensors, 0, time.perf_counter() - started)


def report_of(context: MeasurementContext, tensors: Mapping[str, TensorReport], step: int, seconds: float) -> Report:
    """The report of a check.

    Args:
        context: What was measured with.
        tensors: The reports of all tensors, each diagnosed by itself.
        step: The training step.
        seconds: How long the check took.
    """
    tensors = revise_across_tensors(tensors, context.gradients)
    return Report(
        step=step,
        verdict=worst_verdict(tensors),
        tensors=tensors,
        precision=context.objective.space.precision,
        evaluations=context.objective.evaluations,
        seconds=seconds,
        explanation=summary(tensors),
        loss=context.loss,
    )


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """What a check of some tensors measures, and what it compares them with.

    Attributes:
        effort: How much to measure of each tensor.
        masks: Named blocks, by tensor.
        histories: Earlier ratios, by tensor.
        thresholds: What counts as agreement.
        shows_progress: Whether a bar may be drawn.
    """

    effort: Effort
    masks: Masks
    histories: Mapping[str, History]
    thresholds: Thresholds
    shows_progress: bool = True


def check_tensors(
    context: MeasurementContext, names: Sequence[str], plan: CheckPlan, rng: np.random.Generator, deadline: Deadline
) -> tuple[dict[str, TensorReport], dict[str, TensorMeasurement]]:
    """Preflight, measure and diagnose some tensors, each by itself.

    The loss must repeat bit for bit before, between and after, or no difference of it means anything. It is repeated
    more often before anything bad is reported: some losses change at every fiftieth call.

    Args:
        context: What to measure with.
        names: The tensors.
        plan: What to measure, and what to compare it with.
        rng: Draws the probes.
        deadline: When no further tensor is begun; those that are left have no report.

    Returns:
        The reports of the tensors, and the measurements of those that could be measured.
    """
    reports = unmeasurable(context, names)
    if not np.isfinite(context.centre).all():
        return reports, {}
    left = [name for name in names if name not in reports]
    measured, repeatable = _measured(context, left, plan, rng, deadline)
    reports |= _diagnosed(context, measured, plan, deadline)
    reports = {name: reports[name] for name in names if name in reports}
    if not (repeatable and context.repeats(repeats_needed(context, reports))):
        return reports | nondeterministic(context, names), {}
    if is_detached(context, measured):
        return reports | detached(context, list(measured)), {}
    return reports, measured


def _measured(
    context: MeasurementContext, names: Sequence[str], plan: CheckPlan, rng: np.random.Generator, deadline: Deadline
) -> tuple[dict[str, TensorMeasurement], bool]:
    """The measurements of the tensors that there is time for, and whether the loss repeated throughout."""
    measured: dict[str, TensorMeasurement] = {}
    repeatable = context.repeats(REPEATS_BEFORE)
    for group in with_bar(_groups(names, context.objective.at_once), "gradguard", shown=plan.shows_progress):
        if repeatable and not (measured and deadline.is_over):
            first = next(iter(measured.values()), None)
            measured |= examine(context, group, plan.effort, rng, first)
            repeatable = context.repeats()
    return measured, repeatable


def _groups(names: Sequence[str], at_once: int) -> list[Sequence[str]]:
    """The tensors that are examined together: the first by itself, since the others start from its steps."""
    together = SIDE_BY_SIDE if at_once > 1 else 1
    groups = [names[:1], *(names[start : start + together] for start in range(1, len(names), together))]
    return [group for group in groups if group]


def _diagnosed(
    context: MeasurementContext, measured: Mapping[str, TensorMeasurement], plan: CheckPlan, deadline: Deadline
) -> dict[str, TensorReport]:
    """The reports of measured tensors; those in doubt are measured again with exact derivatives, if there are any."""
    evidence = all_evidence(measured, plan.masks)
    reports = {name: diagnose_tensor(found, plan.histories[name], plan.thresholds) for name, found in evidence.items()}
    doubtful = {name: found for name, found in evidence.items() if not agrees(reports[name])}
    exact = remeasured(context, measured, doubtful, plan.masks, deadline)
    return reports | {
        name: diagnose_tensor(found, plan.histories[name], plan.thresholds) for name, found in exact.items()
    }
