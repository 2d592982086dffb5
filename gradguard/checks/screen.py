"""The routine check: one direction and a few entries of each tensor, four points each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from gradguard.checks.examine import coverage
from gradguard.checks.streams import FAR_TOO_LONG_Z3, STRAYS, Stream, TensorState
from gradguard.diagnosis.evidence import Evidence
from gradguard.measurement.context import MeasurementContext
from gradguard.perturbation import directions
from gradguard.perturbation.directions import EntryProbe, Probe
from gradguard.statistics.pairs import DerivativePairs

GAUSSIAN_EVERY = 4


def probe_tensors(
    context: MeasurementContext, states: Mapping[str, TensorState], entries: int, rng: np.random.Generator
) -> dict[str, tuple[Evidence, float]]:
    """A direction along the gradient and some entries of each tensor; the pairs, and the largest |Z| among them.

    Every few checks a Gaussian direction takes the place of an entry: it sees a gradient that is missing. The tensors
    take turns, so that a tensor's next probe has the step that its last one taught, and the probes of one turn go into
    the same calls of a batched loss.

    Args:
        context: What to measure with.
        states: Where the probes of each tensor stand; they learn.
        entries: How many of each tensor, at most.
        rng: Of the probes.
    """
    planned = {name: _planned(context, name, state, entries, rng) for name, state in states.items()}
    taken = [_taken(context, [turn for turn in turns if turn]) for turns in zip_longest(*planned.values())]
    kept, pairs = (
        [turn for turns, _ in taken for turn in turns],
        DerivativePairs.joined([measured for _, measured in taken]),
    )
    places: dict[str, list[int]] = {name: [] for name in states}
    for place, turn in enumerate(kept):
        places[turn.name].append(place)
    found = {}
    for name, own in places.items():
        of_tensor = pairs.where(np.array(own, dtype=np.intp))
        found[name] = _found(context, states[name], planned[name], [kept[place] for place in own], of_tensor)
    return found


@dataclass(frozen=True, slots=True)
class _Turn:
    """One probe of one tensor.

    Attributes:
        name: The tensor.
        stream: What it teaches, and begins with.
        probe: The probe.
        rounding: Backprop's own rounding error along it.
        floor: What the noise is no less than.
    """

    name: str
    stream: Stream
    probe: Probe
    rounding: float
    floor: float

    @property
    def index(self) -> tuple[int, ...] | None:
        """The entry that it is along; None of a direction."""
        return self.probe.index if isinstance(self.probe, EntryProbe) else None


def _planned(
    context: MeasurementContext, name: str, state: TensorState, entries: int, rng: np.random.Generator
) -> list[_Turn]:
    """The probes of one tensor: its directions, then its entries."""
    gradient = context.gradients[name]
    floor = state.noise.floor_at(context.objective, context.centre)
    singles = min(entries, gradient.size)
    kinds = [(state.aligned, directions.aligned)]
    if state.checks % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1:
        # It costs the same: a small drift shows in the sum of all aligned directions, and hardly in entries.
        kinds = [*kinds[: min(1, singles)], (state.gaussian, directions.gaussian)]
        singles = max(0, singles - 1)
    state.checks += 1
    rounding = state.amplification * context.rounding_of_direction(name).total
    turns = [_Turn(name, stream, draw(gradient, rng), rounding, floor) for stream, draw in kinds]
    rounding = state.amplification * context.rounding_of_entry(name).total
    drawn = directions.some_entries(gradient, singles, rng)
    return turns + [_Turn(name, state.entry, probe, rounding, floor) for probe in drawn]


def _taken(context: MeasurementContext, turns: Sequence[_Turn]) -> tuple[list[_Turn], DerivativePairs]:
    """Those of some probes whose steps were not far too long, and their pairs; all teach their streams."""
    fit = []
    for turn in turns:
        if turn.stream.steps.start < context.steps_of_entries(turn.name).shortest:
            turn.stream.strays = STRAYS  # the tensor has grown, and rounds the step away
        else:
            turn.stream.variance = max(turn.stream.variance, turn.floor**2)
            fit.append(turn)
    if not fit:
        return [], DerivativePairs.none()
    steps = np.array([turn.stream.steps.start for turn in fit])
    points = context.measure_each([(turn.name, turn.probe) for turn in fit], steps)
    sigma, rounding = np.sqrt([turn.stream.variance for turn in fit]), np.array([turn.rounding for turn in fit])
    single = [turn.index is not None for turn in fit]
    z3 = np.where(single, points.truncation_in_noise(sigma), points.bend_in_noise(sigma))
    z = points.deviation_in_noise(sigma, rounding) * np.sign(points.g)
    for turn, nonquadratic, fourth, deviation in zip(fit, z3, points.fourth, z, strict=True):
        turn.stream.learn(float(nonquadratic), float(fourth), float(deviation))
    near = z3 <= FAR_TOO_LONG_Z3
    pairs = points.pairs(sigma, rounding, np.zeros(len(fit)))
    return [turn for turn, kept in zip(fit, near, strict=True) if kept], pairs.where(near)


def _found(
    context: MeasurementContext,
    state: TensorState,
    planned: Sequence[_Turn],
    kept: Sequence[_Turn],
    pairs: DerivativePairs,
) -> tuple[Evidence, float]:
    """The evidence of one tensor: the pairs of the probes that were kept; and the largest |Z| in it."""
    name, gradient = planned[0].name, context.gradients[planned[0].name]
    index = tuple(turn.index for turn in kept if turn.index is not None)
    single = np.array([turn.index is not None for turn in kept], dtype=bool)
    evidence = Evidence(
        name=name,
        shape=gradient.shape,
        norm=context.sizes[name].norm,
        entries=pairs.where(single),
        index=index,
        directions=pairs.where(~single),
        unresolved=sum(turn.index is not None for turn in planned) - len(index),
        kinks=0,
        coverage=coverage(gradient, index, context.sizes[name].norm),
        step_size=state.entry.steps.start,
        noise=math.sqrt(planned[0].stream.variance),
        nonsmooth=False,
        confirmed_at_short_steps=False,
        blocks={},
        passing=context.passing(name),
        deep=False,
    )
    return evidence, float(np.abs(pairs.z).max(initial=0.0))
