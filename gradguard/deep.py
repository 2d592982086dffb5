"""The deep check of one tensor: many entries and some directions, each at a step that suits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard import noise, probes
from gradguard.bench import Bench
from gradguard.confirm import survives
from gradguard.differences import FourPoint
from gradguard.evidence import Evidence
from gradguard.parameters import Array, Float64
from gradguard.probes import Probe
from gradguard.rounding import Rounding
from gradguard.settle import WEAK, settle
from gradguard.settled import Settled
from gradguard.steps import Steps

CAUTION = 1 / 5  # of the steps that suited another tensor: too long a step may pass for a noisier loss
ENTRIES = 300  # of a tensor, at most, unless asked for otherwise
EVALUATIONS_A_TENSOR = 60  # to hear the noise, and of pilots
EVALUATIONS_A_DIRECTION = 20
EVALUATIONS_AN_ENTRY = 8


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a deep check measures of a tensor.

    Attributes:
        entries: Single entries, at most.
        aligned: Directions along the gradient, each entry weighted at random: they resolve an error of scale best.
        gaussian: Directions that see what the gradient misses.
    """

    entries: int = ENTRIES
    aligned: int = 4
    gaussian: int = 4

    def at_most(self, evaluations: float) -> "Effort":
        """What so many evaluations pay for: fewer entries, and when that is not enough, fewer directions."""
        others = EVALUATIONS_A_TENSOR + EVALUATIONS_A_DIRECTION * (self.aligned + self.gaussian)
        entries = (evaluations - others) / EVALUATIONS_AN_ENTRY
        if entries >= LEAST.entries:
            return replace(self, entries=min(self.entries, int(entries)))
        spared = evaluations - EVALUATIONS_A_TENSOR - EVALUATIONS_AN_ENTRY * LEAST.entries
        share = max(0.0, spared / (EVALUATIONS_A_DIRECTION * (self.aligned + self.gaussian)))
        aligned, gaussian = int(share * self.aligned), int(share * self.gaussian)
        return replace(LEAST, aligned=max(LEAST.aligned, aligned), gaussian=max(LEAST.gaussian, gaussian))


LEAST = Effort(entries=3, aligned=1, gaussian=1)


@dataclass(frozen=True, slots=True)
class Series:
    """Differences along one kind of probe of a tensor.

    Attributes:
        settled: The differences.
        probes: What they are along.
        steps: The range of their steps, the usual one first.
        stretch: How many times the step that would be tried first the usual one is.
    """

    settled: Settled
    probes: Sequence[Probe]
    steps: Steps
    stretch: float

    @classmethod
    def along(
        cls,
        bench: Bench,
        name: str,
        chosen: Sequence[Probe],
        rounding: Rounding,
        heard: noise.Noise,
        steps: Steps,
        stretched: float,
        enough: float = WEAK,
    ) -> Self:
        """Differences that begin at the first step times `stretched`."""
        settled = settle(bench, name, chosen, rounding, heard, steps.starting_at(steps.start * stretched), enough)
        usual = float(np.median(settled.points.step))
        return cls(settled, chosen, steps.starting_at(usual), usual / steps.start)

    def survives(self, bench: Bench, name: str) -> bool:
        """Whether a disagreement is as clear where whatever is rough about the loss is gone."""

        def measure(which: NDArray[np.intp], at: Float64) -> FourPoint:
            return bench.measure(name, [self.probes[i] for i in which], at)

        return survives(self.settled, self.steps, measure)


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
    noise: noise.Noise
    amplification: float

    def in_rough_company(self, bench: Bench) -> Evidence:
        """The evidence where the loss is known to be rough, along this tensor or another."""
        survives = any(series.survives(bench, self.evidence.name) for series in (self.entries, self.directions))
        return replace(self.evidence, rough=True, survives=survives)


def examine(
    bench: Bench,
    name: str,
    effort: Effort,
    rng: np.random.Generator,
    blocks: Mapping[str, NDArray[np.bool_]],
    before: Examined | None = None,
) -> Examined:
    """Measure entries of a tensor (all, if it has few) and directions through it.

    Args:
        bench: What to measure with.
        name: The tensor.
        effort: How much to measure of it.
        rng: Of the probes.
        blocks: Its named blocks.
        before: What was measured of another tensor: the steps of this one are probably much the same.
    """
    gradient = bench.gradients[name]
    heard = noise.listen(bench.objective, name, bench.centre, rng)
    if heard.is_deaf:  # what is known of the loss is known along other tensors
        heard = heard.at_least(bench.noise)
    drawn = probes.entries(gradient, effort.entries, rng)
    chosen = [probe for probe in drawn if np.isfinite(bench.arrays[name][probe.index])]
    along = [probes.aligned(gradient, rng) for _ in range(effort.aligned)]
    along += [probes.gaussian(gradient, rng) for _ in range(effort.gaussian)]
    stretched = (CAUTION * before.entries.stretch, CAUTION * before.directions.stretch) if before else (1.0, 1.0)
    rounding, steps = bench.rounding_of_entry(name), bench.steps_of_entries(name)
    singles = Series.along(bench, name, chosen, rounding, heard, steps, stretched[0])
    # Directions are few and carry the most: their steps are made as good as they can be.
    rounding, steps = bench.rounding_of_direction(name), bench.steps_of_directions(name)
    through = Series.along(bench, name, along, rounding, heard, steps, stretched[1], enough=np.inf)
    entries, directions = singles.settled, through.settled
    index = tuple(probe.index for probe, kept in zip(chosen, entries.resolved, strict=True) if kept)
    evidence = Evidence(
        name=name,
        shape=gradient.shape,
        norm=bench.sizes[name].norm,
        entries=entries.pairs.where(entries.resolved),
        index=index,
        directions=directions.pairs.where(directions.resolved),
        unresolved=int((~entries.resolved & ~entries.kinked).sum()),
        kinks=int(entries.kinked.sum()),
        coverage=coverage(gradient, index, bench.sizes[name].norm),
        step_size=singles.steps.start,
        noise=entries.sigma,
        rough=entries.rough or directions.rough,
        survives=True,
        deaf=heard.is_deaf and not bench.noise,
        still=bool(entries.points.still.all() and directions.points.still.all()),
        blocks={block: np.array([mask[place] for place in index], dtype=bool) for block, mask in blocks.items()},
    )
    return Examined(evidence, singles, through, heard, _amplification(bench, name, entries, directions))


def _amplification(bench: Bench, name: str, entries: Settled, directions: Settled) -> float:
    usual = np.array([bench.rounding_of_entry(name).total, bench.rounding_of_direction(name).total])
    found = np.array([np.median(entries.rounding), np.median(directions.rounding)])
    return float(np.max(found[usual > 0] / usual[usual > 0], initial=1.0))


def coverage(gradient: Array, index: Sequence[tuple[int, ...]], norm: float) -> float:
    """The share of ||g||^2 that some entries hold; of a gradient of zeros they hold all, if there are any."""
    if norm == 0 or not index:
        return 1.0 if index else 0.0
    return float(np.sum((np.array([float(gradient[place]) for place in index]) / norm) ** 2))
