"""What a check measures with: the loss in one precision, the tensors and their gradients."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from gradguard.arrays import Array, Float64, reductions
from gradguard.diagnosis import Method
from gradguard.differences import Noise
from gradguard.loss import Objective
from gradguard.statistics import DEFAULT_RULES, Rules

FLOAT32_UNIT = 2.0**-24  # unit roundoff of float32
# A loss that cancels to almost nothing is noisier than this relative to its value; that says nothing of its gradient.
MAX_ROUNDOFF = 1e-3


@dataclass(frozen=True, slots=True)
class Size:
    """How large a tensor and its gradient are.

    Attributes:
        typical: The root mean square of the tensor; 0 for a tensor of zeros.
        largest: The largest |g|.
        norm: ||g||.
    """

    typical: float
    largest: float
    norm: float

    @classmethod
    def of(cls, array: Array, gradient: Array) -> "Size":
        """The size of one tensor."""
        largest = reductions.largest_magnitude(gradient)
        return cls(reductions.typical_size(array, 0.0), largest, reductions.norm_of_finite(gradient, largest))

    @property
    def sensitivity(self) -> float:
        """The change of the loss for a relative change of 1 of the entry with the largest |g|."""
        return self.largest * (self.typical or 1.0)


@dataclass(frozen=True, slots=True)
class ProvenSetup:
    """What the first check has proven about the loss; later checks start from it.

    Attributes:
        precision: The precision in which the loss is evaluated.
        unit: The unit roundoff of the arithmetic that computed the gradients.
        noise: sigma of the loss in native precision.
        sizes: The size of each tensor when it was last measured.
        at_once: The number of points that one call of the loss takes.
    """

    precision: str
    unit: float
    noise: float
    sizes: Mapping[str, Size]
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Derivative:
    """An exact derivative of the loss.

    Attributes:
        objective: The derivative in place of the loss: a move of a tensor is a tangent.
        step: The length of a tangent, in typical sizes of the tensor.
        method: The name of the method.
    """

    objective: Objective
    step: float
    method: Method


@dataclass(frozen=True)
class MeasurementContext:
    """What a check measures with.

    Attributes:
        objective: The loss, in the precision chosen.
        arrays: The user's tensors.
        gradients: Their gradients.
        sizes: The size of each tensor; current for the tensors of this check, earlier for the others.
        centre: The unreduced losses at the unperturbed parameters, shape (m,).
        unit: The unit roundoff of the arithmetic that computed the gradients.
        noise: sigma of the loss in native precision; 0 if the loss did not change.
        noise_of: The noise of the loss along each tensor for which it is known.
        derivative: Makes the exact derivative, given the number of points that one call takes. None, or returns None,
            where there is no exact derivative; set only where float64 is proven.
        rules: The rules of the measurement.
    """

    objective: Objective
    arrays: Mapping[str, Array]
    gradients: Mapping[str, Array]
    sizes: Mapping[str, Size]
    centre: Float64
    unit: float
    noise: float = 0.0
    noise_of: Mapping[str, Noise] = field(default_factory=dict)
    derivative: Callable[[int], Derivative | None] | None = None
    rules: Rules = DEFAULT_RULES

    @property
    def loss(self) -> float:
        """The loss at the unperturbed parameters."""
        return self.objective.total(self.centre)

    @property
    def is_native(self) -> bool:
        """Whether the loss is evaluated in the precision of the training."""
        return self.objective.space.precision == "native"

    @cached_property
    def roundoff(self) -> float:
        """The relative rounding error of the backward pass: a unit roundoff, or the loss's own relative noise.

        If the loss is a small difference of large numbers, so is its gradient.
        """
        relative = self.noise / abs(self.loss) if self.loss else MAX_ROUNDOFF
        return min(max(self.unit, relative), MAX_ROUNDOFF)

    @cached_property
    def sensitivity(self) -> float:
        """The largest sensitivity of the loss to any tensor (`Size.sensitivity`)."""
        return max(size.sensitivity for size in self.sizes.values())

    @contextmanager
    def nudged(self, amount: float, seed: int) -> Iterator["MeasurementContext"]:
        """The same context with every parameter moved at random by about `amount` times its value."""
        rng = np.random.default_rng(seed)
        with ExitStack() as moves:
            for name in self.arrays:
                tensor = moves.enter_context(self.objective.moving(name))
                tensor.write(_nudged(tensor.base, amount, rng))
            yield replace(self, centre=self.objective())

    @property
    def proven(self) -> ProvenSetup:
        """What later checks need not prove again."""
        objective = self.objective
        return ProvenSetup(objective.space.precision, self.unit, self.noise, self.sizes, objective.at_once)

    def repeats(self, times: int = 1) -> bool:
        """Whether the loss at the unperturbed parameters is the same bit for bit, `times` times in a row."""
        return all(np.array_equal(self.objective(), self.centre, equal_nan=True) for _ in range(times))


def _nudged(base: Array, amount: float, rng: np.random.Generator) -> Array:
    """The product base * (1 + amount * N(0, 1)), entry by entry, in one array."""
    moved: Array = np.asarray(rng.standard_normal(base.shape))
    moved *= amount
    moved += 1
    moved *= base
    return moved
