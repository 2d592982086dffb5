"""One probe of several tensors at once: four evaluations of the loss, however many tensors there are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from gradguard.arrays import Array, Float64
from gradguard.differences import MARGIN, NOISE_OF_NUMERICAL, TOO_LONG_Z4, FourPoint, measure_along
from gradguard.measurement import MeasurementContext, TensorUnderTest
from gradguard.perturbation import Direction, JointDirection, Part, directions
from gradguard.screening.stream import FAR_TOO_LONG_Z3

Draw = Callable[[Array, np.random.Generator], Direction]
KINDS: Mapping[str, Draw] = {"aligned": directions.aligned, "gaussian": directions.gaussian}


@dataclass(frozen=True, slots=True)
class ModelDirection:
    """A direction through several tensors.

    Attributes:
        kind: "aligned" or "gaussian".
        joint: The direction.
        rounding: Backprop's rounding error along it in proportion to the gradients: the errors of the tensors are
            independent.
    """

    kind: str
    joint: JointDirection
    rounding: float


@dataclass(frozen=True)
class ModelProbe:
    """The four-point difference along one direction through several tensors.

    Attributes:
        direction: The direction.
        point: The difference, as of one probe.
        shares: The part of each tensor in what the gradients predict, shape (T,).
        sigma: The noise of one loss.
        spread: The standard deviation of what kinks add to the difference, in units of the loss.
        forward: The rounding error of the gradients along the direction that is not in proportion to them.
    """

    direction: ModelDirection
    point: FourPoint
    shares: Float64
    sigma: float
    spread: float
    forward: float

    @property
    def kind(self) -> str:
        """Whether it is aligned or Gaussian."""
        return self.direction.kind

    @property
    def step(self) -> float:
        """The factor on the direction."""
        return float(self.point.step[0])

    @property
    def residual(self) -> float:
        """N - P: how far the loss changes from what the gradients predict, in units of the loss."""
        return float(self.point.numerical[0] - self.point.predicted[0])

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of that on correct gradients, from loss values and rounding alone."""
        return MARGIN * math.hypot(*self.parts_of_deviation, self.spread)

    @cached_property
    def parts_of_deviation(self) -> tuple[float, float]:
        """The parts of it that are the noise of the loss, and backprop's rounding error."""
        rounding = math.hypot(self.direction.rounding, self.forward) * abs(float(self.point.length[0]))
        return NOISE_OF_NUMERICAL * self.sigma, rounding

    @property
    def z(self) -> float:
        """N - P in standard deviations, less what truncation and a kink explain; positive where N is larger."""
        excess = abs(self.residual) - self.explained
        return math.copysign(max(0.0, excess) / self.deviation, self.residual) if excess == excess else 0.0

    @property
    def explained(self) -> float:
        """How far truncation and a kink may have moved the difference, in units of the loss."""
        return float(self.point.bend_bar(self.sigma)[0])

    @cached_property
    def z3(self) -> float:
        """Truncation in standard deviations of its noise and of backprop's rounding; inf if the loss is not finite."""
        return _number(self.point.bend_in_noise(self._resolution))

    @cached_property
    def z4(self) -> float:
        """The fourth difference in standard deviations of its noise and of rounding, likewise."""
        return _number(self.point.fourth_in_noise(self._resolution))

    @property
    def _resolution(self) -> float:
        """The noise of one loss that would make the whole deviation: what is smaller does no harm."""
        return math.hypot(*self.parts_of_deviation) / NOISE_OF_NUMERICAL

    @property
    def suits(self) -> bool:
        """Whether the step is short enough for the probe to be evidence either way."""
        return self.z3 <= FAR_TOO_LONG_Z3 and self.z4 <= TOO_LONG_Z4


def _number(of_one: Float64) -> float:
    """The number of a single probe; inf for nan."""
    number = float(of_one[0])
    return math.inf if math.isnan(number) else number


def draw_direction(
    context: MeasurementContext, names: Sequence[str], kind: str, rng: np.random.Generator
) -> ModelDirection:
    """A direction through some tensors, in which each has about the same share of the predicted change.

    No tensor moves by more than its own size where the direction moves by 1. The signs of the shares are random, so
    that errors of different tensors do not cancel in every probe, and each ratio n/g can be read from many.

    Args:
        context: What to measure with.
        names: The tensors.
        kind: "aligned" (along the gradient, which resolves an error of scale best) or "gaussian" (every entry moves,
            which shows what the gradient misses).
        rng: Draws the vectors and signs.
    """
    tensors = {name: TensorUnderTest(context, name) for name in names}
    sizes = {name: tensor.extent for name, tensor in tensors.items()}
    norms = {name: tensor.size.norm for name, tensor in tensors.items()}
    share = float(np.median([sizes[name] * norm for name, norm in norms.items() if norm] or [0.0]))
    parts = {}
    for name, tensor in tensors.items():
        length = min(share / norms[name], sizes[name]) if norms[name] else sizes[name]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        parts[name] = Part(KINDS[kind](tensor.gradient, rng), sign * length)
    return _through(context, kind, parts)


def part_of(context: MeasurementContext, direction: ModelDirection, names: Sequence[str]) -> ModelDirection:
    """The part of a direction that moves some of its tensors, each as far as the whole does.

    Args:
        context: What to measure with.
        direction: The direction.
        names: The tensors.
    """
    return _through(context, direction.kind, {name: direction.joint.parts[name] for name in names})


def _through(context: MeasurementContext, kind: str, parts: Mapping[str, Part]) -> ModelDirection:
    tensors = {name: TensorUnderTest(context, name) for name in parts}
    joint = JointDirection(parts, sum(tensor.gradient.size for tensor in tensors.values()))
    rounding = [parts[name].length * tensor.own_rounding_of_direction for name, tensor in tensors.items()]
    return ModelDirection(kind, joint, math.sqrt(sum(error**2 for error in rounding)) / joint.length)


def measured_along(
    context: MeasurementContext,
    direction: ModelDirection,
    step: float,
    noise: tuple[float, float],
    forward: float = 0.0,
) -> ModelProbe:
    """The difference along a direction.

    Args:
        context: What to measure with.
        direction: The direction.
        step: The factor on it.
        noise: The noise of one loss, and the standard deviation of what kinks add to the difference.
        forward: What is known of the rounding error that is not in proportion to the gradients: the curvature that
            tells of it may not show at a short step.
    """
    point, shares = measure_along(context.objective, direction.joint, step, context.centre, context.gradients)
    sigma, spread = noise
    shown = context.forward_rounding(point.curvature(sigma))
    return ModelProbe(direction, point, shares, sigma, spread, max(forward, shown))
