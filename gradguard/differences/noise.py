"""The rounding noise of the loss.

It is no fixed multiple of the last digit of the loss: 0.005 to 73 units in the last place were seen. So it is measured,
never assumed. sigma is always the standard deviation of one evaluation of the reduced loss.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import (
    Array,
    Float64,
    coarsest_dtype,
    direction_dtype,
    quanta_of_losses,
    reductions,
    typical_size_among,
    ulp,
    unit_roundoff,
)
from gradguard.differences.four_point import NOISE_OF_FOURTH, FourPoint
from gradguard.loss import LossRequest, Objective
from gradguard.perturbation import Direction, JointDirection, Part

JITTER = 256  # unit roundoffs between points: closer ones share their rounding errors and read up to 100 times low
PAIRS = 16  # pairs of points: sigma is known to about 18 %
AMOUNTS = (1.0, -2.0)  # of an offset, at which the two points of a pair lie
NOISE_OF_PAIR = math.sqrt(5)  # standard deviation of 2 L(x + e) + L(x - 2e) in that of one loss
PRIOR = 2  # fourth differences that an earlier sigma counts as
WIDENINGS = (1, 2**4, 2**8, 2**12, 2**16, 2**24, 2**32, 2**45)  # factors on the jitter while the loss hardly changes
NARROWINGS = tuple(4.0**-power for power in range(1, 7))  # factors on the jitter where curvature may pass for noise
NEAREST = 1 / 64  # of the jitter, that is 4 roundoffs: nearer points are rounded to each other
FEWEST_CHANGES = 4  # points with a changed loss, of those in a narrower jitter, that still give a sigma
TOO_NOISY = 10.0  # ratio of sigma to the rounding of the losses above which it may be curvature
CURVATURE = 2.0  # ratio of sigma to that at a quarter of the jitter above which it is curvature, which makes it 16
CHANGING = 0.75  # share of points at which a loss changes from which its quanta show


@dataclass(frozen=True, slots=True)
class Noise:
    """The rounding noise of the loss near the unperturbed parameters, in units of the loss.

    Attributes:
        sigma: The standard deviation of one evaluation.
        floor: The part of sigma that rounding of the losses to their quanta makes; sigma is not less.
        dtype: The coarsest dtype that holds the losses.
        least: The part that rounding to `dtype` alone would make.
        is_unknown: Whether the loss did not change at all, so that its quanta are unknown.
    """

    sigma: float
    floor: float
    dtype: np.dtype[Any]
    least: float
    is_unknown: bool = False

    def floor_at(self, objective: Objective, centre: Float64) -> float:
        """The floor on another batch, whose losses are as much coarser than their dtype as these."""
        coarseness = self.floor / self.least if self.least > 0 else 1.0
        return coarseness * _rounding(objective, ulp(centre, self.dtype))


def estimate_noise(
    objective: Objective,
    names: Sequence[str],
    centre: Float64,
    rng: np.random.Generator,
    pairs: int = PAIRS,
    *,
    narrowed: bool = True,
) -> Noise:
    """The noise of the loss near the unperturbed parameters x, with all of some tensors moved at once.

    It comes from pairs of points some hundred roundoffs from x. The sum 2 L(x + e) + L(x - 2e) is free of the slope, so
    that its variance is that of the noise. Two points at the same distance would not do: a small change of a number
    that is rounded already is rounded alike on both sides, so that their sum hides it. Nor would two points on the same
    side, which hide a kink at x. One pair takes two evaluations. The points move
    further away where the loss hardly changes so near, since an unchanged loss does not show its quanta; and nearer
    where the loss curves so near, as a sharp recurrence does: what falls as the square of the distance is no noise.
    Unreduced losses are each measured where they begin to change, which may be far from x for the first timesteps,
    where the last ones already curve.

    Args:
        objective: The loss.
        names: The tensors, all moved at once.
        centre: The unreduced losses at x, shape (m,).
        rng: Draws the points.
        pairs: How many pairs of points: K pairs give sigma to about 1 / sqrt(2 K).
        narrowed: Whether to move nearer where the loss curves.

    Source: Shi, Xie, Xuan and Nocedal 2022 (10.1137/21M1452470) discuss such sampling; the spacing is measured.
    """
    jitter = _Jitter.of(objective, names, pairs)
    reach = JITTER * max(unit_roundoff(objective.space.arrays[name].dtype) for name in names)
    remaining, lattice, variance = np.ones(centre.size, bool), np.empty(centre.size), 0.0
    for widening in WIDENINGS:  # the last one moves each entry by all of itself
        distance = min(1.0, widening * reach)
        sampled = jitter.pairs(distance, rng)
        losses = np.concatenate([centre[None], sampled.reshape(-1, centre.size)])
        dtype = coarsest_dtype(losses.reshape(-1), objective.dtype)
        changed = losses[1:] != centre
        is_last = _share_changed(changed[:, remaining]) >= CHANGING or distance == 1
        which = remaining if is_last else remaining & (changed.mean(axis=0) >= CHANGING)
        lattice[which] = quanta_of_losses(losses, dtype)[which]
        part, rounded = _Part(objective, centre, which), _rounding(objective, lattice[which])
        sigma = part.sigma(sampled)
        if narrowed and sigma > TOO_NOISY * rounded:
            sigma = _without_curvature(part, jitter, sigma, rounded, (distance, NEAREST * reach), rng)
        variance += sigma**2
        remaining = remaining & ~which
        if is_last:
            break
    floor, least = _rounding(objective, lattice), _rounding(objective, ulp(centre, dtype))
    return Noise(max(math.sqrt(variance), floor), floor, dtype, least, is_unknown=not changed.any())


def _without_curvature(
    part: "_Part",
    jitter: "_Jitter",
    sigma: float,
    rounded: float,
    distances: tuple[float, float],
    rng: np.random.Generator,
) -> float:
    """Sigma from ever nearer points, for as long as it falls as curvature does.

    Args:
        part: The losses.
        jitter: Draws the points.
        sigma: Sigma at the first distance.
        rounded: The part of it that rounding to quanta makes.
        distances: The distance of the points so far, and the nearest one that makes sense.
        rng: Draws the points.
    """
    distance, nearest = distances
    for narrowing in NARROWINGS:
        if narrowing * distance < nearest or sigma <= TOO_NOISY * rounded:
            break
        pairs = jitter.pairs(narrowing * distance, rng)
        share = part.share_changed(pairs)
        if share * 2 * jitter.count < FEWEST_CHANGES:
            break
        nearer = part.sigma(pairs) / math.sqrt(share)
        if CURVATURE * nearer > sigma:
            break
        sigma = nearer
    return sigma


@dataclass(frozen=True, slots=True)
class _Part:
    """Those of the unreduced losses that begin to change at much the same distance."""

    objective: Objective
    centre: Float64
    which: NDArray[np.bool_]

    def sigma(self, pairs: Float64) -> float:
        """Sigma from the losses at pairs of points, (k, 2, m); 0 where fewer than two are finite."""
        with np.errstate(invalid="ignore"):
            sums = self.objective.totals((2 * pairs[:, 0] + pairs[:, 1] - 3 * self.centre)[:, self.which])
        finite = sums[np.isfinite(sums)]
        return float(np.std(finite, ddof=1) / NOISE_OF_PAIR) if finite.size > 1 else 0.0

    def share_changed(self, pairs: Float64) -> float:
        """The share of points at which a loss changes, over the losses that change anywhere."""
        return _share_changed((pairs != self.centre)[..., self.which].reshape(2 * len(pairs), -1))


def _share_changed(changed: NDArray[np.bool_]) -> float:
    """The share of points at which a loss changes, over the losses that change anywhere; `changed` is (k, m)."""
    return float(np.mean(changed[:, changed.any(axis=0)])) if changed.any() else 0.0


@dataclass(frozen=True, slots=True)
class _Jitter:
    """Draws pairs of points on both sides of x, one twice as far from it as the other.

    Attributes:
        objective: The loss.
        typical: The tensors that are moved, each with the size by which entries of 0 are moved.
        count: How many pairs.
    """

    objective: Objective
    typical: Mapping[str, float]
    count: int

    @classmethod
    def of(cls, objective: Objective, names: Sequence[str], count: int) -> "_Jitter":
        arrays = objective.space.arrays
        has_zeros = [name for name in names if not arrays[name].all()]
        typical = dict.fromkeys(names, 0.0) | {name: typical_size_among(arrays[name], arrays) for name in has_zeros}
        return cls(objective, typical, count)

    def pairs(self, reach: float, rng: np.random.Generator) -> Float64:
        """Losses at pairs of points, each entry moved by about `reach` times its value; shape (count, 2, m)."""
        if len(self.typical) > 1:
            return self._joint_pairs(reach, rng)
        (name,) = self.typical
        base = self.objective.space.arrays[name]
        moves = [Direction(self._offset(name, reach, int(rng.integers(2**63)))) for _ in range(self.count)]
        no_gradient = np.broadcast_to(np.zeros((), base.dtype), base.shape)
        request = LossRequest(name, moves, np.tile(AMOUNTS, (self.count, 1)), no_gradient)
        (values,) = self.objective.evaluate([request])
        return values.losses

    def _joint_pairs(self, reach: float, rng: np.random.Generator) -> Float64:
        """The losses at pairs of points at which all tensors are moved, shape (count, 2, m)."""
        arrays = {name: self.objective.space.arrays[name] for name in self.typical}
        entries = sum(array.size for array in arrays.values())
        points = []
        for _ in range(self.count):
            parts = {name: Part(Direction(self._offset(name, reach, int(rng.integers(2**63)))), 1.0) for name in arrays}
            points += [(JointDirection(parts, entries), amount) for amount in AMOUNTS]
        losses = self.objective.evaluate_along(points, arrays).losses
        return losses.reshape(self.count, 2, -1)

    def _offset(self, name: str, reach: float, seed: int) -> Callable[[], Array]:
        """The function that draws how far each entry of a tensor is moved, always the same."""
        base, typical = self.objective.space.arrays[name], self.typical[name]

        def offset() -> Array:
            drawn: Array = np.asarray(np.random.default_rng(seed).standard_normal(base.shape, direction_dtype(base)))
            pieces = reductions.writable_blocks(drawn, drawn, base)
            with pieces:
                for target, share, size in pieces:
                    scaled = share * (reach * np.where(size == 0, typical, size))
                    target[...] = np.where(np.isfinite(size), scaled, 0)
            return drawn

        return offset


def _rounding(objective: Objective, quantum: Float64) -> float:
    """The sigma that rounding each loss to its quantum makes: a uniform error has quantum / sqrt(12)."""
    return objective.spread(quantum) / float(np.sqrt(12))


def from_fourth_differences(points: FourPoint, prior: float, floor: float) -> float:
    """Sigma from the fourth differences of many probes: their winsorized root mean square about their median.

    The factor 1.02 makes up for the winsorizing at three standard deviations; 0.6745 is the median of |N(0, 1)|.

    Args:
        points: Differences at steps where truncation hardly shows.
        prior: An earlier sigma; it counts as much as `PRIOR` differences.
        floor: The least sigma.
    """
    # A loss that does not change at all shows no noise: its quanta are larger than the change.
    fourth = points.fourth[np.isfinite(points.fourth) & ~points.loss_unchanged]
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
    """The running noise variance after one more fourth difference: an exponential average over about thirty.

    Args:
        variance: The variance before.
        fourth: The fourth difference of all five points, whose variance is 70 sigma^2.
        checks: The number of fourth differences before; the average moves faster at first.
    """
    weight = max(0.03, 1 / (checks + 8))
    return (1 - weight) * variance + weight * 1.02 * min(fourth**2 / 70, 9 * variance)
