"""The deep check of one tensor: many entries and some directions, each at a step that suits it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradguard import noise, probes
from gradguard.bench import Bench
from gradguard.evidence import Evidence
from gradguard.parameters import Array
from gradguard.settle import settle
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
class Examined:
    """A deep check of one tensor: what it says, and what later checks start from.

    Attributes:
        evidence: For the diagnosis.
        entry_steps: The steps of entries, the usual one first.
        entry_sigma: The noise of the loss along entries.
        direction_steps: Those of directions.
        direction_sigma: The noise of the loss along directions.
        stretch_of_entries: How many times the first step the usual one of entries is.
        stretch_of_directions: And that of directions.
        noise: The noise of the loss near the tensor as it is.
        amplification: How much larger backprop's own rounding error is than its usual bound.
    """

    evidence: Evidence
    entry_steps: Steps
    entry_sigma: float
    direction_steps: Steps
    direction_sigma: float
    stretch_of_entries: float
    stretch_of_directions: float
    noise: noise.Noise
    amplification: float


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
    entry_steps, direction_steps = bench.steps_of_entries(name), bench.steps_of_directions(name)
    usual = entry_steps.start
    if before is not None:
        entry_steps = entry_steps.starting_at(entry_steps.start * before.stretch_of_entries * CAUTION)
        direction_steps = direction_steps.starting_at(direction_steps.start * before.stretch_of_directions * CAUTION)
    entries = settle(bench, name, chosen, bench.rounding_of_entry(name), heard, entry_steps)
    # Directions are few and carry the most: their steps are made as good as they can be.
    rounding = bench.rounding_of_direction(name)
    directions = settle(bench, name, along, rounding, heard, direction_steps, enough=np.inf)
    entry_step, direction_step = float(np.median(entries.points.step)), float(np.median(directions.points.step))
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
        step_size=entry_step,
        noise=entries.sigma,
        rough=entries.rough or directions.rough,
        survives=entries.survives or directions.survives,
        deaf=heard.is_deaf and not bench.noise,
        still=bool(entries.points.still.all() and directions.points.still.all()),
        blocks={block: np.array([mask[place] for place in index], dtype=bool) for block, mask in blocks.items()},
    )
    return Examined(
        evidence=evidence,
        entry_steps=entry_steps.starting_at(entry_step),
        entry_sigma=entries.sigma,
        direction_steps=direction_steps.starting_at(direction_step),
        direction_sigma=directions.sigma,
        stretch_of_entries=entry_step / usual,
        stretch_of_directions=direction_step / usual,
        noise=heard,
        amplification=_amplification(bench, name, entries, directions),
    )


def _amplification(bench: Bench, name: str, entries: Settled, directions: Settled) -> float:
    usual = np.array([bench.rounding_of_entry(name).total, bench.rounding_of_direction(name).total])
    found = np.array([np.median(entries.rounding), np.median(directions.rounding)])
    return float(np.max(found[usual > 0] / usual[usual > 0], initial=1.0))


def coverage(gradient: Array, index: Sequence[tuple[int, ...]], norm: float) -> float:
    """The share of ||g||^2 that some entries hold; of a gradient of zeros they hold all, if there are any."""
    if norm == 0 or not index:
        return 1.0 if index else 0.0
    return float(np.sum((np.array([float(gradient[place]) for place in index]) / norm) ** 2))
