"""Centered differences over four points and realised steps, with their error bars for rounding and truncation.

Along a probe v the loss is evaluated at x + c h v for c = -2, -1, 1, 2, as the dtype rounds those points. Everything
that gradguard says about a gradient comes from these four values and the one at x.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array, Float64
from gradguard.loss import LossRequest, LossValues, Objective, Search
from gradguard.perturbation import JointDirection, Probe
from gradguard.statistics import DerivativePairs

NOISE_OF_NUMERICAL = math.sqrt(130) / 12  # standard deviation of (8 u1 - u2)/12 if each loss has standard deviation 1
NOISE_OF_TRUNCATION = math.sqrt(10) / 12  # the same of (u2 - 2 u1)/12
NOISE_OF_FOURTH = math.sqrt(34)  # the same of L(-2) - 4 L(-1) - 4 L(1) + L(2); all probes share L(0)
NOISE_OF_EVEN = 6.0  # variance of L(-2) - 2 L(0) + L(2) if each loss has variance 1
NOISE_OF_FIVE = math.sqrt(70)  # the same of L(-2) - 4 L(-1) + 6 L(0) - 4 L(1) + L(2)
MARGIN = 1.1  # factor on the standard deviation of n - g, since sigma is an estimate
FEWEST_TO_RECENTRE = 3  # fourth differences whose median is not the noise of one probe
KINK_TOLERANCE = 0.02  # relative distance of the even part from twice that at half the step, where a kink makes it 0
MAX_NOISE = 5.0  # standard deviations that the noise of one loss is taken to have at most
KINK_IN_NOISE = 12  # sigma in a fourth difference that are noise: about two of its own standard deviations
UNEVEN = 8.0  # factor on what roundoffs do to the ratio of the lengths; factors of 3 to 5 were seen
POINTS = (-2.0, -1.0, 1.0, 2.0)  # in steps
MAX_LOSSES = 2**22  # unreduced losses that are held at a time: 32 MiB in float64


@dataclass(frozen=True)
class FourPoint:
    """The four-point differences of K probes; every field has shape (K,).

    Attributes:
        step: The nominal h.
        odd1: u1 = L(1) - L(-1).
        odd2: u2 = L(2) - L(-2).
        even1: L(1) - 2 L(0) + L(-1).
        even2: L(2) - 2 L(0) + L(-2).
        predicted1: The value of `odd1` that the gradient predicts.
        predicted2: The value of `odd2` that it predicts.
        length1: The realised distance along the probe between the points of `odd1`, nominally 2 h.
        length2: The same for `odd2`, nominally 4 h.
        skew: The asymmetry of the realised points, weighted as in `fourth`.
    """

    step: Float64
    odd1: Float64
    odd2: Float64
    even1: Float64
    even2: Float64
    predicted1: Float64
    predicted2: Float64
    length1: Float64
    length2: Float64
    skew: Float64

    @cached_property
    def length(self) -> Float64:
        """The distance over which `numerical` and `predicted` are differences."""
        return (8 * self.length1 - self.length2) / 12

    @cached_property
    def numerical(self) -> Float64:
        """N = (8 u1 - u2)/12, free of the third derivative."""
        return (8 * self.odd1 - self.odd2) / 12

    @cached_property
    def predicted(self) -> Float64:
        """P: the value of N that the gradient predicts."""
        return (8 * self.predicted1 - self.predicted2) / 12

    @cached_property
    def n(self) -> Float64:
        """The numerical derivative along the probe."""
        return self.numerical / self.length

    @cached_property
    def g(self) -> Float64:
        """The backprop derivative along the probe."""
        return self.predicted / self.length

    @property
    def loss_unchanged(self) -> NDArray[np.bool_]:
        """Where the loss did not change at all."""
        moved = np.abs([self.odd1, self.odd2, self.even1, self.even2]).max(axis=0)
        return np.asarray(moved == 0)

    def corners(self, floor: float) -> NDArray[np.bool_]:
        """Which probes start from a kink, as those of |x| at zeros do; none unless most probes do.

        The even part of the loss doubles with the step at a kink. Noise does the same once in 50 times.

        Args:
            floor: The noise that rounding alone makes: an even part of a few quanta doubles by chance.
        """
        doubles = np.abs(self.even2 - 2 * self.even1) < KINK_TOLERANCE * np.abs(self.even1)
        found = np.asarray(doubles & (np.abs(self.even1) > floor / KINK_TOLERANCE))
        return found & (found.size > 1 and float(found.mean()) > 0.5)

    @cached_property
    def truncation(self) -> Float64:
        """B = |u2 - 2 u1|/12, with the realised ratio of the lengths in place of 2; it shows the third derivative."""
        return np.abs(self.odd2 - self.length2 / self.length1 * self.odd1) / 12

    @cached_property
    def fourth(self) -> Float64:
        """x4 = L(-2) - 4 L(-1) + 6 L(0) - 4 L(1) + L(2), less what asymmetric points add: mostly noise."""
        return self.even2 - 4 * self.even1 - self.n * self.skew

    def truncation_in_noise(self, sigma: Float64 | float) -> Float64:
        """z3: the truncation indicator in standard deviations of its own noise."""
        return self.truncation / (NOISE_OF_TRUNCATION * sigma)

    def fourth_in_noise(self, sigma: Float64 | float) -> Float64:
        """z4: the fourth difference in standard deviations of its own noise, that of L(0) included."""
        return np.abs(self.fourth) / (NOISE_OF_FIVE * sigma)

    def curvature(self, sigma: float) -> float:
        """The root mean square of the second derivative of the loss along the probes, its noise taken off.

        Args:
            sigma: The noise of one loss.
        """
        reach = self.length2 / 2
        squares = (self.even2**2 - NOISE_OF_EVEN * sigma**2) / reach**4
        squares = squares[np.isfinite(squares)]
        return math.sqrt(max(0.0, float(squares.mean()))) if squares.size else 0.0

    def bend_in_noise(self, sigma: Float64 | float) -> Float64:
        """z3 of a direction, less what rounded points add: it says whether the step is too long, not how good n is.

        A step that moves each of very many entries by few roundoffs does not move all of them in the ratio of the
        lengths. That looks like truncation, and the more so the shorter the step is.
        """
        apparent = UNEVEN * np.abs((self.length2 / self.length1 - 2) * self.odd1) / 12
        return np.maximum(0, self.truncation - apparent) / (NOISE_OF_TRUNCATION * sigma)

    def truncation_bar(self, sigma: Float64 | float) -> Float64:
        """How far truncation may have moved N, as far as it exceeds the noise.

        A kink need not show in u2 - 2 u1, but it shows in the fourth difference: slopes that differ by J at x make it
        2 J h, and N is off by up to J h / 2.
        """
        smooth = np.maximum(0, self.truncation - NOISE_OF_TRUNCATION * sigma)
        kink = np.maximum(0, np.abs(self.fourth) - KINK_IN_NOISE * sigma) / 4
        return smooth + kink

    def bend_bar(self, sigma: Float64 | float) -> Float64:
        """How far truncation, or any one kink within the steps, may have moved N, as far as it exceeds the noise.

        A kink of slope J at a distance a < h moves N by J (6 h - 7 a) / 12, u2 - 2 u1 by J a and x4 by J (3 a - 2 h).
        So 2 |u2 - 2 u1| / 12 + |x4| / 4 is never less than what it does to N.
        """
        smooth = np.maximum(0, self.truncation - NOISE_OF_TRUNCATION * sigma)
        fourth = np.maximum(0, np.abs(self.fourth) - NOISE_OF_FIVE * sigma)
        return 2 * smooth + fourth / 4

    def bar(self, sigma: Float64 | float, *, truncation: bool = True) -> Float64:
        """The error bar of `n` from noise and, unless it is left out, truncation: from loss values alone."""
        return np.hypot(NOISE_OF_NUMERICAL * sigma, self.truncation_bar(sigma) if truncation else 0.0) / self.length

    def evidence(
        self,
        sigma: Float64 | float,
        rounding: Float64 | float,
        moved: Float64 | float = 0.0,
        *,
        truncation: bool = True,
    ) -> Float64:
        """Z: n - g in standard deviations, less truncation; about N(0, 1) on a correct gradient.

        Args:
            sigma: The noise of one loss.
            rounding: Backprop's rounding error along the probe, in units of the gradient.
            moved: How far n moved beyond the noise at other steps.
            truncation: Whether truncation may explain a difference.
        """
        explained = self.truncation_bar(sigma) / self.length if truncation else 0.0
        excess = np.abs(self.n - self.g) - explained - moved
        return np.sign(self.n - self.g) * np.maximum(0, excess) / self._deviation(sigma, rounding)

    def pairs(
        self,
        sigma: Float64 | float,
        rounding: Float64 | float,
        moved: Float64,
        own: Float64 | float | None = None,
        *,
        truncation: bool = True,
    ) -> DerivativePairs:
        """The derivatives n and g with their error bars.

        Args:
            sigma: The noise of the loss.
            rounding: Backprop's own rounding error along each probe.
            moved: How far n moved beyond the noise at other steps; 0 where it was not measured there.
            own: The part of `rounding` in proportion to g; all of it unless given.
            truncation: Whether truncation is in the error bars.
        """
        error = np.hypot(self.bar(sigma, truncation=truncation), moved)
        z = self.evidence(sigma, rounding, moved, truncation=truncation)
        own = rounding if own is None else own
        return DerivativePairs(self.n, self.g, error, rounding + np.zeros_like(error), z, own + np.zeros_like(error))

    def deviation_in_noise(self, sigma: Float64 | float, rounding: Float64 | float) -> Float64:
        """N - g in standard deviations, truncation included: a small steady shift shows in the sum of many.

        The four points are free of the third derivative; the truncation that is left is too small to add up.
        """
        return (self.n - self.g) / self._deviation(sigma, rounding)

    def _deviation(self, sigma: Float64 | float, rounding: Float64 | float) -> Float64:
        return MARGIN * np.hypot(NOISE_OF_NUMERICAL * sigma / self.length, rounding)

    def recentred(self, sigma: float) -> Self:
        """The differences without the noise of L(0), which all probes share: the median fourth difference shows it.

        A probe along which the loss does not change has the same error in all five losses, and shows nothing of it.

        Args:
            sigma: The noise of one loss; at most `MAX_NOISE` times that is taken for the noise of L(0).
        """
        changed = ~self.loss_unchanged
        fourth = self.fourth[np.isfinite(self.fourth) & changed]
        shared = float(np.median(fourth)) / 6 if fourth.size >= FEWEST_TO_RECENTRE else 0.0
        shift = np.where(changed, 2 * min(max(shared, -MAX_NOISE * sigma), MAX_NOISE * sigma), 0.0)
        return dataclasses.replace(self, even1=self.even1 + shift, even2=self.even2 + shift)

    def where(self, redone: NDArray[np.bool_], newer: Self) -> Self:
        """The differences with those marked by `redone` replaced by the `newer` ones, in order."""
        merged = {}
        for field in dataclasses.fields(self):
            values = getattr(self, field.name).copy()
            values[redone] = getattr(newer, field.name)
            merged[field.name] = values
        return dataclasses.replace(self, **merged)

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Some of the differences."""
        return dataclasses.replace(
            self, **{field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self)}
        )


def measuring(
    objective: Objective, name: str, gradient: Array, probes: Sequence[Probe], steps: Float64, centre: Float64
) -> Search[FourPoint]:
    """The four-point differences of one tensor along some probes; afterwards the tensor is as it was.

    A generator: it yields loss requests and returns the differences.

    Args:
        objective: The loss.
        name: The tensor.
        gradient: Its gradient.
        probes: K directions.
        steps: h for each, shape (K,).
        centre: The unreduced losses at the unperturbed parameters.
    """
    parts = []
    for some in _some_at_a_time(len(probes), centre):
        values = yield LossRequest(name, probes[some], np.multiply.outer(steps[some], POINTS), gradient)
        parts.append(_of_values(objective, values, steps[some], centre))
    return concatenate(parts)


def measure_along(
    objective: Objective, direction: JointDirection, step: float, centre: Float64, gradients: Mapping[str, Array]
) -> tuple[FourPoint, Float64]:
    """The four-point difference along one direction through several tensors; afterwards they are as they were.

    Args:
        objective: The loss.
        direction: The direction, through T tensors.
        step: The factor on it.
        centre: The unreduced losses at the unperturbed parameters.
        gradients: The gradients of the tensors.

    Returns:
        The difference, as of one probe, and the part of each tensor in what the gradients predict for it, shape (T,).
    """
    values = objective.evaluate_along([(direction, step * point) for point in POINTS], gradients)
    below2, below1, above1, above2 = values.predicted
    predicted = values.predicted.sum(axis=1)
    of_one = LossValues(values.losses[None], values.displacements[None], predicted[None])
    points = _of_values(objective, of_one, np.array([step]), centre)
    return points, (8 * (above1 - below1) - (above2 - below2)) / 12


def _some_at_a_time(probes: int, centre: Float64) -> list[slice]:
    """Probes in order, as many at a time as `MAX_LOSSES` allows."""
    together = max(1, MAX_LOSSES // (len(POINTS) * centre.size))
    return [slice(start, start + together) for start in range(0, probes, together)]


def _of_values(objective: Objective, values: LossValues, steps: Float64, centre: Float64) -> FourPoint:
    along, against = values.displacements, values.predicted
    with np.errstate(invalid="ignore"):  # a loss that is inf makes a difference that is nan
        below2, below1, above1, above2 = values.losses.swapaxes(0, 1)
        changes = np.array(
            [above1 - below1, above2 - below2, above1 - 2 * centre + below1, above2 - 2 * centre + below2]
        )
        totals = objective.totals(changes)
    odd1, odd2, even1, even2 = np.where(np.isfinite(totals), totals, np.nan)
    return FourPoint(
        step=steps,
        odd1=odd1,
        odd2=odd2,
        even1=even1,
        even2=even2,
        predicted1=against[:, 2] - against[:, 1],
        predicted2=against[:, 3] - against[:, 0],
        length1=along[:, 2] - along[:, 1],
        length2=along[:, 3] - along[:, 0],
        skew=along[:, 3] + along[:, 0] - 4 * (along[:, 2] + along[:, 1]),
    )


def concatenate(parts: Sequence[FourPoint]) -> FourPoint:
    """The differences of several measurements, one after the other."""
    if len(parts) == 1:
        return parts[0]
    names = [field.name for field in dataclasses.fields(FourPoint)]
    return FourPoint(*(np.concatenate([np.empty(0), *(getattr(part, name) for part in parts)]) for name in names))
