"""The examination of some tensors: many entries and some directions of each, all at their best steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradguard.arrays import Masks, entries_in_blocks
from gradguard.diagnosis import Evidence
from gradguard.differences import Noise, Steps
from gradguard.examination.effort import FEW_ENTRIES, Effort, draw_entries
from gradguard.loss import interleave, run_search
from gradguard.measurement import (
    Measured,
    MeasurementContext,
    ProbePlan,
    TensorMeasurement,
    TensorUnderTest,
    confirm_measurement,
    is_confirmed_at_short_steps,
    measured_at_best_steps,
)
from gradguard.perturbation import Direction, EntryProbe
from gradguard.screening import further_entries, wrong_entry

CAUTION = 1 / 5  # of a known step, to search the best one from: too long a step may pass for a noisier loss


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """Steps that suit the loss, to start from; None where nothing is known.

    Attributes:
        entries: Along an entry, in typical sizes of its tensor.
        directions: Along a direction through a tensor, in norms of the tensor.
    """

    entries: float | None = None
    directions: float | None = None

    @classmethod
    def of(cls, measured: TensorMeasurement) -> "KnownSteps":
        """The usual steps of a tensor."""
        tensor = measured.tensor
        return cls(
            measured.entries.usual_step / tensor.typical,
            measured.directions.usual_step / tensor.extent,
        )


def examine(
    context: MeasurementContext,
    names: Sequence[str],
    effort: Effort,
    rng: np.random.Generator,
    near: Noise,
    known: KnownSteps,
    masks: Masks,
) -> dict[str, TensorMeasurement]:
    """Measure entries of some tensors (all entries of a small one) and directions through them.

    Args:
        context: What to measure with.
        names: The tensors; their steps are searched side by side.
        effort: How much to measure of each.
        rng: Draws the probes.
        near: The noise of the loss near the unperturbed parameters.
        known: Steps that suit the loss.
        masks: Named blocks, by tensor.
    """
    tensors = [TensorUnderTest(context, name) for name in names]
    drawing = [(tensor, np.random.default_rng(rng.integers(2**63))) for tensor in tensors]
    plans = [_plans(tensor, effort, own_rng, near, known, masks) for tensor, own_rng in drawing]
    found = interleave(context.objective, [measured_at_best_steps(plan) for kinds in plans for plan in kinds])
    both = zip(found[::2], found[1::2], strict=True)
    return {name: _confirmed(entries, along, effort) for name, (entries, along) in zip(names, both, strict=True)}


def _confirmed(entries: Measured, along: Measured, effort: Effort) -> TensorMeasurement:
    """The measurement of a tensor, confirmed; what its directions show of backprop's rounding holds for its entries."""
    along = confirm_measurement(along)
    if not _disagrees(along):
        return TensorMeasurement(confirm_measurement(entries), along)
    measured = TensorMeasurement(confirm_measurement(entries, along.amplification), along)
    if effort.entries <= FEW_ENTRIES:
        return measured
    further = _around_a_wrong_entry(measured)
    return measured if further is None else replace(measured, entries=further)


def _disagrees(measured: Measured) -> bool:
    return measured.significance > measured.rules.alarm


def _around_a_wrong_entry(measured: TensorMeasurement) -> Measured | None:
    """The entries and some around one that is wrong, where directions disagree and at most one entry does."""
    entries, along = measured.entries, measured.directions
    is_wrong = np.abs(entries.pairs.z) > entries.rules.alarm
    shape = measured.tensor.gradient.shape
    others = further_entries(entries.plan.probes, is_wrong, shape, lambda: _hidden_entry(measured))
    if not others:
        return None
    plan = replace(entries.plan, probes=[*entries.plan.probes, *others], steps=entries.usual_steps, pilots=0)
    again = run_search(measured.tensor.context.objective, measured_at_best_steps(plan))
    return confirm_measurement(again, along.amplification)


def _hidden_entry(measured: TensorMeasurement) -> EntryProbe | None:
    """An entry that is wrong, by halving the direction that disagrees most."""
    tensor, along = measured.tensor, measured.directions
    worst = int(along.suspects[0])
    direction = along.plan.probes[worst]
    if not isinstance(direction, Direction):
        return None

    def residual_of(part: Direction, share: float) -> float:
        # The entries move as far as they did along the whole direction.
        points = tensor.measure([part], along.points.step[[worst]] * np.sqrt(share))
        return float(points.n[0] - points.g[0])

    return wrong_entry(direction, float(along.pairs.n[worst] - along.pairs.g[worst]), residual_of)


def _plans(
    tensor: TensorUnderTest,
    effort: Effort,
    rng: np.random.Generator,
    along: Noise,
    known: KnownSteps,
    masks: Masks,
) -> tuple[ProbePlan, ProbePlan]:
    """Entries of a tensor, and directions through it."""
    gradient = tensor.gradient
    drawn = draw_entries(gradient, effort, masks.get(tensor.name, {}).values(), rng)
    entries = [probe for probe in drawn if np.isfinite(tensor.array[probe.index])]
    through = [tensor.aligned(rng) for _ in range(effort.aligned)]
    through += [tensor.gaussian(rng) for _ in range(effort.gaussian)]
    entry_steps, pilots_of_entries = _started(tensor.steps_of_entries, known.entries, tensor.typical, effort)
    steps, pilots = _started(tensor.steps_of_directions, known.directions, tensor.extent, effort)
    return (
        ProbePlan(tensor, entries, along, tensor.own_rounding_of_entry, entry_steps, pilots=pilots_of_entries),
        ProbePlan(tensor, through, along, tensor.own_rounding_of_direction, steps, effort.enough, pilots),
    )


def _started(steps: Steps, known: float | None, unit: float, effort: Effort) -> tuple[Steps, int]:
    """The range of steps with its first step, and how many probes search for a better one."""
    if known is None:
        return steps, max(1, effort.pilots)
    return steps.starting_at(known * unit * (CAUTION if effort.pilots else 1)), effort.pilots


def evidence_of(measurement: TensorMeasurement, masks: Masks) -> Evidence:
    """The measurement of a tensor as evidence for the diagnosis.

    Args:
        measurement: The measurement.
        masks: Named blocks, by tensor.
    """
    tensor, entries, along = measurement.tensor, measurement.entries, measurement.directions
    resolved = zip(entries.plan.probes, entries.resolved, strict=True)
    index = tuple(probe.index for probe, kept in resolved if kept and isinstance(probe, EntryProbe))
    return Evidence(
        name=tensor.name,
        shape=tensor.gradient.shape,
        norm=tensor.size.norm,
        entries=entries.pairs.where(entries.resolved),
        index=index,
        directions=along.pairs.where(along.resolved),
        unresolved=int((~entries.resolved & ~entries.kinked).sum()),
        kinks=int(entries.kinked.sum()),
        coverage=tensor.coverage(index),
        step_size=entries.usual_steps.start,
        noise=entries.sigma,
        nonsmooth=entries.nonsmooth or along.nonsmooth,
        confirmed_at_short_steps=True,
        noise_unknown=measurement.noise.is_unknown and not tensor.context.noise,
        loss_unchanged=bool(entries.points.loss_unchanged.all() and along.points.loss_unchanged.all()),
        blocks=entries_in_blocks(masks, tensor.name, index),
        passing=tensor.uncancelled,
        is_native=tensor.context.is_native,
        is_scalar=tensor.context.centre.size == 1,
        rules=tensor.context.rules,
    )


def all_evidence(measured: Mapping[str, TensorMeasurement], masks: Masks) -> dict[str, Evidence]:
    """The evidence on each tensor. A kink along one tensor is a kink of the loss, and may be hidden along another."""
    evidence = {name: evidence_of(measurement, masks) for name, measurement in measured.items()}
    if not any(found.nonsmooth or found.kinks for found in evidence.values()):
        return evidence
    return {name: _of_nonsmooth_loss(evidence[name], measurement) for name, measurement in measured.items()}


def _of_nonsmooth_loss(evidence: Evidence, measurement: TensorMeasurement) -> Evidence:
    """The evidence where the loss is known not to be smooth, along this tensor or another."""
    both = (measurement.entries, measurement.directions)
    return replace(evidence, nonsmooth=True, confirmed_at_short_steps=any(map(is_confirmed_at_short_steps, both)))
