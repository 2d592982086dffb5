"""One deep check, from parameters to report."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from gradguard.arrays.named_blocks import Blocks, Masks, block_masks
from gradguard.arrays.reductions import is_finite
from gradguard.arrays.validation import is_whole, read_gradients, read_parameters, require_constants
from gradguard.checks.effort import ENTRIES, Effort
from gradguard.checks.exact import remeasured
from gradguard.checks.examine import Examined, examine
from gradguard.checks.preflight import (
    _agrees,
    _detached,
    _nonfinite,
    _times,
    nondeterministic,
)
from gradguard.diagnosis.across_tensors import revise_across_tensors, summary, unmeasured, worst_verdict
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.known_factors import History
from gradguard.loss.signature import Loss, require_reduction
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.precision import CheckTarget, require_precision
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import Snapshot, together
from gradguard.report.progress import with_bar
from gradguard.report.results import Report, TensorReport
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.training.ranks import ALONE, Ranks

SIDE_BY_SIDE = 16  # tensors, of which the points go into the same calls of a batched loss


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
    """Check the gradients of a loss once, deeply; no training loop is needed.

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
        seed: Of the probes.

    Raises:
        TypeError: Something is of a kind that cannot be checked; the message names it.
        ValueError: Names, shapes, sizes or an option's value do not fit; the message says what was expected.
    """
    started = time.perf_counter()
    arrays = read_parameters(params)
    gradients = read_gradients(grads, arrays)
    shapes = {name: array.shape for name, array in arrays.items()}
    masks = block_masks(blocks, shapes)
    known = require_constants(constants)
    effort = Effort() if entries is None else Effort(entries=_require_entries(entries))
    state = Rollback(gradients, together(snapshot))

    def measure() -> tuple[MeasurementContext, dict[str, TensorReport]]:
        context = CheckTarget(params, arrays, loss, require_reduction(reduction), state).context(
            require_precision(precision)
        )
        histories, rng = dict.fromkeys(arrays, History(known, shapes=shapes)), np.random.default_rng(seed)
        return context, deep_check(context, list(arrays), effort, rng, masks, histories, Thresholds())[0]

    context, tensors = state.run(measure)
    return report_of(context, tensors, 0, time.perf_counter() - started)


def report_of(context: MeasurementContext, tensors: Mapping[str, TensorReport], step: int, seconds: float) -> Report:
    """The report of a check.

    Args:
        context: What was measured with.
        tensors: The reports of all tensors, each read by itself.
        step: The training step.
        seconds: How long it took.
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


def deep_check(
    context: MeasurementContext,
    names: Sequence[str],
    effort: Effort,
    rng: np.random.Generator,
    masks: Masks,
    histories: Mapping[str, History],
    thresholds: Thresholds,
    until: float = math.inf,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, TensorReport], dict[str, Examined]]:
    """The reports of some tensors, each read by itself, and what was measured of those that could be.

    The loss must repeat, bit for bit, before, between and after, or nothing it says of a gradient holds. At the end it
    is asked often, and oftener before anything bad is told: some losses change at every fiftieth call.

    Args:
        context: What to measure with.
        names: The tensors.
        effort: How much to measure of each.
        rng: Of the probes.
        masks: Named blocks, by tensor.
        histories: Earlier ratios, by tensor.
        thresholds: What counts as agreement.
        until: When no further tensor is begun, by the clock of `ranks`; those that are left have no report.
        ranks: The processes of the training.
    """
    shapes = {name: context.arrays[name].shape for name in names}
    if not np.isfinite(context.centre).all():
        says = f"the loss is {context.loss}, nothing can be differenced"
        cause = "the training has diverged, or the forward pass overflows: look there first"
        return unmeasured(shapes, Verdict.inconclusive, says, cause), {}
    examined: dict[str, Examined] = {}
    reports: dict[str, TensorReport] = {}
    steady = context.repeats(2)
    for name in names:
        if not is_finite(context.gradients[name]):
            reports |= _nonfinite(name, context.gradients[name])
        elif not context.gradients[name].size:
            reports |= unmeasured({name: shapes[name]}, Verdict.ok, "it has no entries", "")
    measurable = [name for name in names if name not in reports]
    for some in with_bar(_in_turn(measurable, context.objective.at_once), "gradguard", shown=ranks.is_first):
        if steady and not (examined and until < math.inf and ranks.clock() > until):
            first = next(iter(examined.values()), None)
            examined |= examine(context, some, effort, rng, masks, first)
            steady = context.repeats()
    # A kink that shows in one tensor is a kink of the loss, and may hide in another.
    nonsmooth = any(measured.evidence.nonsmooth or measured.evidence.kinks for measured in examined.values())
    evidence = {
        name: measured.in_rough_company(context) if nonsmooth else measured.evidence
        for name, measured in examined.items()
    }
    told = {name: diagnose_tensor(found, histories[name], thresholds) for name, found in evidence.items()}
    doubtful = {name: found for name, found in evidence.items() if not _agrees(told[name])}
    exact = remeasured(context, examined, doubtful, masks, lambda: ranks.clock() > until)
    told |= {name: diagnose_tensor(found, histories[name], thresholds) for name, found in exact.items()}
    reports |= told
    reports = {name: reports[name] for name in names if name in reports}
    if not (steady and context.repeats(_times(context, reports))):
        return reports | nondeterministic(shapes), {}
    is_whole_model = set(examined) == {name for name, array in context.arrays.items() if array.size}
    if is_whole_model and all(measured.evidence.loss_unchanged for measured in examined.values()):
        return reports | _detached({name: shapes[name] for name in examined if context.gradients[name].any()}), {}
    return reports, examined


def _in_turn(names: Sequence[str], at_once: int) -> list[Sequence[str]]:
    """The tensors that are examined together: the first by itself, of which the others learn the usual steps."""
    together = SIDE_BY_SIDE if at_once > 1 else 1
    groups = [names[:1], *(names[start : start + together] for start in range(1, len(names), together))]
    return [group for group in groups if group]


def _require_entries(entries: int) -> int:
    if not is_whole(entries) or entries < 1:
        raise ValueError(f"entries is {entries!r}; expected a whole number of at least 1, or None for {ENTRIES}")
    return entries
