"""The examination of some tensors, from measurements to their reports: preflight, measure, diagnose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from gradguard.arrays import Masks
from gradguard.diagnosis import History, Surroundings, diagnose_tensor
from gradguard.examination.effort import Deadline, Effort
from gradguard.examination.exact import exact_evidence
from gradguard.examination.examine import KnownSteps, all_evidence, examine
from gradguard.examination.preflight import in_steps, nondeterministic, unmeasurable
from gradguard.intended import Declared, diagnose_declared
from gradguard.measurement import MeasurementContext, TensorMeasurement
from gradguard.references import References
from gradguard.report import TensorReport, Thresholds, Verdict

SIDE_BY_SIDE = 16  # tensors whose points go into the same calls of a batched loss


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """What a check of some tensors measures, and what it compares them with.

    Attributes:
        effort: How much to measure of each tensor.
        masks: Named blocks, by tensor.
        histories: Earlier ratios, by tensor.
        thresholds: What counts as agreement.
        step: The training step.
        declared: What the user declared to differ, by tensor.
    """

    effort: Effort
    masks: Masks
    histories: Mapping[str, History]
    thresholds: Thresholds
    step: int = 0
    declared: Mapping[str, Declared] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What a check knows of the loss before it examines tensors.

    Attributes:
        references: The exact derivatives that the loss has.
        steps: Steps that suit it.
    """

    references: References
    steps: KnownSteps


def check_tensors(
    context: MeasurementContext,
    names: Sequence[str],
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
    known: Known,
) -> tuple[dict[str, TensorReport], dict[str, TensorMeasurement]]:
    """Measure and diagnose some tensors, each by itself: with exact derivatives where there are any, else differences.

    The loss must repeat bit for bit between them, or no difference of it means anything.

    Args:
        context: What to measure with.
        names: The tensors.
        plan: What to measure, and what to compare it with.
        rng: Draws the probes.
        deadline: When no further tensor is begun; those that are left have no report.
        known: What is known of the loss.

    Returns:
        The reports of the tensors, and the differences of those that were measured by differences.
    """
    reports = unmeasurable(context, names)
    left = [name for name in names if name not in reports]
    evidence = exact_evidence(context, known.references, left, plan.effort, plan.masks, rng, lambda: deadline.is_over)
    left = [name for name in left if name not in evidence]
    measured, repeatable = _measured(context, left, plan, rng, deadline, known.steps)
    if not repeatable:
        return reports | nondeterministic(context, names), {}
    evidence |= all_evidence(measured, plan.masks)
    suspects = frozenset(name for name, found in evidence.items() if found.is_suspect)
    surroundings = Surroundings(context.arrays, context.gradients, suspects)
    for name, found in evidence.items():
        diagnose = partial(
            diagnose_tensor, history=plan.histories[name], thresholds=plan.thresholds, surroundings=surroundings
        )
        report = diagnose_declared(found, diagnose, plan.declared.get(name))
        if report.verdict in (Verdict.missing, Verdict.spurious):
            report = in_steps(context, report)
        reports[name] = replace(report, measured_at=plan.step)
    return {name: reports[name] for name in names if name in reports}, measured


def _measured(
    context: MeasurementContext,
    names: Sequence[str],
    plan: CheckPlan,
    rng: np.random.Generator,
    deadline: Deadline,
    known: KnownSteps,
) -> tuple[dict[str, TensorMeasurement], bool]:
    """The measurements of the tensors that there is time for, and whether the loss repeated throughout."""
    measured: dict[str, TensorMeasurement] = {}
    if context.near is None:
        return measured, True
    repeatable = True
    groups = _groups(names, context.objective.at_once, known=known.entries is not None)
    for group in groups:
        if repeatable and not (deadline.is_over and measured):
            measured |= examine(context, group, plan.effort, rng, context.near, known, plan.masks)
            known = KnownSteps.of(next(iter(measured.values())))
            repeatable = context.repeats()
    return measured, repeatable


def _groups(names: Sequence[str], at_once: int, *, known: bool) -> list[Sequence[str]]:
    """The tensors that are examined together: the first by itself unless steps are known, since all start from them."""
    together, alone = SIDE_BY_SIDE if at_once > 1 else 1, 0 if known else 1
    groups = [names[:alone], *(names[start : start + together] for start in range(alone, len(names), together))]
    return [group for group in groups if group]
