"""One tensor under test: how to measure it, the range of its steps, and the rounding error of its gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from gradguard.arrays import Array, Float64, typical_size_among
from gradguard.differences import FourPoint, Steps, measuring
from gradguard.loss import Search, run_search
from gradguard.measurement.context import FLOAT32_UNIT, MAX_ROUNDOFF, MeasurementContext, Size
from gradguard.perturbation import Probe

FIRST_STEP = {"native": 1e-3, "float64": 1e-4}  # in typical sizes; the best step ran from 3e-4 to 0.3 in float32
SHORTEST_STEP = 64  # in spacings of the largest entry: a shorter step is rounded by more than 1 % of itself
# Typical size of a tensor up to which the rounding of saturated units grows as its square. Larger tensors of correct
# networks had small inputs; beyond 3 error bars of 7,545 true float32 gradients lie 10 with this rule, 20 without.
MAX_SHARPNESS = 5.0
MOSTLY_FORWARD = 4  # ratio of forward to own rounding above which only its order of magnitude is known
FORWARD_MARGIN = 3  # factor on the forward rounding then: activations are larger than 1, and logits than the loss


@dataclass(frozen=True, slots=True)
class Rounding:
    """The rounding error of a derivative by backprop, in the units of the gradient.

    Attributes:
        own: The part in proportion to the gradient: a gradient too small by a factor has that much less of it.
        forward: The part that rounding in the forward pass leaves; an error of the backward pass does not change it.
    """

    own: float
    forward: float

    @classmethod
    def of(cls, own: float, forward: float) -> Self:
        """The rounding error, with a margin where it mostly comes from the forward pass."""
        return cls(own, FORWARD_MARGIN * forward if forward > MOSTLY_FORWARD * own else forward)

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
        return self.size.typical or typical_size_among(self.array, self.context.arrays)

    @property
    def uncancelled(self) -> float:
        """The derivative of an entry if nothing cancelled on the way from the loss to it."""
        return self.context.sensitivity / (self.size.typical or 1.0)

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
    def rounding_of_entry(self) -> Rounding:
        """The rounding error of one entry of the gradient: some roundoffs of the largest |g|, and what cancels."""
        return self._rounding(self.size.largest)

    @property
    def rounding_of_direction(self) -> Rounding:
        """The rounding error of the gradient along a unit vector: some roundoffs of ||g||, and what cancels."""
        return self._rounding(self.size.norm)

    def _rounding(self, derivative: float) -> Rounding:
        """The rounding error of the gradient as it is, and of large contributions to it that cancel.

        Signals between the layers are rounded at the size they have there; near a minimum they cancel. They are rounded
        no more than the loss that they make up, unless that loss is near 0 and hides its noise. Large parameters
        saturate units, whose slopes cancel more. In float64 the differences have no noise to speak of, and what the
        native rounding of the loss leaves in the gradient is added.
        """
        context, rules, typical = self.context, self.context.rules, self.size.typical or 1.0
        sharpness = min(max(1.0, typical), MAX_SHARPNESS)
        most = rules.backprop_rounding * MAX_ROUNDOFF
        saturated = min(rules.saturated_rounding * sharpness**2 * context.unit, most)
        relative = math.hypot(rules.backprop_rounding * context.roundoff, saturated)
        own = math.hypot(relative * derivative, rules.backprop_rounding * self._cancelled / typical)
        least = min(context.unit, FLOAT32_UNIT) * abs(context.loss)
        forward = 0.0 if context.is_native else max(context.noise, least)
        return Rounding.of(own, forward / typical)

    @property
    def _cancelled(self) -> float:
        """The rounding error of contributions that cancel, in units of the loss."""
        context = self.context
        cancelled = context.roundoff * context.sensitivity
        if context.roundoff < MAX_ROUNDOFF:
            return max(context.unit * context.sensitivity, min(cancelled, context.noise))
        return cancelled

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
