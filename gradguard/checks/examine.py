"""The deep check of some tensors: many entries and some directions of each, all at steps that suit them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.named_blocks import Masks, held
from gradguard.arrays.types import Array, Float64
from gradguard.checks.effort import Effort
from gradguard.diagnosis.evidence import Evidence
from gradguard.differences import noise
from gradguard.differences.four_point import FourPoint
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps
from gradguard.loss.interleaving import Search, interleave
from gradguard.measurement.confirmation import confirm_measurement, is_confirmed_at_short_steps
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.measured import Measured
from gradguard.measurement.step_search import PILOTS, WEAK, Adapted, adapted
from gradguard.measurement.tensor import Rounding
from gradguard.perturbation import directions
from gradguard.perturbation.directions import EntryProbe, Probe

CAUTION = 1 / 5  # of the steps that suited another tensor: too long a step may pass for a noisier loss


@dataclass(frozen=True, slots=True)
class Series:
    """Differences along one kind of probe of a tensor.

    Attributes:
        settled: The differences.
        probes: What they are along.
        steps: The range of their steps, the usual one first.
        stretch: How many times the step that would be tried first the usual one is.
    """

    settled: Measured
    probes: Sequence[Probe]
    steps: Steps
    stretch: float

    def is_confirmed_at_short_steps(self, context: MeasurementContext, name: str) -> bool:
        """Whether a disagreement is as clear where whatever is rough about the loss is gone."""

        def measure(which: NDArray[np.intp], at: Float64) -> FourPoint:
            return context.measure(name, [self.probes[i] for i in which], at)

        return is_confirmed_at_short_steps(self.settled, self.steps, measure)


@dataclass(frozen=True, slots=True)
class Examined:
    """A deep check of one tensor: what it says, and what later checks start from.

    Attributes:
        evidence: For the diagnosis.
        entries: Single entries.
        directions: Directions through the tensor.
        noise: The noise of the loss near the tensor as it is.
        amplification: How much larger backprop's own rounding error is than its usual bound.
    """

    evidence: Evidence
    entries: Series
    directions: Series
    noise: Noise
    amplification: float

    def in_rough_company(self, context: MeasurementContext) -> Evidence:
        """The evidence where the loss is known to be rough, along this tensor or another."""
        confirmed = any(
            series.is_confirmed_at_short_steps(context, self.evidence.name)
            for series in (self.entries, self.directions)
        )
        return replace(self.evidence, nonsmooth=True, confirmed_at_short_steps=confirmed)


@dataclass(frozen=True, slots=True)
class Along:
    """One kind of probe of a tensor, and how to measure along it.

    Attributes:
        name: The tensor.
        probes: The probes.
        heard: The noise of the loss near the tensor as it is.
        rounding: Backprop's own rounding error along a probe.
        steps: The range of the steps, the one that would be tried first at the beginning.
        stretched: How many times that the first step is, by what suited another tensor.
        enough: Standard deviations of a difference from which no longer step is tried.
        pilots: How many of the probes find the step that all of them begin with.
    """

    name: str
    probes: Sequence[Probe]
    heard: Noise
    rounding: Rounding
    steps: Steps
    stretched: float = 1.0
    enough: float = WEAK
    pilots: int = PILOTS

    @property
    def _steps(self) -> Steps:
        return self.steps.starting_at(self.steps.start * self.stretched)

    def adapted(self, context: MeasurementContext) -> Search[Adapted]:
        """The search for the steps that suit the probes."""
        return adapted(context, self.name, self.probes, self.heard, self._steps, self.enough, self.pilots)

    def series(self, context: MeasurementContext, found: Adapted) -> Series:
        """The differences, confirmed where they disagree with the gradient."""
        settled = confirm_measurement(context, self.name, self.probes, self.rounding, self.heard, self._steps, found)
        usual = float(np.median(settled.points.step))
        return Series(settled, self.probes, self.steps.starting_at(usual), usual / self.steps.start)


def examine(
    context: MeasurementContext,
    names: Sequence[str],
    effort: Effort,
    rng: np.random.Generator,
    masks: Masks,
    first: Examined | None = None,
) -> dict[str, Examined]:
    """Measure entries of some tensors (all, of those that have few) and directions through them.

    Args:
        context: What to measure with.
        names: The tensors: their steps are found side by side.
        effort: How much to measure of each.
        rng: Of the probes.
        masks: Named blocks, by tensor.
        first: What was measured of another tensor: the steps of these are probably much the same.
    """
    drawing = [(name, np.random.default_rng(rng.integers(2**63))) for name in names]
    heard = _heard(context, drawing, first)
    planned = [_planned(context, name, effort, own, heard[name], first) for name, own in drawing]
    found = interleave(context.objective, [along.adapted(context) for kinds in planned for along in kinds])
    pairs = zip(found[::2], found[1::2], strict=True)
    return {
        name: _examined(context, singles, through, adapted, masks)
        for name, (singles, through), adapted in zip(names, planned, pairs, strict=True)
    }


def _heard(
    context: MeasurementContext, drawing: Sequence[tuple[str, np.random.Generator]], first: Examined | None
) -> dict[str, Noise]:
    """The noise of the loss along some tensors; each is listened to with its own generator, if it has not been."""
    left = [(name, own) for name, own in drawing if name not in context.heard]
    noise_search = [noise.noise_search(context.objective, name, context.centre, own) for name, own in left]
    newly = zip(left, interleave(context.objective, noise_search), strict=True)
    heard = {**context.heard, **{name: sounds for (name, _), sounds in newly}}
    elsewhere = [*heard.values(), *([first.noise] if first else [])]
    return {name: _at_least(context, heard[name], elsewhere) for name, _ in drawing}


def _at_least(context: MeasurementContext, heard: Noise, elsewhere: Sequence[Noise]) -> Noise:
    """The noise along a tensor; where the loss does not move along it, that along others, in the same precision."""
    if not heard.is_unknown:
        return heard
    others = [noise.sigma for noise in elsewhere if not noise.is_unknown]
    if context.objective.space.precision == "native" or not others:
        others.append(context.noise)
    return heard.at_least(max(others))


def _planned(
    context: MeasurementContext,
    name: str,
    effort: Effort,
    rng: np.random.Generator,
    heard: Noise,
    first: Examined | None,
) -> tuple[Along, Along]:
    """Entries of a tensor, and directions through it."""
    gradient = context.gradients[name]
    drawn = directions.entries(gradient, effort.entries, rng)
    chosen = [probe for probe in drawn if np.isfinite(context.arrays[name][probe.index])]
    along = [directions.aligned(gradient, rng) for _ in range(effort.aligned)]
    along += [directions.gaussian(gradient, rng) for _ in range(effort.gaussian)]
    stretched = (CAUTION * first.entries.stretch, CAUTION * first.directions.stretch) if first else (1.0, 1.0)
    rounding, steps = context.rounding_of_entry(name), context.steps_of_entries(name)
    singles = Along(name, chosen, heard, rounding, steps, stretched[0], pilots=effort.pilots)
    # Directions are few and carry the most: their steps are made as good as they can be.
    rounding, steps = context.rounding_of_direction(name), context.steps_of_directions(name)
    return singles, Along(name, along, heard, rounding, steps, stretched[1], np.inf, effort.pilots)


def _examined(
    context: MeasurementContext, singles: Along, through: Along, found: tuple[Adapted, Adapted], masks: Masks
) -> Examined:
    name, gradient, heard = singles.name, context.gradients[singles.name], singles.heard
    of_entries, of_directions = singles.series(context, found[0]), through.series(context, found[1])
    entries, directions = of_entries.settled, of_directions.settled
    resolved = zip(singles.probes, entries.resolved, strict=True)
    index = tuple(probe.index for probe, kept in resolved if kept and isinstance(probe, EntryProbe))
    evidence = Evidence(
        name=name,
        shape=gradient.shape,
        norm=context.sizes[name].norm,
        entries=entries.pairs.where(entries.resolved),
        index=index,
        directions=directions.pairs.where(directions.resolved),
        unresolved=int((~entries.resolved & ~entries.kinked).sum()),
        kinks=int(entries.kinked.sum()),
        coverage=coverage(gradient, index, context.sizes[name].norm),
        step_size=of_entries.steps.start,
        noise=entries.sigma,
        nonsmooth=entries.nonsmooth or directions.nonsmooth,
        confirmed_at_short_steps=True,
        noise_unknown=heard.is_unknown and not context.noise,
        loss_unchanged=bool(entries.points.loss_unchanged.all() and directions.points.loss_unchanged.all()),
        blocks=held(masks, name, index),
        passing=context.passing(name),
    )
    return Examined(evidence, of_entries, of_directions, heard, _amplification(context, name, entries, directions))


def _amplification(context: MeasurementContext, name: str, entries: Measured, directions: Measured) -> float:
    usual = np.array([context.rounding_of_entry(name).total, context.rounding_of_direction(name).total])
    found = np.array([np.median(entries.rounding), np.median(directions.rounding)])
    return float(np.max(found[usual > 0] / usual[usual > 0], initial=1.0))


def coverage(gradient: Array, index: Sequence[tuple[int, ...]], norm: float) -> float:
    """The share of ||g||^2 that some entries hold; of a gradient of zeros they hold all, if there are any."""
    if norm == 0 or not index:
        return 1.0 if index else 0.0
    return float(np.sum((np.array([float(gradient[place]) for place in index]) / norm) ** 2))
