"""Differences of one tensor at the steps that were found for them, and what they say of the gradient."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64
from gradguard.differences.four_point import NOISE_OF_TRUNCATION, FourPoint
from gradguard.differences.step_size import TOO_LONG_Z3
from gradguard.statistics.pairs import DerivativePairs

KINK = 25.0  # standard deviations of the noise by which the fourth difference shows a kink
DOUBLES = 1.8  # times its value at half the step, that the even part of a loss with one kink has at least
CONVERGES = 0.06  # truncation beside the derivative, below which the four points are in the range of Taylor's series
CLEARLY = 15.0  # standard deviations of the noise in a difference, from which that can be told


@dataclass(frozen=True)
class Measured:
    """Differences at steps that suit them.

    Attributes:
        points: The differences, of K probes.
        sigma: The noise of the loss along these probes.
        floor: What rounding the losses alone adds to it.
        rounding: Backprop's own rounding error along each, (K,).
        own: Of `rounding`, what is in proportion to the gradient, (K,); the rest the forward pass amplifies.
        moved: How far n moved at other steps, (K,); 0 where it was not measured again.
        nonsmooth: Whether the loss is not smooth on the scale of the steps: then only single differences count.
        surviving: Where a disagreement is as clear at the shortest of the other steps, (K,).
    """

    points: FourPoint
    sigma: float
    floor: float
    rounding: Float64
    own: Float64
    moved: Float64
    surviving: NDArray[np.bool_]
    nonsmooth: bool = False

    @cached_property
    def pairs(self) -> DerivativePairs:
        """The derivatives with their bars."""
        return self.points.pairs(self.sigma, self.rounding, self.moved, self.own)

    @cached_property
    def resolved(self) -> NDArray[np.bool_]:
        """Where a step was found at which truncation is small, or small enough beside the derivative itself."""
        short_enough = self.points.truncation_in_noise(self.sigma) <= TOO_LONG_Z3
        negligible = self.points.truncation_bar(self.sigma) <= 1e-3 * np.abs(self.points.numerical)
        return np.isfinite(self.points.n) & (short_enough | negligible) & ~self.nonquadratic

    @property
    def nonquadratic(self) -> NDArray[np.bool_]:
        """Where the even part does not grow as the square of the step: a kink, or a loss that bends within the step."""
        fourth = np.abs(self.points.fourth)
        one = (fourth > KINK * self.sigma) & (fourth > np.abs(self.points.even1))
        return np.asarray(one | self.points.corners(self.floor))

    @property
    def kinked(self) -> NDArray[np.bool_]:
        """Where left and right slopes differ: the even part at least doubles with the step, and does not level off."""
        return self.nonquadratic & (np.abs(self.points.even2) > DOUBLES * np.abs(self.points.even1))

    @property
    def converging(self) -> NDArray[np.bool_]:
        """Where the step is known to be in the range of Taylor's series.

        Where a loss levels off within the step, n is too small and truncation hardly shows. So it must show to be
        small beside n, which takes a difference that stands well clear of the noise.
        """
        numerical = np.abs(self.points.numerical)
        truncation = self.points.truncation + 2 * NOISE_OF_TRUNCATION * self.sigma
        return (numerical > CLEARLY * self.sigma) & (truncation < CONVERGES * numerical)

    @property
    def suspects(self) -> NDArray[np.intp]:
        """The probes, those first that disagree most with the gradient."""
        return np.argsort(np.where(self.resolved, -np.abs(self.pairs.z), 0.0), kind="stable")

    @property
    def telling(self) -> NDArray[np.intp]:
        """The resolved probes, those first that tell most of a factor."""
        order = np.argsort(-np.abs(self.points.g) / self.pairs.deviation, kind="stable")
        return order[self.resolved[order]]

    @property
    def largest(self) -> float:
        """The largest disagreement of a resolved difference, in standard deviations."""
        return float(np.abs(self.pairs.z[self.resolved]).max(initial=0.0))

    @property
    def significance(self) -> float:
        """How far the resolved differences are from the gradient, in standard deviations."""
        return self.pairs.where(self.resolved).significance(self.nonsmooth)
