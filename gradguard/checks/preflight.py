"""What must hold before a difference of the loss means anything: finite, repeatable, dependent on the parameters."""

from collections.abc import Mapping

import numpy as np

from gradguard.arrays.types import Array
from gradguard.diagnosis.across_tensors import unmeasured
from gradguard.measurement.context import MeasurementContext
from gradguard.report.results import TensorReport
from gradguard.report.verdict import Verdict

REPEATS = 64  # in a row; a loss that changes at every so many calls, or oftener, is found out
SHARE_OF_REPEATS = 0.03  # of all calls of the loss, where all is clear


def _nonfinite(name: str, gradient: Array) -> dict[str, TensorReport]:
    broken = np.argwhere(~np.isfinite(gradient))
    where = [int(i) for i in broken[0]]
    says = f"{len(broken)} of {gradient.size} entries of g are nan or inf, the first at {where}, and the loss is finite"
    cause = "an overflow, a division by zero or memory never written in the backward pass"
    return unmeasured({name: gradient.shape}, Verdict.nonfinite, says, cause)


def _times(context: MeasurementContext, reports: Mapping[str, TensorReport]) -> int:
    """How often the loss must repeat before these reports are told."""
    if all(map(_is_clear, reports.values())):
        return min(REPEATS, 1 + round(SHARE_OF_REPEATS * context.objective.evaluations / context.objective.at_once))
    return REPEATS


def _agrees(report: TensorReport) -> bool:
    return report.verdict in (Verdict.ok, Verdict.float_precision)


def _is_clear(report: TensorReport) -> bool:
    return _agrees(report) and not report.unresolved and not report.kinks


def nondeterministic(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorReport]:
    """The reports of tensors at a check whose loss does not repeat."""
    says = "the loss differs between two evaluations at the same parameters, so no difference of it means anything"
    cause = (
        "fresh dropout masks, a hidden state or statistics carried over, or a count of calls; pass what puts it back: "
        "snapshot=snapshot_rng(generator) or snapshot=snapshot_attributes(model, 'hidden')"
    )
    return unmeasured(shapes, Verdict.nondeterministic, says, cause)


def _detached(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorReport]:
    says = "the loss does not move at all, whichever tensor is moved"
    cause = (
        "the arrays given as params are not the ones that the loss reads (a copy, or rebound since), the snapshot puts "
        "the parameters themselves back, or the loss is a value kept from before"
    )
    return unmeasured(shapes, Verdict.inconclusive, says, cause)
