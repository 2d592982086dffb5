"""How noisy the loss is.

The rounding noise of a loss is no fixed multiple of its last digit: 0.005 to 73 units in the last place were seen. It
is measured, never assumed. sigma is always the standard deviation of one evaluation of the (reduced) loss.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import reductions
from gradguard.arrays.floating_point import quanta, resolution, ulp, unit_roundoff
from gradguard.arrays.random import direction_dtype
from gradguard.arrays.reductions import typical_size_among
from gradguard.arrays.types import Array, Float64
from gradguard.differences.four_point import NOISE_OF_FOURTH, FourPoint
from gradguard.loss.interleaving import Search, alone
from gradguard.loss.objective import LossRequest, Objective
from gradguard.perturbation.directions import Direction

JITTER = 256  # in unit roundoffs: closer points share their rounding errors
PAIRS = 16
PRIOR = 2
WIDENINGS = (1, 2**4, 2**8, 2**12, 2**16, 2**24, 2**32, 2**45)  # of the jitter, while the loss hardly moves
NARROWINGS = tuple(4.0**-power for power in range(1, 7))  # of that, where the loss may bend within it
NEAREST = 1 / 64  # of the jitter: 4 roundoffs
FEWEST = 4  # points, of a loss that moves at some only, that tell how far it jumps
LOUD = 10.0  # floors, from which what is heard may be a bend
BENDS = 2.0  # times less is heard so much closer: of a bend 16 times less
MOVING = 0.75  # of the times that a loss moves, if it ever does, from which its quanta show


@dataclass(frozen=True, slots=True)
class Noise:
    """How noisy the loss is near the unperturbed parameters.

    Attributes:
        sigma: Standard deviation of one evaluation.
        floor: What rounding the losses to their quanta adds by itself; sigma is not less.
        dtype: The coarsest dtype that holds the losses.
        least: What rounding to `dtype` would add.
        is_unknown: Whether the loss did not move at all, so that nothing is known of its quanta.
    """

    sigma: float
    floor: float
    dtype: np.dtype[Any]
    least: float
    is_unknown: bool = False

    def at_least(self, sigma: float) -> "Noise":
        """The same, where the noise is known from elsewhere to be no less."""
        return replace(self, sigma=max(self.sigma, sigma), floor=max(self.floor, sigma))

    def floor_at(self, objective: Objective, centre: Float64) -> float:
        """The floor for other losses, of another batch: as much coarser than their dtype as these were."""
        coarseness = self.floor / self.least if self.least > 0 else 1.0
        return coarseness * _rounding(objective, ulp(centre, self.dtype))


def estimate_noise(objective: Objective, name: str, centre: Float64, rng: np.random.Generator) -> Noise:
    """The noise of the loss near the unperturbed parameters, along one tensor."""
    return alone(objective, noise_search(objective, name, centre, rng))


def noise_search(objective: Objective, name: str, centre: Float64, rng: np.random.Generator) -> Search[Noise]:
    """The noise of the loss, from antithetic pairs of points some hundred roundoffs from x.

    The sum of the losses at x + e and x - e is free of the slope, so that its variance is that of the noise. Two
    evaluations a pair; more where the loss hardly moves so close: what stays the same tells nothing of its quanta; and
    where it bends so close, as a sharp recurrence does: what falls as the square of the distance is no noise. Of
    unreduced losses each is listened to where it begins to move: at the first timesteps that may be far from where the
    last ones bend.

    Source: Shi, Xie, Xuan and Nocedal 2022 (10.1137/21M1452470) discuss such sampling; the spacing is measured.
    """
    reach = JITTER * unit_roundoff(objective.space.arrays[name].dtype)
    left, lattice, variance = np.ones(centre.size, bool), np.empty(centre.size), 0.0
    for widening in WIDENINGS:  # at last by all of the tensor
        distance = min(1.0, widening * reach)
        pairs = yield from _pairs(objective, name, distance, rng)
        losses = np.concatenate([centre[None], pairs.reshape(-1, centre.size)])
        dtype = resolution(losses.reshape(-1), objective.dtype)
        moved = losses[1:] != centre
        is_last = _moving(moved[:, left]) >= MOVING or distance == 1
        heard = left if is_last else left & (moved.mean(axis=0) >= MOVING)
        lattice[heard] = quanta(losses, dtype)[heard]
        part, rounded = _Part(objective, centre, heard), _rounding(objective, lattice[heard])
        sigma = before = part.sigma(pairs)
        for narrowing in NARROWINGS if sigma > LOUD * rounded else ():
            if narrowing * distance < NEAREST * reach or sigma <= LOUD * rounded:
                break
            pairs = yield from _pairs(objective, name, narrowing * distance, rng)
            share = part.moving(pairs)
            if share * 2 * PAIRS < FEWEST:
                break
            nearer = part.sigma(pairs) / math.sqrt(share)
            sigma, before = (nearer if BENDS * nearer <= before else sigma), nearer
        variance += sigma**2
        left = left & ~heard
        if is_last:
            break
    floor, least = _rounding(objective, lattice), _rounding(objective, ulp(centre, dtype))
    return Noise(max(math.sqrt(variance), floor), floor, dtype, least, is_unknown=not moved.any())


@dataclass(frozen=True, slots=True)
class _Part:
    """Those of the unreduced losses that begin to move at much the same distance."""

    objective: Objective
    centre: Float64
    which: NDArray[np.bool_]

    def sigma(self, pairs: Float64) -> float:
        """Sigma from the losses at antithetic pairs of points, (k, 2, m); 0 where fewer than two are finite."""
        with np.errstate(invalid="ignore"):
            sums = self.objective.totals((pairs.sum(axis=1) - 2 * self.centre)[:, self.which])
        finite = sums[np.isfinite(sums)]
        return float(np.std(finite, ddof=1) / np.sqrt(2)) if finite.size > 1 else 0.0

    def moving(self, pairs: Float64) -> float:
        """The share of the points at which they move, those of them that do."""
        return _moving((pairs != self.centre)[..., self.which].reshape(2 * len(pairs), -1))


def _moving(moved: NDArray[np.bool_]) -> float:
    """The share of the points at which losses move, those that move at all; shape (k, m)."""
    return float(np.mean(moved[:, moved.any(axis=0)])) if moved.any() else 0.0


def _pairs(objective: Objective, name: str, reach: float, rng: np.random.Generator) -> Search[Float64]:
    """Losses at antithetic pairs of points, each entry moved by about a share `reach` of it; shape (PAIRS, 2, m)."""
    base = objective.space.arrays[name]
    typical = 0.0 if base.all() else typical_size_among(base, objective.space.arrays)

    def offset() -> Array:
        drawn: Array = np.asarray(rng.standard_normal(base.shape, direction_dtype(base)))
        pieces = reductions.written(drawn, drawn, base)
        with pieces:
            for target, share, size in pieces:
                scaled = share * (reach * np.where(size == 0, typical, size))
                target[...] = np.where(np.isfinite(size), scaled, 0)
        return drawn

    pairs = [Direction(offset) for _ in range(PAIRS)]
    nothing = np.broadcast_to(np.zeros((), base.dtype), base.shape)
    answer = yield LossRequest(name, pairs, np.tile([1.0, -1.0], (PAIRS, 1)), nothing)
    return answer.losses


def _rounding(objective: Objective, quantum: Float64) -> float:
    """The sigma that rounding each loss to its quantum adds by itself."""
    return objective.spread(quantum) / float(np.sqrt(12))


def from_fourth_differences(points: FourPoint, prior: float, floor: float) -> float:
    """Sigma from the fourth differences of many probes: their winsorised RMS about their mean.

    Args:
        points: Differences at steps where truncation hardly shows.
        prior: An earlier sigma, perhaps of points that share their roundings; it counts as much as two differences.
        floor: sigma is not less than that.
    """
    fourth = points.fourth[np.isfinite(points.fourth)]
    if fourth.size < 2:
        return max(prior, floor)
    deviation = fourth - np.median(fourth)
    variance = max((np.median(np.abs(deviation)) / 0.6745) ** 2 / NOISE_OF_FOURTH**2, floor**2)
    for _ in range(4):
        variance = 1.02 * np.mean(np.minimum(deviation**2 / NOISE_OF_FOURTH**2, 9 * variance))
        variance = max(variance, floor**2)
    pooled = (fourth.size * variance + PRIOR * prior**2) / (fourth.size + PRIOR)
    return max(float(np.sqrt(pooled)), floor)


def updated_variance(variance: float, fourth: float, checks: int) -> float:
    """The running noise variance after one more fourth difference (all five points): an average of the last thirty.

    Args:
        variance: Before.
        fourth: x4, whose variance is 70 sigma^2.
        checks: How many fourth differences came before; the average is faster at first.
    """
    weight = max(0.03, 1 / (checks + 8))
    return (1 - weight) * variance + weight * 1.02 * min(fourth**2 / 70, 9 * variance)
