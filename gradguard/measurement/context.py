"""One check's bench: the loss, the tensors and their gradients, proven fit to be measured."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from gradguard.arrays.reductions import typical_size_among
from gradguard.arrays.types import Array, Float64
from gradguard.diagnosis.evidence import Method
from gradguard.differences.four_point import FourPoint, measure_each, measuring
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps
from gradguard.loss.interleaving import Search, alone
from gradguard.loss.objective import Objective
from gradguard.measurement.tensor import (
    BACKPROP_ROUNDING,
    LONGEST,
    ROUNDOFFS_OF_A_STEP,
    SATURATED_ROUNDING,
    SHARPEST,
    START,
    Rounding,
    Size,
)
from gradguard.perturbation.directions import Probe

FLOAT32_UNIT = 2.0**-24
LARGEST_ROUNDOFF = 1e-3


@dataclass(frozen=True, slots=True)
class ProvenSetup:
    """What the first check has found out of the loss, and what later ones take over.

    Attributes:
        precision: The one that takes.
        unit: The unit roundoff of what the gradients are computed with.
        noise: sigma of the loss in native precision.
        sizes: Of each tensor, when last looked at.
        at_once: How many points one call of the loss takes.
    """

    precision: str
    unit: float
    noise: float
    sizes: Mapping[str, Size]
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Derivative:
    """The exact derivative of a loss that carries tangents along.

    Attributes:
        objective: It stands in for the loss; what is moved are tangents of the tensors.
        step: How far they are, in typical sizes.
        method: What this way to an exact derivative is called.
    """

    objective: Objective
    step: float
    method: Method


@dataclass(frozen=True)
class MeasurementContext:
    """What a check measures with.

    Attributes:
        objective: The loss in the precision chosen.
        arrays: The tensors as the user has them.
        gradients: Their gradients.
        sizes: Of all tensors, those that this check is about as they are now.
        centre: The unreduced losses at the unperturbed parameters.
        unit: The unit roundoff of what the gradients were computed with.
        noise: sigma of the loss in native precision; 0 where it did not move.
        heard: The noise of the loss along tensors where it has been listened to already.
        derivative: Makes the derivative of the loss, of which one call takes so many points too; None where it has no
            exact one. Only where float64 was proven.
    """

    objective: Objective
    arrays: Mapping[str, Array]
    gradients: Mapping[str, Array]
    sizes: Mapping[str, Size]
    centre: Float64
    unit: float
    noise: float = 0.0
    heard: Mapping[str, Noise] = field(default_factory=dict)
    derivative: Callable[[int], Derivative | None] | None = None

    @property
    def loss(self) -> float:
        """The loss at the unperturbed parameters."""
        return self.objective.total(self.centre)

    @cached_property
    def roundoff(self) -> float:
        """The relative rounding of a backward pass: a unit roundoff, or the loss's own noise where that is larger.

        A loss that is the small difference of large numbers has a gradient that is, too.
        """
        relative = self.noise / abs(self.loss) if self.loss else LARGEST_ROUNDOFF
        return min(max(self.unit, relative), LARGEST_ROUNDOFF)

    @cached_property
    def _passing(self) -> float:
        """How much of the loss passes through a tensor, at most."""
        return max(size.passing for size in self.sizes.values())

    def passing(self, name: str) -> float:
        """The derivative of an entry of a tensor through which so much passes, and of which nothing cancels."""
        return self._passing / (self.sizes[name].typical or 1.0)

    def measure(self, name: str, probes: Sequence[Probe], steps: Float64) -> FourPoint:
        """Four-point differences of one tensor along some probes."""
        return alone(self.objective, self.measuring(name, probes, steps))

    def measuring(self, name: str, probes: Sequence[Probe], steps: Float64) -> Search[FourPoint]:
        """The same as a part of a search."""
        return measuring(self.objective, name, self.gradients[name], probes, steps, self.centre)

    def measure_each(self, moved: Sequence[tuple[str, Probe]], steps: Float64) -> FourPoint:
        """Four-point differences of some tensors, along one probe of each."""
        with_gradients = [(name, probe, self.gradients[name]) for name, probe in moved]
        return measure_each(self.objective, with_gradients, steps, self.centre)

    def rounding_of_entry(self, name: str) -> Rounding:
        """Backprop's own rounding error of one entry: some roundoffs of the largest, and what cancels."""
        return self._rounding(name, self.sizes[name].largest)

    def rounding_of_direction(self, name: str) -> Rounding:
        """Backprop's own rounding error along a unit vector: some roundoffs of the norm, and what cancels."""
        return self._rounding(name, self.sizes[name].norm)

    def _rounding(self, name: str, derivative: float) -> Rounding:
        """The rounding of the gradient as it is, and what is left of large contributions to it that cancel.

        What passes through the layers is rounded at the size it has there, in units of this tensor; near a minimum it
        cancels. It is no rounder than the loss that it makes up, unless that loss is near 0 and hides its noise. Large
        parameters saturate units, and the slopes of these cancel the more. In float64, where differences have no noise
        to speak of, what the loss's own rounding in native precision leaves comes on top.
        """
        typical = self.sizes[name].typical or 1.0
        sharp = min(max(1.0, typical), SHARPEST)
        saturated = min(SATURATED_ROUNDING * sharp**2 * self.unit, BACKPROP_ROUNDING * LARGEST_ROUNDOFF)
        relative = math.hypot(BACKPROP_ROUNDING * self.roundoff, saturated)
        left = self.roundoff * self._passing
        if self.roundoff < LARGEST_ROUNDOFF:
            left = max(self.unit * self._passing, min(left, self.noise))
        is_native = self.objective.space.precision == "native"
        forward = 0.0 if is_native else max(self.noise, min(self.unit, FLOAT32_UNIT) * abs(self.loss))
        own = math.hypot(relative * derivative, BACKPROP_ROUNDING * left / typical)
        return Rounding.of(own, forward / typical)

    def steps_of_entries(self, name: str) -> Steps:
        """The steps to take along an entry: at first a thousandth of the typical one, at last some times that."""
        return self._steps(name, 1.0)

    def steps_of_directions(self, name: str) -> Steps:
        """The steps to take along a unit vector: at last some times the whole tensor."""
        return self._steps(name, math.sqrt(self.arrays[name].size))

    def typical(self, name: str) -> float:
        """The size that steps are measured in: of a tensor of zeros, that of the others."""
        return self.sizes[name].typical or typical_size_among(self.arrays[name], self.arrays)

    def _steps(self, name: str, extent: float) -> Steps:
        typical = self.typical(name)
        shortest = ROUNDOFFS_OF_A_STEP * self.objective.space.spacing(name)
        longest = max(shortest, LONGEST * extent * typical)
        return Steps(START[self.objective.space.precision] * typical, shortest, longest)

    @contextmanager
    def nudged(self, amount: float, seed: int) -> Iterator["MeasurementContext"]:
        """The same bench where every parameter is moved, at random, by a share `amount` of itself."""
        rng = np.random.default_rng(seed)
        with ExitStack() as moves:
            for name in self.arrays:
                place = moves.enter_context(self.objective.space.moving(name))
                place.write(_nudged(place.base, amount, rng))
            yield replace(self, centre=self.objective())

    @property
    def proven(self) -> "ProvenSetup":
        """What a later check need not find out again."""
        objective = self.objective
        return ProvenSetup(objective.space.precision, self.unit, self.noise, self.sizes, objective.at_once)

    def repeats(self, times: int = 1) -> bool:
        """Whether the loss at the unperturbed parameters is, bit for bit, what it was, so many times in a row."""
        return all(np.array_equal(self.objective(), self.centre, equal_nan=True) for _ in range(times))


def _nudged(base: Array, amount: float, rng: np.random.Generator) -> Array:
    """Each entry moved, at random, by a share `amount` of it."""
    moved: Array = np.asarray(rng.standard_normal(base.shape))
    moved *= amount
    moved += 1
    moved *= base
    return moved
