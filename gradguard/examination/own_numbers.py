"""The routine check: one direction and a few entries of each tensor, four points each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from gradguard.diagnosis import Evidence
from gradguard.differences import FourPoint, measure_each
from gradguard.examination.tensor_state import TensorState
from gradguard.measurement import MeasurementContext, TensorUnderTest
from gradguard.perturbation import EntryProbe, Probe, directions
from gradguard.screening import FAR_TOO_LONG_Z3, STRAYS, Stream
from gradguard.statistics import DerivativePairs

GAUSSIAN_EVERY = 4  # checks of a tensor, of which one has a Gaussian direction: it sees a missing gradient


@dataclass(frozen=True, slots=True)
class _RoutineProbe:
    """One probe of one tensor.

    Attributes:
        tensor: The tensor.
        stream: The stream that gives the step and learns from the probe.
        probe: The probe.
        rounding: Backprop's rounding error along it, as far as it is in proportion to the gradient.
        floor: The least noise of the loss.
    """

    tensor: TensorUnderTest
    stream: Stream
    probe: Probe
    rounding: float
    floor: float

    @property
    def index(self) -> tuple[int, ...] | None:
        """The entry that the probe is along; None for a direction."""
        return self.probe.index if isinstance(self.probe, EntryProbe) else None


def probe_tensors(
    context: MeasurementContext, states: Mapping[str, TensorState], entries: int, rng: np.random.Generator
) -> dict[str, tuple[Evidence, float]]:
    """Measure a direction along the gradient and some entries of each tensor.

    Every few checks a Gaussian direction takes the place of an entry. The first probes of all tensors are measured
    together, then the second ones and so on: a tensor's next probe has the step that its last one taught, and the
    probes of one round go into the same calls of a batched loss.

    Args:
        context: What to measure with.
        states: The state of each tensor's probes; updated.
        entries: The number of entries of each tensor, at most.
        rng: Draws the probes.

    Returns:
        For each tensor the evidence, and the largest |Z| in it.
    """
    planned = {name: _planned(TensorUnderTest(context, name), state, entries, rng) for name, state in states.items()}
    rounds = [_measured(context, [probe for probe in some if probe]) for some in zip_longest(*planned.values())]
    kept = [probe for probes, _ in rounds for probe in probes]
    pairs = DerivativePairs.joined([measured for _, measured in rounds])
    places: dict[str, list[int]] = {name: [] for name in states}
    for place, probe in enumerate(kept):
        places[probe.tensor.name].append(place)
    found = {}
    for name, own in places.items():
        of_tensor = pairs.where(np.array(own, dtype=np.intp))
        found[name] = _evidence(states[name], planned[name], [kept[place] for place in own], of_tensor)
    return found


def _planned(
    tensor: TensorUnderTest, state: TensorState, entries: int, rng: np.random.Generator
) -> list[_RoutineProbe]:
    """The probes of one tensor: its directions, then its entries."""
    context, gradient = tensor.context, tensor.gradient
    floor = state.noise.floor_at(context.objective, context.centre)
    singles = min(entries, gradient.size)
    kinds = [(state.aligned, directions.aligned)]
    if state.checks % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1:
        # In place of an entry, not of the aligned direction: a small drift shows in the sum of all aligned directions.
        kinds = [*kinds[: min(1, singles)], (state.gaussian, directions.gaussian)]
        singles = max(0, singles - 1)
    state.checks += 1
    rounding = state.amplification * tensor.own_rounding_of_direction
    probes = [_RoutineProbe(tensor, stream, draw(gradient, rng), rounding, floor) for stream, draw in kinds]
    rounding = state.amplification * tensor.own_rounding_of_entry
    drawn = directions.random_entries(gradient, singles, rng)
    return probes + [_RoutineProbe(tensor, state.entry, probe, rounding, floor) for probe in drawn]


def _measured(
    context: MeasurementContext, probes: Sequence[_RoutineProbe]
) -> tuple[list[_RoutineProbe], DerivativePairs]:
    """The probes whose steps were not far too long, and their derivatives; all update their streams."""
    usable = []
    for probe in probes:
        if probe.stream.steps.start < probe.tensor.steps_of_entries.shortest:
            probe.stream.strays = STRAYS  # the tensor has grown, and rounds the step away
        else:
            probe.stream.variance = max(probe.stream.variance, probe.floor**2)
            usable.append(probe)
    if not usable:
        return [], DerivativePairs.none()
    steps = np.array([probe.stream.steps.start for probe in usable])
    moved = [(probe.tensor.name, probe.probe, probe.tensor.gradient) for probe in usable]
    points = measure_each(context.objective, moved, steps, context.centre)
    sigma = np.sqrt([probe.stream.variance for probe in usable])
    rounding = np.array(
        [_rounding(probe, points.take(np.array([i]))) for i, probe in enumerate(usable)], dtype=np.float64
    )
    is_entry = [probe.index is not None for probe in usable]
    z3 = np.where(is_entry, points.truncation_in_noise(sigma), points.bend_in_noise(sigma))
    z = points.deviation_in_noise(sigma, rounding) * np.sign(points.g)
    for probe, truncation, fourth, deviation in zip(usable, z3, points.fourth, z, strict=True):
        probe.stream.learn(float(truncation), float(fourth), float(deviation))
    near = z3 <= FAR_TOO_LONG_Z3
    pairs = points.pairs(sigma, rounding, np.zeros(len(usable)))
    return [probe for probe, kept in zip(usable, near, strict=True) if kept], pairs.where(near)


def _rounding(probe: _RoutineProbe, point: FourPoint) -> float:
    """Backprop's rounding error along one probe; its stream learns the curvature of the loss."""
    sigma = math.sqrt(probe.stream.variance)
    probe.stream.bend(point.curvature(sigma))
    return math.hypot(probe.rounding, probe.tensor.context.forward_rounding(probe.stream.curvature))


def _evidence(
    state: TensorState, planned: Sequence[_RoutineProbe], kept: Sequence[_RoutineProbe], pairs: DerivativePairs
) -> tuple[Evidence, float]:
    """The evidence on one tensor from the probes that were kept, and the largest |Z| in it."""
    tensor = planned[0].tensor
    index = tuple(probe.index for probe in kept if probe.index is not None)
    is_entry = np.array([probe.index is not None for probe in kept], dtype=bool)
    evidence = Evidence(
        name=tensor.name,
        shape=tensor.gradient.shape,
        norm=tensor.size.norm,
        entries=pairs.where(is_entry),
        index=index,
        directions=pairs.where(~is_entry),
        unresolved=sum(probe.index is not None for probe in planned) - len(index),
        kinks=0,
        coverage=tensor.coverage(index),
        step_size=state.entry.steps.start,
        noise=math.sqrt(planned[0].stream.variance),
        nonsmooth=False,
        confirmed_at_short_steps=False,
        blocks={},
        passing=tensor.uncancelled,
        deep=False,
        rules=tensor.context.rules,
    )
    return evidence, float(np.abs(pairs.z).max(initial=0.0))
