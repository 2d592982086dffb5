"""The routine check: one direction and a few entries of one tensor, four points each."""

import math
from dataclasses import dataclass

import numpy as np

from gradguard.diagnosis import Evidence
from gradguard.examination.tensor_state import TensorState
from gradguard.measurement import TensorUnderTest
from gradguard.perturbation import EntryProbe, Probe, directions
from gradguard.screening import FAR_TOO_LONG_Z3, STRAYS, Stream
from gradguard.statistics import DerivativePairs

GAUSSIAN_EVERY = 4  # checks of a tensor, of which one has a Gaussian direction: it sees a missing gradient


@dataclass(frozen=True, slots=True)
class _RoutineProbe:
    """One probe of the tensor.

    Attributes:
        stream: The stream that gives the step and learns from the probe.
        probe: The probe.
        rounding: Backprop's rounding error along it, as far as it is in proportion to the gradient.
    """

    stream: Stream
    probe: Probe
    rounding: float

    @property
    def index(self) -> tuple[int, ...] | None:
        """The entry that the probe is along; None for a direction."""
        return self.probe.index if isinstance(self.probe, EntryProbe) else None


def probe_tensor(
    tensor: TensorUnderTest, state: TensorState, entries: int, rng: np.random.Generator
) -> tuple[Evidence, float]:
    """Measure a direction along the gradient and some entries of a tensor.

    Every few checks a Gaussian direction takes the place of an entry. Where only blocks of the tensor are declared to
    differ, the directions move the other entries, and one entry is of these blocks. The probes are measured one after
    the other, so that each has the step that the last one of its kind taught.

    Args:
        tensor: The tensor.
        state: The state of its probes; updated.
        entries: The number of entries, at most.
        rng: Draws the probes.

    Returns:
        The evidence, and the largest |Z| in it.
    """
    floor = state.noise.floor_at(tensor.context.objective, tensor.context.centre)
    planned = _planned(tensor, state, entries, rng)
    measured = [(probe, _measured(tensor, probe, floor)) for probe in planned]
    kept = [probe for probe, pairs in measured if pairs.size]
    pairs = DerivativePairs.joined([pairs for _, pairs in measured])
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
        is_native=tensor.context.is_native,
        is_scalar=tensor.context.centre.size == 1,
        deep=False,
        rules=tensor.context.rules,
    )
    return evidence, float(np.abs(pairs.z).max(initial=0.0))


def _planned(
    tensor: TensorUnderTest, state: TensorState, entries: int, rng: np.random.Generator
) -> list[_RoutineProbe]:
    """The probes of the tensor: its directions, then its entries."""
    gradient = tensor.gradient
    singles = min(entries, gradient.size)
    kinds = [(state.aligned, tensor.aligned)]
    if state.checks % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1:
        # In place of an entry, not of the aligned direction: a small drift shows in the sum of all aligned directions.
        kinds = [*kinds[: min(1, singles)], (state.gaussian, tensor.gaussian)]
        singles = max(0, singles - 1)
    state.checks += 1
    rounding = state.amplification * tensor.own_rounding_of_direction
    probes = [_RoutineProbe(stream, draw(rng), rounding) for stream, draw in kinds]
    rounding = state.amplification * tensor.own_rounding_of_entry
    inside = tensor.context.inside.get(tensor.name)
    drawn = [] if inside is None or not singles else directions.entries_of_blocks(gradient, [~inside], 1, [], rng)
    drawn += directions.random_entries(gradient, singles - len(drawn), rng)
    return probes + [_RoutineProbe(state.entry, probe, rounding) for probe in drawn]


def _measured(tensor: TensorUnderTest, probe: _RoutineProbe, floor: float) -> DerivativePairs:
    """The derivatives along one probe, from which its stream learns; none where the step does not suit the loss.

    Args:
        tensor: The tensor.
        probe: The probe.
        floor: The least noise of the loss.
    """
    stream = probe.stream
    if stream.steps.start < tensor.steps_of_entries.shortest:
        stream.strays = STRAYS  # the tensor has grown, and rounds the step away
        return DerivativePairs.none()
    stream.variance = max(stream.variance, floor**2)
    sigma = math.sqrt(stream.variance)
    point = tensor.measure([probe.probe], np.array([stream.steps.start]))
    stream.bend(point.curvature(sigma))
    rounding = math.hypot(probe.rounding, tensor.context.forward_rounding(stream.curvature))
    z3 = float((point.bend_in_noise(sigma) if probe.index is None else point.truncation_in_noise(sigma))[0])
    z = point.deviation_in_noise(sigma, rounding) * np.sign(point.g)
    stream.learn(z3, float(point.fourth[0]), float(z[0]))
    return point.pairs(sigma, rounding, np.zeros(1)) if z3 <= FAR_TOO_LONG_Z3 else DerivativePairs.none()
