"""Curves over step sizes: the discrepancy at each step, and the floor that noise and truncation put under it.

A sweep measures m entries at J steps, shortest first. n[j] holds the two-point differences at step h[j], g the
derivatives from backprop. The error of n comes from loss values alone, never from g: the noise of two losses adds
sigma / (sqrt(2) h), and truncation adds c h^2, where c shows in how n changes from step to step.

`FourPoint.truncation_bar` bounds the same two errors, truncation and kinks, of one four-point difference from its own
five losses. A sweep has only three losses at each step, so it estimates them from how the differences of all steps
compare.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64
from gradguard.report import finite_or_none, to_plain
from gradguard.statistics import Ratio, discrepancy_of, fit_ratio

MAJORITY = 0.5  # share of the entries above which a sentence says "most entries"
CONSISTENT_SIGMAS = 3.0  # standard deviations of the noise of all entries within which two steps agree
KINK_SIGMAS = 25.0  # noise of one loss; about 10 standard deviations of an even part, which has sqrt(6) sigma
MAX_EXCESS = 3.0  # error bars, at three steps in a row; of 1,950 correct tensors none exceeded 2.1 at all three
UNRESOLVED_FLOOR = 0.5  # above it the error bar of n is more than 4/3 of n
UNINFORMATIVE_FLOOR = 0.1  # above it the error bar of n is more than a fifth of n


@dataclass(frozen=True, slots=True, eq=False)
class TwoPointDifferences:
    """The two-point differences of m entries at J steps, and their errors.

    Attributes:
        steps: h, rising, (J,).
        n: Numerical derivatives, (J, m); 0 where the parameter's dtype rounds the step away.
        deviation: Standard deviation of n from the noise of the loss, (J, m).
        truncation: Estimated error of n from truncation and kinks, (J, m); inf where n is not finite.
        loss_unchanged: True where the loss is the same at both points and between them, (J, m).
        step_rounded_away: True where the parameter's dtype rounds both points to the same number, (J, m).
        g: Derivatives from backprop, (m,).
        rounding: Rounding error of backprop in each entry, estimated from the size of n, (m,).
    """

    steps: Float64
    n: Float64
    deviation: Float64
    truncation: Float64
    loss_unchanged: NDArray[np.bool_]
    step_rounded_away: NDArray[np.bool_]
    g: Float64
    rounding: Float64

    @property
    def bar(self) -> Float64:
        """The error bar of each difference, (J, m)."""
        return np.hypot(self.deviation, self.truncation)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What a group of entries shows at each of J steps, shortest first; every array has shape (J,).

    Attributes:
        steps: h, in units of the parameters.
        discrepancy: ||n - g|| / (||n|| + ||g||), n numerical, g backprop; nan where either is not finite.
        floor: The discrepancy that a correct gradient would show, from loss values alone.
        excess: ||n - g|| in error bars of n: about 1 for a correct gradient.
        noise: The part of the floor from the rounding noise of the loss, sigma / (sqrt(2) h).
        truncation: The part of the floor from the curvature of the loss, which grows with the step, and from kinks.
        rounding: The part of the floor from the rounding of backprop, the same at each step.
        loss_unchanged: The share of entries for which the loss does not change, of those that change it at any step.
        step_rounded_away: The share of entries whose dtype rounds the step away.
        ratio: n / g, pooled; nan where there is none.
        ratio_error: One standard error of `ratio`.
        scaled_discrepancy: The discrepancy of n and `ratio` x g: what remains once the best single factor is applied.
        best: The index of the step with the lowest floor.
    """

    steps: Float64
    discrepancy: Float64
    floor: Float64
    excess: Float64
    noise: Float64
    truncation: Float64
    rounding: float
    loss_unchanged: Float64
    step_rounded_away: Float64
    ratio: Float64
    ratio_error: Float64
    scaled_discrepancy: Float64
    best: int

    @property
    def best_step(self) -> float:
        """The step with the lowest floor; it does not depend on the gradient."""
        return float(self.steps[self.best])

    @property
    def loss_unchanged_up_to(self) -> float | None:
        """The longest step up to which the loss does not change for most entries; None if it changes at every step."""
        changing = np.flatnonzero(self.loss_unchanged <= MAJORITY)
        count = int(changing[0]) if changing.size else len(self.steps)
        return float(self.steps[count - 1]) if count else None

    @property
    def loss_changes(self) -> bool:
        """Whether the loss changes at any step, for any of the entries."""
        return bool(self.loss_unchanged.min() < 1)

    @property
    def explained(self) -> bool | None:
        """Whether float precision explains the discrepancy; None where the floor is too high at every step to tell.

        It does not where n and g are more than `MAX_EXCESS` error bars apart at the best step and at both neighbours.
        """
        neighbours = slice(max(0, self.best - 1), self.best + 2)
        if (self.excess[neighbours] > MAX_EXCESS).all():
            return False
        is_informative = self.floor[self.best] <= UNINFORMATIVE_FLOOR and math.isfinite(self.discrepancy[self.best])
        return True if is_informative or self.discrepancy[self.best] == 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain dicts, lists, strings and numbers; numbers that are not finite become None."""
        names = [*field_values(self), "best_step", "loss_unchanged_up_to", "explained"]
        return {name: to_plain(getattr(self, name), finite_or_none) for name in names}


@dataclass(frozen=True, slots=True, eq=False)
class SweepCurves(Curve):
    """The curve of all entries together, and the curve of each tensor.

    Attributes:
        tensors: The curve of each tensor, by name.
    """

    tensors: Mapping[str, Curve]

    def to_dict(self) -> dict[str, Any]:
        """The curves as plain dicts, lists, strings and numbers; numbers that are not finite become None."""
        return Curve.to_dict(self) | {"tensors": {name: curve.to_dict() for name, curve in self.tensors.items()}}


def field_values(curve: Curve) -> dict[str, Any]:
    """The fields of a curve by name, not copied."""
    return {field.name: getattr(curve, field.name) for field in dataclasses.fields(curve)}


def curves_of_sweep(measured: Mapping[str, TwoPointDifferences]) -> SweepCurves:
    """The curves of a sweep from the differences of each tensor."""
    tensors = {name: curve_of(differences) for name, differences in measured.items()}
    return SweepCurves(**field_values(curve_of(concatenated(list(measured.values())))), tensors=tensors)


def curve_of(measured: TwoPointDifferences) -> Curve:
    """The curve of a group of entries."""
    best = best_step_index(measured.bar)
    size = math.sqrt(max(0.0, float(np.sum(measured.n[best] ** 2) - np.sum(measured.deviation[best] ** 2))))
    ratios = [_ratio(measured, j) for j in range(len(measured.steps))]
    changing = ~measured.loss_unchanged.all(axis=0)
    unchanged = measured.loss_unchanged[:, changing]
    bars = np.hypot(_norms(measured.bar), _norms(measured.rounding[None]))
    usable = (bars > 0) & np.isfinite(bars)
    scaled = [_discrepancy(n, ratio.value * measured.g) for n, ratio in zip(measured.n, ratios, strict=True)]
    return Curve(
        steps=measured.steps,
        discrepancy=np.array([_discrepancy(n, measured.g) for n in measured.n]),
        floor=as_discrepancy(bars, size),
        excess=np.divide(_norms(measured.n - measured.g), bars, out=np.zeros_like(bars), where=usable),
        noise=as_discrepancy(_norms(measured.deviation), size),
        truncation=as_discrepancy(_norms(measured.truncation), size),
        rounding=float(as_discrepancy(_norms(measured.rounding[None]), size)[0]),
        loss_unchanged=unchanged.mean(axis=1) if changing.any() else np.ones(len(measured.steps)),
        step_rounded_away=measured.step_rounded_away.mean(axis=1),
        ratio=np.array([ratio.value for ratio in ratios]),
        ratio_error=np.array([ratio.error for ratio in ratios]),
        scaled_discrepancy=np.array(scaled),
        best=best,
    )


def best_step_index(bar: Float64) -> int:
    """The index of the step with the smallest norm of the error bars (J, m)."""
    return int(np.argmin(_norms(bar)))


def as_discrepancy(bars: Float64, size: float) -> Float64:
    """The discrepancy that a correct gradient of norm `size` shows, (J,), for error bars of norm `bars`, (J,).

    ||n||^2 is then size^2 + bars^2. The discrepancy is bars / (2 size) where the bars are small, and 1 where the
    gradient is small beside them.
    """
    total = np.hypot(bars, size) + size
    shares: Float64 = np.divide(bars, total, out=np.ones_like(bars), where=(total > 0) & np.isfinite(total))
    return shares


def concatenated(parts: Sequence[TwoPointDifferences]) -> TwoPointDifferences:
    """The differences of several tensors at the same steps as those of one."""
    fields = [field.name for field in dataclasses.fields(TwoPointDifferences) if field.name != "steps"]
    merged = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in fields}
    return TwoPointDifferences(steps=parts[0].steps, **merged)


def truncation_across_steps(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    """The truncation error of each difference, (J, m), estimated from how n changes with the step.

    The most trustworthy step is taken for the truth. Up to that step the error falls as h^2; beyond it the error is the
    distance from n at that step.

    Args:
        steps: h, rising, (J,).
        n: The two-point differences, (J, m).
        deviation: Standard deviation of n from the noise of the loss, (J, m).
    """
    errors = np.full_like(n, np.inf)
    finite = np.flatnonzero(np.isfinite(n).all(axis=1))
    if finite.size > 1:
        errors[finite] = _finite_truncation(steps[finite], n[finite], deviation[finite])
    return errors


def _finite_truncation(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    nearby = _truncation_between_neighbours(steps, n, deviation)
    truest = int(np.argmin(_norms(np.hypot(deviation, nearby)) + _inconsistency(n, deviation)))
    falling = np.minimum(1, (steps / steps[truest]) ** 2)[:, None] * nearby[truest]
    distance = _beyond_noise(n - n[truest], np.hypot(deviation, deviation[truest]))
    errors: Float64 = falling + np.where((steps > steps[truest])[:, None], distance, 0.0)
    return errors


def _truncation_between_neighbours(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    """C h^2 at each step, (J, m), from the change to the next longer step; at the longest from the next shorter."""
    change = _beyond_noise(np.diff(n, axis=0), np.hypot(deviation[1:], deviation[:-1]))
    curvature = change / np.diff(steps**2)[:, None]
    at_each: Float64 = np.concatenate([curvature, curvature[-1:]]) * steps[:, None] ** 2
    return at_each


def _inconsistency(n: Float64, deviation: Float64) -> Float64:
    """The largest distance of n at each step from n at any shorter step, beyond the noise of both, (J,).

    Where the loss saturates, n changes little from step to step and is still far from n at shorter steps.

    Source: Goldenshluger and Lepski 2011, on the choice of a bandwidth.
    """
    noise = _norms(deviation)
    distance = np.linalg.norm(n[:, None] - n, axis=-1) - CONSISTENT_SIGMAS * np.hypot(noise[:, None], noise)
    largest: Float64 = np.tril(distance, -1).max(axis=1)
    return largest


def _beyond_noise(change: Float64, deviation: Float64) -> Float64:
    """The part of each change that noise does not explain, (J, m): each row shrinks by one factor to its right norm."""
    squares, noise = np.sum(change**2, axis=1), np.sum(deviation**2, axis=1)
    share = np.maximum(0, 1 - np.divide(noise, squares, out=np.ones_like(noise), where=squares > 0))
    beyond: Float64 = np.sqrt(share)[:, None] * np.abs(change)
    return beyond


def kink_error_across_steps(steps: Float64, even: Float64, length: Float64, sigma: float) -> Float64:
    """The largest error of each difference from a kink, (J, m): half the difference of the slopes left and right.

    The even part L(x + h) - 2 L(x) + L(x - h) grows as h^2 if the loss is smooth, and as h if it has a kink near x. The
    growth is read where the even part first exceeds the noise.

    Args:
        steps: h, rising, (J,).
        even: The even parts, (J, m).
        length: The realised distance of the two points, (J, m).
        sigma: The noise of one loss.
    """
    size = np.abs(even)
    clear = size > KINK_SIGMAS * sigma
    first = np.minimum(clear.argmax(axis=0), len(steps) - 2)
    entry = np.arange(even.shape[1])
    at_first, after = size[first, entry], size[first + 1, entry]
    # A power of 1.5 lies halfway between the growth of a kink and that of a smooth loss.
    kinked = clear[first, entry] & (after < (steps[first + 1] / steps[first]) ** 1.5 * at_first)
    return np.divide(size, length, out=np.zeros_like(size), where=clear & kinked & (length > 0))


def _ratio(measured: TwoPointDifferences, j: int) -> Ratio:
    if not (np.isfinite(measured.bar[j]).all() and np.isfinite(measured.g).all()):
        return Ratio(math.nan, math.inf, math.nan, math.nan)
    return fit_ratio(measured.n[j], measured.g, measured.bar[j], measured.rounding)


def _discrepancy(n: Float64, g: Float64) -> float:
    return discrepancy_of(n, g) if np.isfinite(n).all() and np.isfinite(g).all() else math.nan


def _norms(rows: Float64) -> Float64:
    norms: Float64 = np.linalg.norm(rows, axis=1)
    return norms
