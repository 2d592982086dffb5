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

from gradguard import agreement
from gradguard.parameters import Float64

CONSISTENT = 2.0  # standard deviations of the noise, all entries together, within which two steps agree
MOST = 0.5  # of the entries
BEYOND_FLOOR = (
    3.0  # discrepancy in floors; on correct gradients it reached 1.9 at the best step, in tensors of 5 entries
)
BLIND = 0.1  # the floor above which next to nothing can be told


@dataclass(frozen=True, slots=True, eq=False)
class Differences:
    """The two-point differences of some entries at each step.

    Attributes:
        steps: h, (J,), rising.
        n: Numerical derivatives, (J, m); 0 where the parameter's dtype rounds the step away.
        deviation: The standard deviation that the loss's noise gives each, (J, m).
        truncation: How far truncation moved each, (J, m); inf where n is not finite.
        still: Where the loss was the same at both points, (J, m).
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
        discrepancy: ||n - g|| / (||n|| + ||g||), n numerical, g backprop; nan where the loss overflowed.
        floor: The discrepancy that a correct gradient would show, from loss values alone.
        noise: Its part from the rounding noise of the loss, sigma / (sqrt(2) h).
        truncation: Its part from the curvature of the loss, which grows with the step.
        rounding: Its part from backprop's own rounding, the same at each step.
        still: The share of entries for which the loss does not move, of those that move it at any step.
        stuck: The share of entries that do not move themselves, since their dtype rounds the step away.
        ratio: n / g, pooled; nan where there is none.
        ratio_error: One standard error of `ratio`.
        purity: The reduced chi^2 of n - `ratio` g: about 1 or less where one factor says it all.
        best: Which step has the least floor.
    """

    steps: Float64
    discrepancy: Float64
    floor: Float64
    noise: Float64
    truncation: Float64
    rounding: float
    still: Float64
    stuck: Float64
    ratio: Float64
    ratio_error: Float64
    purity: Float64
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

        It does not where the discrepancy is beyond the floor at the best step and at the steps beside it.
        """
        beside = slice(max(0, self.best - 1), self.best + 2)
        if (self.discrepancy[beside] > BEYOND_FLOOR * self.floor[beside]).all():
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
    return Curve(
        steps=measured.steps,
        discrepancy=np.array([agreement.discrepancy(n, measured.g) for n in measured.n]),
        floor=as_discrepancy(bars, size),
        noise=as_discrepancy(_norms(measured.deviation), size),
        truncation=as_discrepancy(_norms(measured.truncation), size),
        rounding=float(as_discrepancy(_norms(measured.rounding[None]), size)[0]),
        still=measured.still[:, moving].mean(axis=1) if moving.any() else np.ones(len(measured.steps)),
        stuck=measured.stuck.mean(axis=1),
        ratio=np.array([ratio.value for ratio in ratios]),
        ratio_error=np.array([ratio.error for ratio in ratios]),
        purity=np.array([ratio.purity for ratio in ratios]),
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
    longest = _longest_consistent(n, deviation)
    truest = best_of(np.hypot(deviation, nearby)[: longest + 1])
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


def _longest_consistent(n: Float64, deviation: Float64) -> int:
    """The longest step that agrees, within the noise, with all shorter ones.

    Source: Lepski 1991, on the choice of a bandwidth.
    """
    variance = np.sum(deviation**2, axis=1)
    allowed = CONSISTENT**2 * (1 + 2 * math.sqrt(2 / n.shape[1]))  # few entries scatter more
    for j in range(1, len(n)):
        apart = np.sum((n[j] - n[:j]) ** 2, axis=1)
        if (apart > allowed * (variance[j] + variance[:j])).any():
            return j - 1
    return len(n) - 1


def _beyond_noise(change: Float64, deviation: Float64) -> Float64:
    """What of each row of changes the noise does not explain: shrunk all alike, so that the norm comes out right."""
    squares, noise = np.sum(change**2, axis=1), np.sum(deviation**2, axis=1)
    share = np.maximum(0, 1 - np.divide(noise, squares, out=np.ones_like(noise), where=squares > 0))
    beyond: Float64 = np.sqrt(share)[:, None] * np.abs(change)
    return beyond


def _ratio(measured: Differences, j: int) -> agreement.Ratio:
    return agreement.ratio(measured.n[j], measured.g, measured.bar[j], measured.rounding)


def _norms(rows: Float64) -> Float64:
    norms: Float64 = np.linalg.norm(rows, axis=1)
    return norms
