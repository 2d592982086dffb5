"""The examination of some tensors: many entries and some directions of each, all at their best steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradguard.arrays import Masks, entries_in_blocks
from gradguard.checks.effort import Effort
from gradguard.diagnosis import Evidence
from gradguard.differences import Noise, noise
from gradguard.loss import interleave
from gradguard.measurement import (
    MeasurementContext,
    ProbePlan,
    TensorMeasurement,
    TensorUnderTest,
    confirm_measurement,
    is_confirmed_at_short_steps,
    measured_at_best_steps,
)
from gradguard.perturbation import EntryProbe, directions

CAUTION = 1 / 5  # of the step that another tensor found, to start from: too long a step may pass for a noisier loss


def examine(
    context: MeasurementContext,
    names: Sequence[str],
    effort: Effort,
    rng: np.random.Generator,
    first: TensorMeasurement | None = None,
) -> dict[str, TensorMeasurement]:
    """Measure entries of some tensors (all entries of a small one) and directions through them.

    Args:
        context: What to measure with.
        names: The tensors; their steps are searched side by side.
        effort: How much to measure of each.
        rng: Draws the probes.
        first: The measurement of another tensor, whose steps these probably share.
    """
    tensors = [TensorUnderTest(context, name) for name in names]
    drawing = [(tensor, np.random.default_rng(rng.integers(2**63))) for tensor in tensors]
    noise_of = _noise_of(context, drawing, first)
    plans = [_plans(tensor, effort, own_rng, noise_of[tensor.name], first) for tensor, own_rng in drawing]
    found = interleave(context.objective, [measured_at_best_steps(plan) for kinds in plans for plan in kinds])
    both = zip(found[::2], found[1::2], strict=True)
    return {
        name: TensorMeasurement(confirm_measurement(entries), confirm_measurement(along))
        for name, (entries, along) in zip(names, both, strict=True)
    }


def _noise_of(
    context: MeasurementContext,
    drawing: Sequence[tuple[TensorUnderTest, np.random.Generator]],
    first: TensorMeasurement | None,
) -> dict[str, Noise]:
    """The noise of the loss along some tensors, each measured with its own generator unless it is known."""
    unknown = [(tensor, rng) for tensor, rng in drawing if tensor.name not in context.noise_of]
    narrowed = context.rules.narrowed_noise
    searches = [
        noise.noise_search(context.objective, tensor.name, context.centre, rng, narrowed=narrowed)
        for tensor, rng in unknown
    ]
    newly = zip(unknown, interleave(context.objective, searches), strict=True)
    noise_of = {**context.noise_of, **{tensor.name: estimate for (tensor, _), estimate in newly}}
    elsewhere = [*noise_of.values(), *([first.noise] if first else [])]
    return {tensor.name: _at_least(context, noise_of[tensor.name], elsewhere) for tensor, _ in drawing}


def _at_least(context: MeasurementContext, along: Noise, elsewhere: Sequence[Noise]) -> Noise:
    """The noise along a tensor; if the loss does not change along it, the largest noise along others."""
    if not along.is_unknown:
        return along
    others = [noise.sigma for noise in elsewhere if not noise.is_unknown]
    if context.is_native or not others:
        others.append(context.noise)
    return along.at_least(max(others))


def _plans(
    tensor: TensorUnderTest,
    effort: Effort,
    rng: np.random.Generator,
    along: Noise,
    first: TensorMeasurement | None,
) -> tuple[ProbePlan, ProbePlan]:
    """Entries of a tensor, and directions through it."""
    gradient = tensor.gradient
    drawn = directions.stratified_entries(gradient, effort.entries, rng)
    entries = [probe for probe in drawn if np.isfinite(tensor.array[probe.index])]
    through = [directions.aligned(gradient, rng) for _ in range(effort.aligned)]
    through += [directions.gaussian(gradient, rng) for _ in range(effort.gaussian)]
    of_entries, of_directions = (CAUTION * s for s in _stretches(first)) if first else (1.0, 1.0)
    return (
        ProbePlan(
            tensor,
            entries,
            along,
            tensor.rounding_of_entry,
            tensor.steps_of_entries,
            of_entries,
            pilots=effort.pilots,
        ),
        # Directions are few and carry most of the evidence: their steps are made as good as they can be.
        ProbePlan(
            tensor,
            through,
            along,
            tensor.rounding_of_direction,
            tensor.steps_of_directions,
            of_directions,
            enough=np.inf,
            pilots=effort.pilots,
        ),
    )


def _stretches(measurement: TensorMeasurement) -> tuple[float, float]:
    """The usual steps of a tensor, in its first steps: of entries, and of directions."""
    entries, along = measurement.entries, measurement.directions
    return entries.usual_step / entries.plan.steps.start, along.usual_step / along.plan.steps.start


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
