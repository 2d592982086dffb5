"""The deep check of one tensor: many entries and some directions, each at a step that suits it.

A difference that disagrees with the gradient is measured again at other steps before it counts: a bug keeps its
ratio, a kink or truncation moves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard import noise, probes
from gradguard.bench import Bench
from gradguard.differences import NOISE_OF_NUMERICAL, FourPoint
from gradguard.evidence import Evidence, Pairs
from gradguard.parameters import Float64
from gradguard.probes import Probe

ENTRIES = 300  # of a tensor, at most, unless asked for otherwise
ROUNDS = 6
PILOTS = 6
KINK = 25.0  # standard deviations of the noise by which the fourth difference shows a kink
SUSPICIOUS = 4.0  # standard deviations from which a difference is measured again
AGAIN = 64  # differences measured again at most, while those measured do not move
OTHER_STEPS = (1 / 2, 1 / 5)
NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2
ASTRAY = 2  # roundings all through a pass, in moves of the parameters by one roundoff
NUDGED = 16  # differences measured there


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a deep check measures of a tensor.

    Attributes:
        entries: Single entries, at most.
        aligned: Directions along masks of the gradient, which resolve an error of scale best.
        gaussian: Directions that see what the gradient misses.
    """

    entries: int = ENTRIES
    aligned: int = 4
    gaussian: int = 4


Measure = Callable[[NDArray[np.intp], Float64], FourPoint]


@dataclass(frozen=True, slots=True)
class Settled:
    """Differences at steps that suit them.

    Attributes:
        points: The differences, of K probes.
        sigma: The noise of the loss along these probes.
        rounding: Backprop's own rounding error along each, (K,).
        moved: How far n moved beyond the noise at other steps, (K,); 0 where it was not measured again.
    """

    points: FourPoint
    sigma: float
    rounding: Float64
    moved: Float64

    @property
    def pairs(self) -> Pairs:
        """The derivatives with their bars."""
        return Pairs.measured(self.points, self.sigma, self.rounding, self.moved)

    @property
    def resolved(self) -> NDArray[np.bool_]:
        """Where a step was found at which truncation is small, or small enough beside the derivative itself."""
        short_enough = self.points.truncation_in_noise(self.sigma) <= noise.TOO_LONG_Z3
        negligible = self.points.truncation_bar(self.sigma) <= 1e-3 * np.abs(self.points.numerical)
        return np.isfinite(self.points.n) & (short_enough | negligible) & ~self.kinked

    @property
    def kinked(self) -> NDArray[np.bool_]:
        """Where left and right slopes differ: the even part grows as the step, not as its square."""
        even1, even2 = self.points.even1, self.points.even2
        growth = np.divide(even2, even1, where=even1 != 0, out=np.zeros_like(even1))
        grows_linearly = (growth > 1.5) & (growth < 2.7)
        return grows_linearly & (np.abs(self.points.fourth) > KINK * self.sigma)


@dataclass(frozen=True, slots=True)
class Examined:
    """A deep check of one tensor: what it says, and what later checks start from.

    Attributes:
        evidence: For the diagnosis.
        entry_step: The usual step of an entry.
        entry_sigma: The noise of the loss along entries.
        direction_step: The usual step of a direction.
        direction_sigma: The noise of the loss along directions.
        dtype: What the loss's values are rounded to.
        amplification: How much larger backprop's own rounding error is than its usual bound.
    """

    evidence: Evidence
    entry_step: float
    entry_sigma: float
    direction_step: float
    direction_sigma: float
    dtype: np.dtype[Any]
    amplification: float


def examine(
    bench: Bench, name: str, effort: Effort, rng: np.random.Generator, blocks: Mapping[str, NDArray[np.bool_]]
) -> Examined:
    """Measure entries of a tensor (all, if it has few) and directions through it."""
    gradient = bench.gradients[name]
    sigma, dtype = noise.jitter(bench.objective, name, bench.centre, rng)
    floor = noise.rounding_floor(bench.objective, bench.centre, dtype)
    chosen = probes.entries(gradient, effort.entries, rng)
    along = [probes.aligned(gradient, rng) for _ in range(effort.aligned)]
    along += [probes.gaussian(gradient.shape, rng) for _ in range(effort.gaussian)]
    entries = _settle(bench, name, chosen, bench.rounding_of_entry(name), sigma, floor)
    directions = _settle(bench, name, along, bench.rounding_of_direction(name), sigma, floor)
    entry_step = float(np.median(entries.points.step))
    index = tuple(probe.index for probe, kept in zip(chosen, entries.resolved, strict=True) if kept)
    evidence = Evidence(
        name=name,
        shape=gradient.shape,
        norm=float(np.linalg.norm(gradient)),
        entries=entries.pairs.where(entries.resolved),
        index=index,
        directions=directions.pairs.where(directions.resolved),
        unresolved=int((~entries.resolved & ~entries.kinked).sum()),
        kinks=int(entries.kinked.sum()),
        coverage=_coverage(gradient, index),
        step_size=entry_step,
        noise=entries.sigma,
        blocks={block: np.array([mask[place] for place in index], dtype=bool) for block, mask in blocks.items()},
    )
    return Examined(
        evidence=evidence,
        entry_step=entry_step,
        entry_sigma=entries.sigma,
        direction_step=float(np.median(directions.points.step)),
        direction_sigma=directions.sigma,
        dtype=dtype,
        amplification=_amplification(bench, name, entries, directions),
    )


def _amplification(bench: Bench, name: str, entries: Settled, directions: Settled) -> float:
    usual = np.array([bench.rounding_of_entry(name), bench.rounding_of_direction(name)])
    found = np.array([np.median(entries.rounding), np.median(directions.rounding)])
    return float(np.max(found[usual > 0] / usual[usual > 0], initial=1.0))


def _coverage(gradient: Float64, index: Sequence[tuple[int, ...]]) -> float:
    largest = float(np.abs(gradient).max(initial=0.0))
    if largest == 0 or not index:
        return 1.0 if index else 0.0
    seen = np.array([gradient[place] for place in index]) / largest
    return float(np.sum(seen**2) / np.sum((gradient / largest) ** 2))


def _settle(bench: Bench, name: str, chosen: Sequence[Probe], rounding: float, prior: float, floor: float) -> Settled:
    def measure(which: NDArray[np.intp], steps: Float64) -> FourPoint:
        return bench.measure(name, [chosen[i] for i in which], steps)

    spacing = float(np.spacing(np.abs(bench.objective.space.arrays[name]).max()))
    everywhere = np.arange(len(chosen))
    pilots = everywhere[:: -(-len(chosen) // PILOTS)]
    start, sigma = _pilot(measure, pilots, bench.start_step(name), prior, floor)
    points = measure(everywhere, np.full(len(chosen), start))
    for _ in range(ROUNDS):
        sigma = min(sigma, noise.from_fourth_differences(points, prior, floor))
        steps = np.maximum(_next_steps(points, sigma, bench.roundoff), 64 * spacing)
        redone = steps != points.step
        if not redone.any():
            break
        points = points.where(redone, measure(everywhere[redone], steps[redone]))
    calm = points.take(points.truncation_in_noise(sigma) <= noise.TOO_LONG_Z3)
    settled = Settled(
        points,
        noise.from_fourth_differences(calm, sigma, floor),
        np.full(len(chosen), rounding),
        np.zeros(len(chosen)),
    )
    if settled.pairs.where(settled.resolved).significance <= SUSPICIOUS:
        return settled
    settled = _measured_again(settled, measure)
    return replace(settled, rounding=_amplified(bench, name, chosen, settled))


def _pilot(measure: Measure, which: NDArray[np.intp], step: float, prior: float, floor: float) -> tuple[float, float]:
    """The step at which truncation just shows for a few probes of the tensor, and sigma.

    The fourth difference holds noise at short steps, and truncation too at long ones: the least of them is sigma.
    """
    sigma = np.inf
    for _ in range(ROUNDS + 2):
        points = measure(which, np.full(which.size, step))
        sigma = min(sigma, noise.from_fourth_differences(points, prior, floor))
        moving = points.odd2 != 0
        z3 = np.quantile(points.truncation_in_noise(sigma)[moving], 0.75) if moving.any() else 0.0
        if not np.isfinite(z3):
            step /= 4
        elif z3 > noise.TOO_LONG_Z3:
            step /= float(np.clip((z3 / noise.TARGET_Z3) ** (1 / 3), 1.3, 10))
        elif z3 < noise.TOO_SHORT_Z3:
            step *= 3
        else:
            break
    return step, float(sigma)


def _next_steps(points: FourPoint, sigma: float, roundoff: float) -> Float64:
    """Each probe's better step; the same where its bar is already below backprop's own rounding."""
    z3 = points.truncation_in_noise(sigma)
    weak = np.abs(points.numerical) < 30 * NOISE_OF_NUMERICAL * sigma
    with np.errstate(invalid="ignore"):
        fine = points.bar(sigma) <= roundoff * np.nanmax(np.abs(points.n), initial=0.0)
    return np.where(fine, points.step, noise.better_step(points.step, z3, weak))


def _measured_again(settled: Settled, measure: Measure) -> Settled:
    """Widen the bars of what disagrees with the gradient by how far it moves at other steps."""
    z = np.abs(settled.pairs.z)
    order = np.argsort(-z, kind="stable")
    first, rest = order[:AGAIN], order[AGAIN:]
    moved = settled.moved.copy()
    moved[first] = _movement(settled, measure, first)
    rest = rest[z[rest] > SUSPICIOUS]
    if rest.size and moved[first].any():
        moved[rest] = _movement(settled, measure, rest)
    return replace(settled, moved=moved)


def _movement(settled: Settled, measure: Measure, which: NDArray[np.intp]) -> Float64:
    before = settled.points.take(which)
    furthest = np.zeros(which.size)
    for factor in OTHER_STEPS:
        again = measure(which, before.step * factor)
        spread = NOISE_OF_NUMERICAL * settled.sigma * np.hypot(1 / before.length, 1 / again.length)
        moved = np.maximum(0, np.abs(again.n - before.n) - 3 * spread)
        furthest = np.maximum(furthest, np.where(np.isfinite(moved), moved, np.inf))
    return furthest


def _amplified(bench: Bench, name: str, chosen: Sequence[Probe], settled: Settled) -> Float64:
    """Backprop's own rounding error where the forward pass amplifies roundings, as a sharp recurrence does.

    Backprop follows the rounded forward pass. How far that leads it astray is how far the derivatives move when the
    parameters do by a rounding; they are moved further, so that it shows, and the effect is scaled back.
    """
    suspects = np.argsort(-np.abs(settled.pairs.z), kind="stable")[:NUDGED]
    before = settled.points.take(suspects)
    furthest = np.zeros(suspects.size)
    for seed in range(NUDGES):
        with bench.nudged(NUDGE, seed) as nudged:
            after = nudged.measure(name, [chosen[i] for i in suspects], before.step)
        furthest = np.maximum(furthest, np.nan_to_num(np.abs(after.n - before.n), nan=np.inf))
    astray = ASTRAY * bench.roundoff / NUDGE * furthest
    rounding: Float64 = np.maximum(settled.rounding, np.sqrt(np.mean(astray**2)))
    rounding[suspects] = np.maximum(rounding[suspects], astray)
    return rounding
