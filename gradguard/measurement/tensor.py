"""One tensor under test: how to measure it, the range of its steps, and the rounding error of its gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Array, Float64
from gradguard.differences import FLOAT64_UNIT, FourPoint, Steps, measuring
from gradguard.loss import Search, run_search
from gradguard.measurement.context import FLOAT32_UNIT, MeasurementContext, Size
from gradguard.perturbation import Direction, Probe, directions

FIRST_STEP = {"native": 1e-3, "float64": 1e-4}  # in typical sizes; the best step ran from 3e-4 to 0.3 in float32
SHORTEST_STEP = 64  # in spacings of the largest entry: a shorter step is rounded by more than 1 % of itself
NATIVE_MARGIN = 3.0  # factor on the rounding of the native loss: some numbers that it is made of are larger
NO_RESPONSE = 6.0  # standard deviations of the noise by which a loss changes that depends on a tensor


@dataclass(frozen=True, slots=True)
class Rounding:
    """The rounding error of a derivative by backprop, in the units of the gradient.

    Attributes:
        own: The part in proportion to the gradient: a gradient too small by a factor has that much less of it.
        forward: The part that rounding of what is added up leaves; an error of the backward pass does not change it.
    """

    own: float
    forward: float

    @property
    def total(self) -> float:
        """Both parts; they are independent."""
        return math.hypot(self.own, self.forward)


@dataclass(frozen=True, slots=True)
class TensorUnderTest:
    """One tensor in the context of a check.

    Attributes:
        context: What the check measures with.
        name: The tensor's name.
    """

    context: MeasurementContext
    name: str

    @property
    def array(self) -> Array:
        """The user's tensor."""
        return self.context.arrays[self.name]

    @property
    def gradient(self) -> Array:
        """Its gradient."""
        return self.context.gradients[self.name]

    @property
    def size(self) -> Size:
        """How large the tensor and its gradient are."""
        return self.context.sizes[self.name]

    @property
    def typical(self) -> float:
        """The size that steps are measured in; for a tensor of zeros, that of the other tensors."""
        return self.size.typical or max(size.typical for size in self.context.sizes.values()) or 1.0

    @property
    def extent(self) -> float:
        """The length of a move by about the tensor's own size, or by that of other tensors where it is smaller.

        A bias that began at 0 is small for a while, and may move much further than its size.
        """
        return max(self.size.typical, self.context.usual_size) * math.sqrt(self.array.size)

    @property
    def uncancelled(self) -> float:
        """The derivative of an entry if nothing cancelled on the way from the loss to it."""
        return self.context.sensitivity / (self.size.typical or 1.0)

    def aligned(self, rng: np.random.Generator) -> Direction:
        """A direction along the gradient, as far as directions through this tensor go."""
        return self._confined(directions.aligned(self.gradient, rng), rng)

    def gaussian(self, rng: np.random.Generator) -> Direction:
        """A direction along a Gaussian vector, as far as directions through this tensor go."""
        return self._confined(directions.gaussian(self.gradient, rng), rng)

    def _confined(self, direction: Direction, rng: np.random.Generator) -> Direction:
        inside = self.context.inside.get(self.name)
        return direction if inside is None else directions.confined(direction, inside, rng)

    def measure(self, probes: Sequence[Probe], steps: Float64) -> FourPoint:
        """Four-point differences along K probes, at one step each, shape (K,)."""
        return run_search(self.context.objective, self.measuring(probes, steps))

    def measuring(self, probes: Sequence[Probe], steps: Float64) -> Search[FourPoint]:
        """Generator form of `measure`: yields loss requests, returns the differences."""
        context = self.context
        return measuring(context.objective, self.name, self.gradient, probes, steps, context.centre)

    def after_nudge(self, probes: Sequence[Probe], steps: Float64, amount: float, seed: int) -> FourPoint:
        """The same differences with every parameter of the model moved at random by about `amount` times its value."""
        with self.context.nudged(amount, seed) as nudged:
            return TensorUnderTest(nudged, self.name).measure(probes, steps)

    @property
    def own_rounding_of_entry(self) -> float:
        """The rounding error of an entry in proportion to the gradient: some roundoffs of the largest |g|."""
        return self._own_rounding(self.size.largest)

    @property
    def own_rounding_of_direction(self) -> float:
        """The same along a unit vector: some roundoffs of ||g||."""
        return self._own_rounding(self.size.norm)

    def _own_rounding(self, derivative: float) -> float:
        return self.context.rules.backprop_rounding * self.context.unit * derivative

    def forward_rounding(self, points: FourPoint, sigma: float) -> float:
        """The rounding error that a gradient has from what is added up in it, as differences along the tensor show.

        Where the loss does not change beyond its noise, contributions may cancel exactly, as before a normalisation;
        then they are taken to be as large as those to other tensors.

        Args:
            points: Differences along probes of one kind.
            sigma: The noise of one loss along them.
        """
        of_curvature = self._forward_rounding(points, sigma)
        if self.context.is_native and self.context.loss:  # the noise of the differences holds the rest
            return of_curvature
        return math.hypot(of_curvature, self._native_rounding)

    @property
    def _native_rounding(self) -> float:
        """The rounding error that the native loss shows.

        What reaches a tensor is about as small as the parameters that it passes on its way, up to a size of 1, where
        units saturate.
        """
        context = self.context
        size = abs(context.loss) or 1.0  # a loss of exactly 0 is the logarithm of a rounded 1
        rounded = max(context.noise, min(context.unit, FLOAT32_UNIT) * size)
        return NATIVE_MARGIN * rounded * min(self.typical, 1.0)

    def _forward_rounding(self, points: FourPoint, sigma: float) -> float:
        """The part of it that the curvature of the loss shows."""
        response = np.maximum(np.abs(points.numerical), np.abs(points.even2))
        # What cancels on the way to the loss may be rounded by more than the loss itself.
        noise = max(sigma, self.context.rules.backprop_rounding * FLOAT64_UNIT * abs(self.context.loss))
        if not (response > NO_RESPONSE * noise).any():
            return self.context.rules.backprop_rounding * self.context.roundoff * self.uncancelled
        return self.context.forward_rounding(points.curvature(sigma))

    @property
    def steps_of_entries(self) -> Steps:
        """The steps along one entry: the longest is some times the typical entry."""
        return self._steps(1.0)

    @property
    def steps_of_directions(self) -> Steps:
        """The steps along a unit vector: the longest is some times the whole tensor."""
        return self._steps(math.sqrt(self.array.size))

    def _steps(self, extent: float) -> Steps:
        space, typical = self.context.objective.space, self.typical
        shortest = SHORTEST_STEP * space.spacing(self.name)
        longest = max(shortest, self.context.rules.longest_step * extent * typical)
        return Steps(FIRST_STEP[space.precision] * typical, shortest, longest)

    def coverage(self, index: Sequence[tuple[int, ...]]) -> float:
        """The share of ||g||^2 in some entries; 1 for a gradient of zeros, if there are any entries."""
        if self.size.norm == 0 or not index:
            return 1.0 if index else 0.0
        return float(np.sum((np.array([float(self.gradient[place]) for place in index]) / self.size.norm) ** 2))
