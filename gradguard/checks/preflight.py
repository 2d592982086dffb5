"""What must hold before a difference of the loss means anything: finite, repeatable, dependent on the parameters."""

from collections.abc import Mapping, Sequence

import numpy as np

from gradguard.arrays import Array, is_finite
from gradguard.diagnosis import unmeasured
from gradguard.measurement import MeasurementContext, TensorMeasurement
from gradguard.report import TensorReport, Verdict

# Evaluations in a row that must repeat before a doubtful report: a loss that changes at every 50th call was seen.
REPEATS = 64
REPEATS_SHARE = 0.03  # of all evaluations, that repeat the loss where all tensors agree
REPEATS_BEFORE = 2  # evaluations in a row that must repeat before anything is measured


def shapes_of(context: MeasurementContext, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of some tensors."""
    return {name: context.arrays[name].shape for name in names}


def unmeasurable(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of the tensors that cannot be measured: all, if the loss is not finite."""
    if not np.isfinite(context.centre).all():
        says = f"the loss is {context.loss}, nothing can be differenced"
        cause = "the training has diverged, or the forward pass overflows: look there first"
        shapes = shapes_of(context, names)
        return unmeasured(shapes, Verdict.inconclusive, says, cause, cause_key="loss_not_finite")
    reports: dict[str, TensorReport] = {}
    for name in names:
        if not is_finite(context.gradients[name]):
            reports |= _nonfinite(name, context.gradients[name])
        elif not context.gradients[name].size:
            reports |= unmeasured(shapes_of(context, [name]), Verdict.ok, "it has no entries", "")
    return reports


def _nonfinite(name: str, gradient: Array) -> dict[str, TensorReport]:
    broken = np.argwhere(~np.isfinite(gradient))
    where = [int(i) for i in broken[0]]
    says = f"{len(broken)} of {gradient.size} entries of g are nan or inf, the first at {where}, and the loss is finite"
    cause = "an overflow, a division by zero or memory never written in the backward pass"
    return unmeasured({name: gradient.shape}, Verdict.nonfinite, says, cause)


def repeats_needed(context: MeasurementContext, reports: Mapping[str, TensorReport]) -> int:
    """How many evaluations must repeat before these reports are given."""
    if all(map(_is_clear, reports.values())):
        evaluations = context.objective.evaluations / context.objective.at_once
        return min(REPEATS, 1 + round(REPEATS_SHARE * evaluations))
    return REPEATS


def agrees(report: TensorReport) -> bool:
    """Whether a gradient agrees with the differences of the loss."""
    return report.verdict.is_bug is False


def _is_clear(report: TensorReport) -> bool:
    return agrees(report) and not report.unresolved and not report.kinks


def nondeterministic(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of tensors at a check whose loss does not repeat."""
    says = "the loss differs between two evaluations at the same parameters, so no difference of it means anything"
    cause = (
        "fresh dropout masks, a hidden state or statistics carried over, or a count of calls; pass what puts it back: "
        "snapshot=snapshot_rng(generator) or snapshot=snapshot_attributes(model, 'hidden')"
    )
    return unmeasured(shapes_of(context, names), Verdict.nondeterministic, says, cause)


def is_detached(context: MeasurementContext, measured: Mapping[str, TensorMeasurement]) -> bool:
    """Whether the loss did not change at all, whichever tensor of the whole model was moved."""
    whole_model = {name for name, array in context.arrays.items() if array.size}
    return set(measured) == whole_model and all(map(_is_unchanged, measured.values()))


def _is_unchanged(measurement: TensorMeasurement) -> bool:
    both = (measurement.entries, measurement.directions)
    return all(measured.points.loss_unchanged.all() for measured in both)


def detached(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of tensors with a gradient at a check whose loss does not change at all."""
    says = "the loss does not move at all, whichever tensor is moved"
    cause = (
        "the arrays given as params are not the ones that the loss reads (a copy, or rebound since), the snapshot puts "
        "the parameters themselves back, or the loss is a value kept from before"
    )
    wrong = [name for name in names if context.gradients[name].any()]
    return unmeasured(shapes_of(context, wrong), Verdict.inconclusive, says, cause, cause_key="loss_unchanged")
