"""Differences of one tensor along some probes, and what they say about the gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64
from gradguard.differences import NOISE_OF_TRUNCATION, TOO_LONG_Z3, FourPoint, Noise, Steps
from gradguard.loss import Search
from gradguard.measurement.tensor import Rounding, TensorUnderTest
from gradguard.perturbation import Probe
from gradguard.statistics import DerivativePairs, Rules

PILOTS = 3  # probes that find the first step: their upper quartile of z3 decides, so that one flat direction does not
WEAK = 30.0  # standard deviations of a difference up to which a longer step is worth four more evaluations
KINK = 25.0  # standard deviations of the noise above which a fourth difference is curvature or a kink, not noise
DOUBLES = 1.8  # ratio of the even part to that at half the step from which it is a kink: 2 for a kink, 4 for curvature
NEGLIGIBLE = 1e-3  # ratio of truncation to the difference below which no shorter step is needed
CONVERGES = (
    0.06  # ratio of truncation to the difference below which the four points are in the range of Taylor's series
)
CLEAR = 15.0  # standard deviations of the noise in a difference from which `CONVERGES` can be judged


@dataclass(frozen=True, slots=True)
class ProbePlan:
    """One kind of probe of a tensor, entries or directions, and what is known before they are measured.

    Attributes:
        tensor: The tensor.
        probes: K probes.
        noise: The noise of the loss along the tensor, near the unperturbed parameters.
        rounding: Backprop's rounding error along one probe, as far as it is in proportion to the gradient.
        steps: The range of steps; its start is the first step if nothing is known.
        enough: Standard deviations of a difference from which no longer step is tried.
        pilots: How many probes search for the step that all probes start from.
    """

    tensor: TensorUnderTest
    probes: Sequence[Probe]
    noise: Noise
    rounding: float
    steps: Steps
    enough: float = WEAK
    pilots: int = PILOTS

    def measure(self, which: Sequence[int] | NDArray[np.intp], steps: Float64) -> FourPoint:
        """Four-point differences along some of the probes, at one step each."""
        return self.tensor.measure([self.probes[i] for i in which], steps)

    def measuring(self, which: NDArray[np.intp], steps: Float64) -> Search[FourPoint]:
        """Generator form of `measure`: yields loss requests, returns the differences."""
        return self.tensor.measuring([self.probes[i] for i in which], steps)


@dataclass(frozen=True)
class Measured:
    """The differences along the probes of a plan, each at its own step; arrays have shape (K,).

    Attributes:
        plan: The probes.
        points: The differences.
        sigma: The noise of the loss along the probes.
        rounding: Backprop's rounding error along each probe.
        own: The part of `rounding` in proportion to the gradient; the forward pass leaves the rest.
        moved: How far n moved at other steps; 0 where it was not measured again.
        confirmed: Whether a disagreement is as clear at a fifth of the step.
        nonsmooth: Whether the loss is not smooth on the scale of the steps; then only single differences count.
    """

    plan: ProbePlan
    points: FourPoint
    sigma: float
    rounding: Float64
    own: Float64
    moved: Float64
    confirmed: NDArray[np.bool_]
    nonsmooth: bool = False

    @classmethod
    def first(cls, plan: ProbePlan, points: FourPoint, sigma: float) -> Self:
        """Differences that were measured once."""
        zeros = np.zeros(len(plan.probes))
        rounding = Rounding(plan.rounding, plan.tensor.forward_rounding(points, sigma))
        return cls(
            plan,
            points,
            sigma,
            zeros + rounding.total,
            zeros + rounding.own,
            moved=zeros,
            confirmed=zeros > 0,
        )

    @property
    def amplification(self) -> float:
        """How much larger backprop's rounding error is than its usual bound, at least 1."""
        usual = Rounding(self.plan.rounding, self.plan.tensor.forward_rounding(self.points, self.sigma)).total
        return max(1.0, float(np.median(self.rounding)) / usual) if usual else 1.0

    @property
    def rules(self) -> Rules:
        """The rules of the check."""
        return self.plan.tensor.context.rules

    @property
    def floor(self) -> float:
        """The part of `sigma` that rounding of the losses to their quanta makes."""
        return self.plan.noise.floor

    @property
    def usual_step(self) -> float:
        """The median step."""
        return float(np.median(self.points.step))

    @property
    def usual_steps(self) -> Steps:
        """The range of steps, starting at the median step."""
        return self.plan.steps.starting_at(self.usual_step)

    @cached_property
    def pairs(self) -> DerivativePairs:
        """The numerical and backprop derivatives with their error bars."""
        return self.points.pairs(self.sigma, self.rounding, self.moved, self.own, truncation=self.rules.truncation)

    @cached_property
    def resolved(self) -> NDArray[np.bool_]:
        """Where a step was found at which truncation is small, or negligible beside the difference itself."""
        short_enough = self.points.truncation_in_noise(self.sigma) <= TOO_LONG_Z3
        negligible = self.points.truncation_bar(self.sigma) <= NEGLIGIBLE * np.abs(self.points.numerical)
        return np.isfinite(self.points.n) & (short_enough | negligible) & ~self.nonquadratic

    @property
    def nonquadratic(self) -> NDArray[np.bool_]:
        """Where the even part does not grow as the square of the step: a kink, or strong curvature within the step."""
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

        If the loss levels off within the step, n is too small and truncation hardly shows. So truncation must be small
        beside n, and n must stand well clear of the noise.
        """
        numerical = np.abs(self.points.numerical)
        truncation = self.points.truncation + 2 * NOISE_OF_TRUNCATION * self.sigma
        return (numerical > CLEAR * self.sigma) & (truncation < CONVERGES * numerical)

    @property
    def suspects(self) -> NDArray[np.intp]:
        """The probes, in order of how much they disagree with the gradient."""
        return np.argsort(np.where(self.resolved, -np.abs(self.pairs.z), 0.0), kind="stable")

    @property
    def most_telling(self) -> NDArray[np.intp]:
        """The resolved probes, in order of how well they determine a factor."""
        order = np.argsort(-np.abs(self.points.g) / self.pairs.deviation, kind="stable")
        return order[self.resolved[order]]

    @property
    def largest(self) -> float:
        """The largest disagreement of a resolved difference, in standard deviations."""
        return float(np.abs(self.pairs.z[self.resolved]).max(initial=0.0))

    @property
    def significance(self) -> float:
        """How far the resolved differences are from the gradient, in standard deviations."""
        return self.pairs.where(self.resolved).significance(self.nonsmooth, self.rules)


@dataclass(frozen=True, slots=True)
class TensorMeasurement:
    """The differences of one tensor along both kinds of probe.

    Attributes:
        entries: Along single entries.
        directions: Along directions through the whole tensor.
    """

    entries: Measured
    directions: Measured

    @property
    def tensor(self) -> TensorUnderTest:
        """The tensor."""
        return self.entries.plan.tensor

    @property
    def noise(self) -> Noise:
        """The noise of the loss near the unperturbed parameters."""
        return self.entries.plan.noise

    @property
    def amplification(self) -> float:
        """How much larger backprop's rounding error is than its usual bound, at least 1."""
        return max(self.entries.amplification, self.directions.amplification)
