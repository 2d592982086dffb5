"""Centered differences over four points and realised steps, with the bars that rounding and truncation put on them.

Along a probe v the loss is evaluated at x + c h v for c = -2, -1, 1, 2, as the dtype rounds those points. All that is
said about a gradient comes from these four values and the one at x.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Array, Float64
from gradguard.loss.interleaving import Search
from gradguard.loss.objective import LossRequest, LossValues, Objective
from gradguard.perturbation.directions import Probe
from gradguard.statistics.pairs import DerivativePairs

NOISE_OF_NUMERICAL = math.sqrt(130) / 12  # standard deviation of (8 u1 - u2)/12 where each loss has 1
NOISE_OF_TRUNCATION = math.sqrt(10) / 12  # of (u2 - 2 u1)/12
NOISE_OF_FOURTH = math.sqrt(34)  # of L(-2) - 4 L(-1) - 4 L(1) + L(2); L(0) is shared by all probes
MARGIN = 1.1  # on the standard deviation of n - g: what it is made of is estimated
ENOUGH_TO_RECENTRE = 3
CORNER = 0.02  # relative distance of the even part from twice that at half the step
LARGEST_NOISE = 5.0  # of one loss, in standard deviations
KINK_IN_NOISE = 12  # two standard deviations of a fourth difference, in those of the loss
UNEVEN = 8.0  # times what roundoffs do to the ratio of the lengths; 3 to 5 were seen
POINTS = (-2.0, -1.0, 1.0, 2.0)  # in steps
LOSSES = 2**22  # unreduced ones that are held at a time


@dataclass(frozen=True)
class FourPoint:
    """The four-point differences of K probes; every field has shape (K,).

    Attributes:
        step: The nominal h.
        odd1: u1 = L(1) - L(-1).
        odd2: u2 = L(2) - L(-2).
        even1: L(1) - 2 L(0) + L(-1).
        even2: L(2) - 2 L(0) + L(-2).
        predicted1: What the gradient says of `odd1`.
        predicted2: What it says of `odd2`.
        length1: The realised distance between the points of `odd1`, along the probe: nominally 2 h.
        length2: That of `odd2`: nominally 4 h.
        skew: How far the realised points are from symmetric, weighted as in `fourth`.
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
        """The distance that `numerical` and `predicted` are differences over."""
        return (8 * self.length1 - self.length2) / 12

    @cached_property
    def numerical(self) -> Float64:
        """N = (8 u1 - u2)/12, free of the third derivative."""
        return (8 * self.odd1 - self.odd2) / 12

    @cached_property
    def predicted(self) -> Float64:
        """P: what the gradient says of N."""
        return (8 * self.predicted1 - self.predicted2) / 12

    @cached_property
    def n(self) -> Float64:
        """The numerical derivative along the probe."""
        return self.numerical / self.length

    @cached_property
    def g(self) -> Float64:
        """The gradient's derivative along the probe."""
        return self.predicted / self.length

    @property
    def loss_unchanged(self) -> NDArray[np.bool_]:
        """Where the loss did not move at all."""
        moved = np.abs([self.odd1, self.odd2, self.even1, self.even2]).max(axis=0)
        return np.asarray(moved == 0)

    def corners(self, floor: float) -> NDArray[np.bool_]:
        """Which of several probes start from corners, as those of |x| at zeros: none unless most do.

        The even part of the loss doubles with the step there. Noise does the same once in 50 times.

        Args:
            floor: The noise that rounding alone makes; an even part of a few quanta doubles by chance.
        """
        doubles = np.abs(self.even2 - 2 * self.even1) < CORNER * np.abs(self.even1)
        found = np.asarray(doubles & (np.abs(self.even1) > floor / CORNER))
        return found & (found.size > 1 and float(found.mean()) > 0.5)

    @cached_property
    def truncation(self) -> Float64:
        """B = |u2 - 2 u1|/12, twice replaced by the realised ratio of the lengths: it grows as the third derivative."""
        return np.abs(self.odd2 - self.length2 / self.length1 * self.odd1) / 12

    @cached_property
    def fourth(self) -> Float64:
        """x4 = L(-2) - 4 L(-1) + 6 L(0) - 4 L(1) + L(2), freed of what asymmetric points add to it: mostly noise."""
        return self.even2 - 4 * self.even1 - self.n * self.skew

    def truncation_in_noise(self, sigma: Float64 | float) -> Float64:
        """z3: the truncation indicator in standard deviations of its own noise."""
        return self.truncation / (NOISE_OF_TRUNCATION * sigma)

    def bend_in_noise(self, sigma: Float64 | float) -> Float64:
        """z3 of a direction, less what a short step fakes: whether the step is too long, and not how sure n is.

        A step that moves each of very many entries by few roundoffs does not move all of them in the ratio of the
        lengths. That looks like truncation, and the more so the shorter the step.
        """
        faked = UNEVEN * np.abs((self.length2 / self.length1 - 2) * self.odd1) / 12
        return np.maximum(0, self.truncation - faked) / (NOISE_OF_TRUNCATION * sigma)

    def truncation_bar(self, sigma: Float64 | float) -> Float64:
        """How far truncation may have moved N, where it stands clear of the noise.

        A kink need not show in u2 - 2 u1, but it shows in the fourth difference: of slopes that differ by J at x it
        makes 2 J h, and N is off by up to J h / 2.
        """
        smooth = np.maximum(0, self.truncation - NOISE_OF_TRUNCATION * sigma)
        kink = np.maximum(0, np.abs(self.fourth) - KINK_IN_NOISE * sigma) / 4
        return smooth + kink

    def bar(self, sigma: Float64 | float) -> Float64:
        """The error bar of `n`: noise and truncation, from loss values alone."""
        return np.hypot(NOISE_OF_NUMERICAL * sigma, self.truncation_bar(sigma)) / self.length

    def evidence(self, sigma: Float64 | float, rounding: Float64 | float, moved: Float64 | float = 0.0) -> Float64:
        """Z, about N(0, 1) for a correct gradient: what of n - g neither truncation nor noise explains.

        Args:
            sigma: The noise of one loss.
            rounding: Backprop's own rounding error along the probe, in units of the gradient.
            moved: How far n moved beyond the noise at other steps.
        """
        excess = np.abs(self.n - self.g) - self.truncation_bar(sigma) / self.length - moved
        return np.sign(self.n - self.g) * np.maximum(0, excess) / self._deviation(sigma, rounding)

    def pairs(
        self,
        sigma: Float64 | float,
        rounding: Float64 | float,
        moved: Float64,
        own: Float64 | float | None = None,
    ) -> DerivativePairs:
        """The derivatives n and g with their error bars.

        Args:
            sigma: The noise of the loss.
            rounding: Backprop's own rounding error along each probe.
            moved: How far n moved beyond the noise at other steps; 0 where it was not measured there.
            own: Of `rounding`, what is in proportion to g; all of it unless given.
        """
        error = np.hypot(self.bar(sigma), moved)
        z = self.evidence(sigma, rounding, moved)
        own = rounding if own is None else own
        return DerivativePairs(self.n, self.g, error, rounding + np.zeros_like(error), z, own + np.zeros_like(error))

    def deviation_in_noise(self, sigma: Float64 | float, rounding: Float64 | float) -> Float64:
        """N - g in standard deviations, truncation not taken off: small steady shifts show in the sum of many.

        The four points are free of the third derivative; what truncation is left is too small to add up.
        """
        return (self.n - self.g) / self._deviation(sigma, rounding)

    def _deviation(self, sigma: Float64 | float, rounding: Float64 | float) -> Float64:
        return MARGIN * np.hypot(NOISE_OF_NUMERICAL * sigma / self.length, rounding)

    def recentred(self, sigma: float) -> Self:
        """The same, freed of the noise of L(0): all probes share it, and the median fourth difference shows it.

        Args:
            sigma: The noise of one loss; what is more than `LARGEST_NOISE` of it is something else.
        """
        fourth = self.fourth[np.isfinite(self.fourth)]
        shared = float(np.median(fourth)) / 6 if fourth.size >= ENOUGH_TO_RECENTRE else 0.0
        shared = min(max(shared, -LARGEST_NOISE * sigma), LARGEST_NOISE * sigma)
        return dataclasses.replace(self, even1=self.even1 + 2 * shared, even2=self.even2 + 2 * shared)

    def where(self, redone: NDArray[np.bool_], newer: Self) -> Self:
        """These differences, those marked by `redone` replaced by `newer` ones, in order."""
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
    """Four evaluations of the loss for each probe of one tensor; afterwards the tensor is as it was.

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
        answer = yield LossRequest(name, probes[some], np.multiply.outer(steps[some], POINTS), gradient)
        parts.append(_of_answer(objective, answer, steps[some], centre))
    return concatenate(parts)


def measure_each(
    objective: Objective, moved: Sequence[tuple[str, Probe, Array]], steps: Float64, centre: Float64
) -> FourPoint:
    """The same along one probe of each of K tensors.

    Args:
        objective: The loss.
        moved: The tensors, the probe of each, and their gradients.
        steps: h for each, shape (K,).
        centre: The unreduced losses at the unperturbed parameters.
    """
    parts = []
    for some in _some_at_a_time(len(moved), centre):
        amounts = np.multiply.outer(steps[some], POINTS)[:, None]
        each = zip(moved[some], amounts, strict=True)
        asked = [LossRequest(name, [probe], points, gradient) for (name, probe, gradient), points in each]
        answer = LossValues.joined(objective.evaluate(asked))
        parts.append(_of_answer(objective, answer, steps[some], centre))
    return concatenate(parts)


def _some_at_a_time(probes: int, centre: Float64) -> list[slice]:
    """Probes in order, as many at a time as there is room for the losses of."""
    together = max(1, LOSSES // (len(POINTS) * centre.size))
    return [slice(start, start + together) for start in range(0, probes, together)]


def _of_answer(objective: Objective, answer: LossValues, steps: Float64, centre: Float64) -> FourPoint:
    along, against = answer.along, answer.against
    with np.errstate(invalid="ignore"):  # a loss that is inf makes a difference that is nan
        below2, below1, above1, above2 = answer.losses.swapaxes(0, 1)
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
