"""What a check measures with: the loss in one precision, the tensors and their gradients."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array, Float64, reductions, unit_roundoff
from gradguard.diagnosis import Method
from gradguard.differences import Comparison, Noise, RoundedValue
from gradguard.loss import Objective, reason_not_followed, tried_batch_size
from gradguard.statistics import ALARM_Z, DEFAULT_RULES, Rules

MOST_REPEATS = 128  # differences along one probe that show there is no kink
FEW_REPEATS = 6  # evaluations that must repeat if there is no time for more
FLOAT32_UNIT = 2.0**-24  # unit roundoff of float32
# A loss that cancels to almost nothing is noisier than this relative to its value; that says nothing of its gradient.
MAX_ROUNDOFF = 1e-3
NUDGE = 4.0  # unit roundoffs by which parameters are moved: moves by one are mostly rounded away
NUDGES = 4  # evaluations that show the rounding of a loss: a standard deviation from fewer scatters too much


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
        pads: Whether a call takes only a few fixed numbers of points.
        near: The noise of the loss near the unperturbed parameters, in that precision.
    """

    precision: str
    unit: float
    noise: float
    sizes: Mapping[str, Size]
    at_once: int = 1
    pads: bool = False
    near: Noise | None = None


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
        near: The noise of the loss near the unperturbed parameters, with all tensors moved at once; None where it was
            not measured.
        derivative: Makes the exact derivative, given the number of points that one call takes. None, or returns None,
            where there is no exact derivative; set only where float64 is proven.
        reverse_pass: Makes the exact gradient of every entry by one reverse pass; None, or returns None, where there is
            none.
        native: The loss on the parameters themselves, where `objective` is not that.
        most_repeats: How often a difference may be repeated to show that there is no kink: fewer where time is short.
        rules: The rules of the measurement.
        training_loss: The loss that the training computed, if this is another one; otherwise None.
        inside: For some tensors, a mask over the entries that directions move; the others are measured singly only.
    """

    objective: Objective
    arrays: Mapping[str, Array]
    gradients: Mapping[str, Array]
    sizes: Mapping[str, Size]
    centre: Float64
    unit: float
    noise: float = 0.0
    near: Noise | None = None
    derivative: Callable[[int], Derivative | None] | None = None
    reverse_pass: Callable[[], Mapping[str, Array] | None] | None = None
    native: Objective | None = None
    most_repeats: int = MOST_REPEATS
    rules: Rules = DEFAULT_RULES
    training_loss: float | None = None
    inside: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """The loss at the unperturbed parameters."""
        return self.objective.total(self.centre)

    @property
    def is_measurable(self) -> bool:
        """Whether the loss is finite, and the one that the training computed as far as that is known."""
        return self.training_loss is None and bool(np.isfinite(self.centre).all())

    def compared(self, training: RoundedValue) -> Comparison:
        """The comparison of this loss with the one that the training computed."""
        loss = RoundedValue(self.loss, unit_roundoff(self.objective.dtype))
        return Comparison.of(loss, training, self.unit, self.objective.total(np.abs(self.centre)))

    def may_round_to(self, training: RoundedValue) -> bool:
        """Whether this loss would be as far from the training's at parameters that are rounded in other ways."""
        comparison = self.compared(training)
        if not comparison.is_possible:
            return False
        amount = max(comparison.unit, NUDGE * min(comparison.unit, FLOAT32_UNIT))
        changes = []
        for seed in range(NUDGES):
            with self.nudged(amount, seed) as nudged:
                changes.append(nudged.loss - self.loss)
        # A change that is short of a rounding shows as none, or as a whole one.
        variance = np.mean(np.square(changes)) + comparison.ends**2 / 3
        return bool(comparison.distance <= ALARM_Z * np.sqrt(variance))

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

    def forward_rounding(self, curvature: float) -> float:
        """The rounding error of a derivative from the contributions that are added up in it.

        A contribution is the slope l' of one sample's loss times its response x. By Cauchy and Schwarz, the sum of
        their sizes is at most sqrt(sum l'^2 / l'') sqrt(sum l'' x^2), which for the usual losses is about
        sqrt(2 |L| H) with the curvature H of the loss along the probe. Each is rounded as the loss is, which may be a
        small difference of large numbers. No unit of the loss or of the parameters is in that.

        Args:
            curvature: H, the second derivative of the loss along a unit vector.
        """
        rounded = max(self.unit * abs(self.loss), self.noise)
        size = max(abs(self.loss), rounded)
        return self.rules.backprop_rounding * rounded * math.sqrt(2 * curvature / size) if size else 0.0

    @cached_property
    def sensitivity(self) -> float:
        """The largest sensitivity of the loss to any tensor (`Size.sensitivity`)."""
        return max(size.sensitivity for size in self.sizes.values())

    @cached_property
    def usual_size(self) -> float:
        """The median of the typical sizes of the tensors, those of zeros left out; 1 where there are no others."""
        sizes = [size.typical for size in self.sizes.values() if size.typical]
        return float(np.median(sizes)) if sizes else 1.0

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
        return ProvenSetup(
            precision=objective.space.precision,
            unit=self.unit,
            noise=self.noise,
            sizes=self.sizes,
            at_once=objective.at_once,
            pads=objective.pads,
            near=self.near,
        )

    def try_batches(self, is_late: Callable[[], bool]) -> None:
        """Find out whether one call of the loss can take many points, where nobody has marked it as batched.

        Args:
            is_late: Whether there is no time for that.
        """
        if self.objective.tries_copies and self.objective.at_once == 1:
            self.objective.at_once = tried_batch_size(self.objective, self.centre, is_late)

    def evaluate_live(self) -> None:
        """Evaluate the loss once on the unperturbed parameters themselves, as the training does."""
        (self.native or self.objective)()
        self.objective.evaluations += self.native is not None

    def reason_not_same_loss(self, names: Sequence[str]) -> str:
        """Why the loss is not the one of the training, as moves of some tensors show, each by itself; "" if it is."""
        if self.native is None:
            return ""
        before = self.native.evaluations
        reason = reason_not_followed(self.objective, self.native, names, self.unit)
        self.objective.evaluations += self.native.evaluations - before
        return reason

    def repeats(self, times: int = 1, is_late: Callable[[], bool] = lambda: False) -> bool:
        """Whether the loss at the unperturbed parameters is the same bit for bit, `times` times in a row.

        Args:
            times: How often it is evaluated.
            is_late: Whether a few times must do.
        """
        for count in range(times):
            if count >= FEW_REPEATS and is_late():
                break
            if not np.array_equal(self.objective(), self.centre, equal_nan=True):
                return False
        return True


def _nudged(base: Array, amount: float, rng: np.random.Generator) -> Array:
    """The product base * (1 + amount * N(0, 1)), entry by entry, in one array."""
    moved: Array = np.asarray(rng.standard_normal(base.shape))
    moved *= amount
    moved += 1
    moved *= base
    return moved
