"""What a sweep over step sizes shows: the discrepancy, and the floor that noise and truncation put under it.

J steps, shortest first, and m entries throughout. n[j] are the two-point differences at step j, with an error of
sigma / (sqrt(2) h) from the noise of two losses and of c h^2 from truncation; c shows in how n changes from step to
step. Neither looks at the gradient.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64
from gradguard.statistics.discrepancy import discrepancy_of
from gradguard.statistics.ratio import Ratio, fit_ratio

CONSISTENT = 3.0  # standard deviations of the noise, all entries together, within which two steps agree
KINK = 25.0  # standard deviations of the noise by which the even part shows a kink
MOST = 0.5  # of the entries
TOO_FAR = 3.0  # error bars, at three steps in a row; on 1,950 correct tensors the least of three reached 2.1
UNRESOLVED = 0.5  # the floor above which n itself is not clear of its error bar
BLIND = 0.1  # the floor above which next to nothing can be told


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """The two-point differences of some entries at each step.

    Attributes:
        steps: h, (J,), rising.
        n: Numerical derivatives, (J, m); 0 where the parameter's dtype rounds the step away.
        deviation: The standard deviation that the loss's noise gives each, (J, m).
        truncation: How far truncation or a kink moved each, (J, m); inf where n is not finite.
        still: Where the loss was the same at both points and between them, (J, m).
        stuck: Where the two points were the same, since the parameter's dtype rounds the step away, (J, m).
        g: What backprop says of each entry, (m,).
        rounding: Backprop's own rounding error in each entry, (m,), from the size of n.
    """

    steps: Float64
    n: Float64
    deviation: Float64
    truncation: Float64
    still: NDArray[np.bool_]
    stuck: NDArray[np.bool_]
    g: Float64
    rounding: Float64

    @property
    def bar(self) -> Float64:
        """The error bar of each difference, (J, m)."""
        return np.hypot(self.deviation, self.truncation)


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What some entries show at each of J steps, shortest first; every array has shape (J,).

    Attributes:
        steps: h, in units of the parameters.
        discrepancy: ||n - g|| / (||n|| + ||g||), n numerical, g backprop; nan where either is not finite.
        floor: The discrepancy that a correct gradient would show, from loss values alone.
        excess: ||n - g|| in error bars of n: about 1 for a correct gradient.
        noise: The floor's part from the rounding noise of the loss, sigma / (sqrt(2) h).
        truncation: Its part from the curvature of the loss, which grows with the step, and from kinks.
        rounding: Its part from backprop's own rounding, the same at each step.
        still: The share of entries for which the loss does not move, of those that move it at any step.
        stuck: The share of entries that do not move themselves, since their dtype rounds the step away.
        ratio: n / g, pooled; nan where there is none.
        ratio_error: One standard error of `ratio`.
        left: The discrepancy that is left of n and `ratio` x g: that of the one factor which explains most.
        best: Which step has the least floor.
    """

    steps: Float64
    discrepancy: Float64
    floor: Float64
    excess: Float64
    noise: Float64
    truncation: Float64
    rounding: float
    still: Float64
    stuck: Float64
    ratio: Float64
    ratio_error: Float64
    left: Float64
    best: int

    @property
    def best_step(self) -> float:
        """The step with the least floor; it does not depend on the gradient."""
        return float(self.steps[self.best])

    @property
    def still_step(self) -> float | None:
        """The longest step at which, as at all shorter ones, the loss does not move for most entries; None if none."""
        moving = np.flatnonzero(self.still <= MOST)
        count = int(moving[0]) if moving.size else len(self.steps)
        return float(self.steps[count - 1]) if count else None

    @property
    def moves(self) -> bool:
        """Whether the loss moves at any step, with any of the entries."""
        return bool(self.still.min() < 1)

    @property
    def explained(self) -> bool | None:
        """Whether float precision explains the discrepancy; None where the floor is too high at every step to tell.

        It does not where n and g are several error bars apart at the best step and at the steps beside it.
        """
        beside = slice(max(0, self.best - 1), self.best + 2)
        if (self.excess[beside] > TOO_FAR).all():
            return False
        is_clear = self.floor[self.best] <= BLIND and math.isfinite(self.discrepancy[self.best])
        return True if is_clear or self.discrepancy[self.best] == 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The curve as plain dicts, lists, strings and numbers; numbers that are not finite become None."""
        names = [*(field.name for field in dataclasses.fields(self)), "best_step", "still_step", "explained"]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, Mapping):
        return {str(name): item.to_dict() for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def curve(measured: Differences) -> Curve:
    """The curve of some entries together."""
    best = best_of(measured.bar)
    size = math.sqrt(max(0.0, float(np.sum(measured.n[best] ** 2) - np.sum(measured.deviation[best] ** 2))))
    ratios = [_ratio(measured, j) for j in range(len(measured.steps))]
    moving = ~measured.still.all(axis=0)
    bars = np.hypot(_norms(measured.bar), _norms(measured.rounding[None]))
    usable = (bars > 0) & np.isfinite(bars)
    return Curve(
        steps=measured.steps,
        discrepancy=np.array([_discrepancy(n, measured.g) for n in measured.n]),
        floor=as_discrepancy(bars, size),
        excess=np.divide(_norms(measured.n - measured.g), bars, out=np.zeros_like(bars), where=usable),
        noise=as_discrepancy(_norms(measured.deviation), size),
        truncation=as_discrepancy(_norms(measured.truncation), size),
        rounding=float(as_discrepancy(_norms(measured.rounding[None]), size)[0]),
        still=measured.still[:, moving].mean(axis=1) if moving.any() else np.ones(len(measured.steps)),
        stuck=measured.stuck.mean(axis=1),
        ratio=np.array([ratio.value for ratio in ratios]),
        ratio_error=np.array([ratio.error for ratio in ratios]),
        left=np.array([_discrepancy(n, one.value * measured.g) for n, one in zip(measured.n, ratios, strict=True)]),
        best=best,
    )


def best_of(bar: Float64) -> int:
    """The step at which the bars, (J, m), are least as a vector."""
    return int(np.argmin(_norms(bar)))


def as_discrepancy(bars: Float64, size: float) -> Float64:
    """The discrepancy of a correct gradient of norm `size` from differences that are off by `bars`, (J,).

    ||n||^2 is then size^2 + bars^2, so that it is bars / (2 size) where the bars are small, and 1 where they are all.
    """
    total = np.hypot(bars, size) + size
    shares: Float64 = np.divide(bars, total, out=np.ones_like(bars), where=(total > 0) & np.isfinite(total))
    return shares


def joined(parts: Sequence[Differences]) -> Differences:
    """The entries of several tensors together."""
    fields = [field.name for field in dataclasses.fields(Differences) if field.name != "steps"]
    merged = {name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in fields}
    return Differences(steps=parts[0].steps, **merged)


def truncation(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    """How far truncation moved each difference, (J, m), from how n changes with the step.

    One step stands in for the truth: up to it the error falls as h^2, beyond it the error is the distance from there.
    """
    errors = np.full_like(n, np.inf)
    finite = np.flatnonzero(np.isfinite(n).all(axis=1))
    if finite.size > 1:
        errors[finite] = _truncation(steps[finite], n[finite], deviation[finite])
    return errors


def _truncation(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    nearby = _from_neighbours(steps, n, deviation)
    truest = int(np.argmin(_norms(np.hypot(deviation, nearby)) + _astray(n, deviation)))
    falling = np.minimum(1, (steps / steps[truest]) ** 2)[:, None] * nearby[truest]
    distance = _beyond_noise(n - n[truest], np.hypot(deviation, deviation[truest]))
    errors: Float64 = falling + np.where((steps > steps[truest])[:, None], distance, 0.0)
    return errors


def _from_neighbours(steps: Float64, n: Float64, deviation: Float64) -> Float64:
    """C h^2 at each step, (J, m), from the change to the next longer one; at the longest from the shorter one."""
    change = _beyond_noise(np.diff(n, axis=0), np.hypot(deviation[1:], deviation[:-1]))
    curvature = change / np.diff(steps**2)[:, None]
    at_each: Float64 = np.concatenate([curvature, curvature[-1:]]) * steps[:, None] ** 2
    return at_each


def _astray(n: Float64, deviation: Float64) -> Float64:
    """How far each step is from any shorter one, as vectors, beyond what the noise of both explains, (J,).

    Where the loss saturates, n changes little from step to step and is far from what it was.

    Source: Goldenshluger and Lepski 2011, on the choice of a bandwidth.
    """
    noise = _norms(deviation)
    apart = np.linalg.norm(n[:, None] - n, axis=-1) - CONSISTENT * np.hypot(noise[:, None], noise)
    furthest: Float64 = np.tril(apart, -1).max(axis=1)
    return furthest


def _beyond_noise(change: Float64, deviation: Float64) -> Float64:
    """What of each row of changes the noise does not explain: shrunk all alike, so that the norm comes out right."""
    squares, noise = np.sum(change**2, axis=1), np.sum(deviation**2, axis=1)
    share = np.maximum(0, 1 - np.divide(noise, squares, out=np.ones_like(noise), where=squares > 0))
    beyond: Float64 = np.sqrt(share)[:, None] * np.abs(change)
    return beyond


def kinks(steps: Float64, even: Float64, length: Float64, sigma: float) -> Float64:
    """How far a kink may have moved each difference, (J, m): half of how much the slopes left and right differ.

    Of a smooth loss the even part L(x + h) - 2 L(x) + L(x - h) grows as h^2, of one with a kink near x as h; which it
    is shows where it first stands clear of the noise.

    Args:
        steps: h, (J,).
        even: The even parts, (J, m).
        length: The realised distance of the outer points, (J, m).
        sigma: The noise of one loss.
    """
    size = np.abs(even)
    clear = size > KINK * sigma
    first = np.minimum(clear.argmax(axis=0), len(steps) - 2)
    entry = np.arange(even.shape[1])
    at_first, after = size[first, entry], size[first + 1, entry]
    kinked = clear[first, entry] & (after < (steps[first + 1] / steps[first]) ** 1.5 * at_first)
    return np.divide(size, length, out=np.zeros_like(size), where=clear & kinked & (length > 0))


def _ratio(measured: Differences, j: int) -> Ratio:
    if not (np.isfinite(measured.bar[j]).all() and np.isfinite(measured.g).all()):
        return Ratio(math.nan, math.inf, math.nan, math.nan)
    return fit_ratio(measured.n[j], measured.g, measured.bar[j], measured.rounding)


def _discrepancy(n: Float64, g: Float64) -> float:
    return discrepancy_of(n, g) if np.isfinite(n).all() and np.isfinite(g).all() else math.nan


def _norms(rows: Float64) -> Float64:
    norms: Float64 = np.linalg.norm(rows, axis=1)
    return norms
