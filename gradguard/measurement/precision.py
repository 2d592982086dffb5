"""What is checked, as the user gave it, and in which precision the loss is evaluated."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Array, Float64, unit_roundoff
from gradguard.containers import Container, read_parameters
from gradguard.differences import Noise, RoundedValue, estimate_noise
from gradguard.loss import (
    Batched,
    Loss,
    Objective,
    Reduction,
    keeps_assigned_objects,
    proven_batch_size,
    reason_not_float64,
    rechecked_batch_size,
    takes_parameters,
)
from gradguard.measurement.context import FLOAT32_UNIT, Derivative, MeasurementContext, ProvenSetup, Size
from gradguard.perturbation import (
    ComplexCopies,
    CopyFactory,
    Float64Copies,
    InPlace,
    MovableParameters,
    NativeCopies,
    Rollback,
    Space,
    groups_to_move,
)
from gradguard.statistics import DEFAULT_RULES, Rules

Precision = Literal["native", "float64", "auto"]
NATIVE_PAIRS = 6  # pairs of points that give the native noise to 30 %
FLOAT64_PAIRS = 3  # the same in float64, whose noise hardly matters beside the rounding of the gradient
COMPLEX_STEP = 1e-20  # in typical sizes of a tensor: its square vanishes beside 1 in float64
TANGENT = 2.0**-60  # in typical sizes: short enough that a tensor of zeros moves to one side only


def require_precision(precision: str) -> Precision:
    """The precision, if it is one.

    Raises:
        ValueError: it is not; the message lists the valid ones.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected 'native', 'float64' or 'auto'")
    return precision  # type: ignore[return-value]  # just compared with the literal's values


@dataclass(frozen=True, slots=True)
class CheckTarget:
    """What is checked, as the user gave it.

    Attributes:
        params: The mapping of the parameters: the user's own, or a view of the user's container.
        arrays: Its live arrays.
        loss: `loss()` or `loss(params)`.
        reduction: The scalar that the gradient is of, if the loss returns an array.
        state: The gradients, and everything that must be restored.
        kept: Float64 copies of the arrays, kept from check to check.
        on_evaluations: Called with the number of points of each call of the loss.
        rules: The rules of the measurement.
        value: The loss that the training computed; None if it is not known.
        inside: As in `MeasurementContext`.
        takes_parameters: Whether it is `loss(params)`.
    """

    params: Mapping[str, object]
    arrays: Mapping[str, Array]
    loss: Loss
    reduction: Reduction | None
    state: Rollback
    kept: dict[str, Array] = field(default_factory=dict)
    on_evaluations: Callable[[int], object] = int
    rules: Rules = DEFAULT_RULES
    value: RoundedValue | None = None
    inside: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    takes_parameters: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "takes_parameters", takes_parameters(self.loss))

    def context(self, precision: Precision, is_late: Callable[[], bool] = lambda: False) -> MeasurementContext:
        """The context in the precision asked for; with "auto", float64 where it is proven, else native.

        Args:
            precision: The user's choice.
            is_late: Whether the time for examining further tensors is over. What all tensors of a loss have in common
                is then inferred from those examined so far.

        Raises:
            ValueError: float64 was asked for by name and is not the same loss; the message says what was tried.
        """
        self._require_live_arrays()
        native = self._objective(self._native())
        context = self._open(native, ProvenSetup("native", self._unit(), 0.0, {}), list(self.arrays))
        context = self._compared(context)
        if not context.is_measurable:
            return context
        if isinstance(self.loss, Batched):
            native.at_once = proven_batch_size(native, context.centre)
        near = self._near(native, context.centre, NATIVE_PAIRS)
        if near is None:
            return context
        unit = max(context.unit, min(unit_roundoff(near.dtype), FLOAT32_UNIT))
        context = replace(context, noise=0.0 if near.is_unknown else near.sigma, unit=unit, near=near)
        if precision == "native":
            return context
        exact, refusal = self._proven_in_float64(native, context, is_late)
        if exact is not None:
            exact.evaluations += native.evaluations
            exact.at_once, exact.pads = native.at_once, native.pads
            centre = exact()
            near = self._near(exact, centre, FLOAT64_PAIRS)
            return replace(
                context,
                objective=exact,
                centre=centre,
                near=near,
                derivative=self._derivative,
                reverse_pass=self._reverse_pass,
                native=native,
            )
        self.require_native(precision, refusal)
        return context

    def _require_live_arrays(self) -> None:
        """Refuse a mapping that makes its arrays anew at each access, where the loss reads the live ones.

        Raises:
            TypeError: It does; the message names the tensor.
        """
        if self.takes_parameters or isinstance(self.params, MovableParameters):
            return
        for name, again in read_parameters(self.params).arrays.items():
            if self.arrays[name].size and not np.may_share_memory(self.arrays[name], again):
                raise TypeError(
                    f"params, a {type(self.params).__name__}, gives another array for {name!r} at each access; "
                    "expected a mapping of the arrays that the loss reads, or a loss that takes the parameters: "
                    "loss(params)"
                )

    def require_native(self, precision: Precision, refusal: str) -> Precision:
        """Native precision, after the loss in float64 has proven to be another one.

        Args:
            precision: The user's choice.
            refusal: What has proven it.

        Raises:
            ValueError: float64 was asked for by name.
        """
        if precision == "float64":
            raise ValueError(f"precision='float64' does not work: {refusal}; use precision='auto' or 'native'")
        self.kept.clear()
        return "native"

    def reopened(self, proven: ProvenSetup, names: Sequence[str]) -> MeasurementContext:
        """The context for some of the tensors, in the precision that an earlier check has proven."""
        objective = self._objective(self._native() if proven.precision == "native" else self._float64_copies())
        context = self._compared(self._open(objective, proven, names))
        if not context.is_measurable:
            return context
        if isinstance(self.loss, Batched):
            objective.at_once, objective.pads = proven.at_once, proven.pads
        else:
            objective.at_once = rechecked_batch_size(objective, names[0], context.centre, proven.at_once)
        return context

    def _open(self, objective: Objective, proven: ProvenSetup, names: Sequence[str]) -> MeasurementContext:
        gradients = self.state.gradients
        sizes = {**proven.sizes, **{name: Size.of(self.arrays[name], gradients[name]) for name in names}}
        derivative = self._derivative if objective.space.precision == "float64" else None
        return MeasurementContext(
            objective,
            self.arrays,
            gradients,
            sizes,
            centre=objective(),
            unit=proven.unit,
            noise=proven.noise,
            near=proven.near,
            derivative=derivative,
            reverse_pass=None if derivative is None else self._reverse_pass,
            native=None if proven.precision == "native" else self._objective(self._native()),
            rules=self.rules,
            inside=self.inside,
        )

    def _near(self, objective: Objective, centre: Float64, pairs: int) -> Noise | None:
        """The noise of the loss with all tensors moved at once; None where there is nothing to move."""
        groups = groups_to_move(objective.space.arrays)
        if not groups:
            return None
        rng, narrowed = np.random.default_rng(0), self.rules.narrowed_noise
        return estimate_noise(objective, groups[0], centre, rng, pairs, narrowed=narrowed)

    def _compared(self, context: MeasurementContext) -> MeasurementContext:
        """The context, marked where its loss is another one than the training computed.

        A loss in float64 may differ from the training's by more than the rounding that is foreseen, such as that of
        matrix units which round their operands: then the loss in native precision decides. A loss that does not repeat
        is not marked: the check finds that by itself.
        """
        if self.value is None or context.compared(self.value).is_usual:
            return context
        native = context
        if not context.is_native:
            native = self._open(self._objective(self._native()), context.proven, [])
            context.objective.evaluations += native.objective.evaluations
            if native.compared(self.value).is_usual:
                return context
        if not context.repeats() or native.may_round_to(self.value):
            return context
        return replace(context, training_loss=self.value.value)

    def _objective(self, space: Space, loss: Loss | None = None) -> Objective:
        return Objective(
            loss or self.loss, space, self.reduction, self.state.restore, self.state.undo_log, self.on_evaluations
        )

    def _derivative(self, at_once: int) -> Derivative | None:
        """The exact derivative of the loss on float64 copies; None where there is none."""
        if isinstance(self.params, MovableParameters):
            tangents = self.params.tangents()
            if tangents is None:
                return None
            objective = self._objective(tangents)
            objective.at_once = at_once if isinstance(tangents, CopyFactory) else 1
            return Derivative(objective, TANGENT, "forward mode")
        if isinstance(self.loss, Batched):  # differences of many points take fewer calls
            return None
        loss: Callable[..., Any] = self.loss
        part = (lambda params: np.imag(loss(params))) if self.takes_parameters else (lambda: np.imag(loss()))
        return Derivative(
            self._objective(ComplexCopies(self.arrays, self._swapped), part), COMPLEX_STEP, "complex step"
        )

    def _reverse_pass(self) -> Mapping[str, Array] | None:
        """The exact gradient of every entry; None where there is none."""
        if not isinstance(self.params, MovableParameters):
            return None
        self.state.restore()
        gradients = self.params.exact_gradients(self.loss, self.reduction)
        self.state.restore()
        self.on_evaluations(1)
        return gradients

    def _unit(self) -> float:
        if isinstance(self.params, MovableParameters):
            return self.params.unit
        return max(unit_roundoff(array.dtype) for array in (*self.arrays.values(), *self.state.gradients.values()))

    def _native(self) -> Space:
        if isinstance(self.params, MovableParameters):
            return self.params.native()
        return NativeCopies(self.arrays) if self.takes_parameters else InPlace(self.arrays)

    def _float64_copies(self) -> Space:
        if isinstance(self.params, MovableParameters):
            return self.params.float64_copies()
        return Float64Copies(self.arrays, self._swapped, self.kept)

    @property
    def _swapped(self) -> MutableMapping[str, Any] | None:
        """The mapping whose entries are swapped for copies during an evaluation, if the loss reads the live arrays."""
        if self.takes_parameters or not isinstance(self.params, MutableMapping):
            return None
        is_fixed = isinstance(self.params, Container) and not self.params.is_mutable
        return None if is_fixed else self.params

    @property
    def _kind_of_container(self) -> str:
        """The type of what holds the arrays: the first whose entries cannot be swapped, where there are several."""
        holders = self.params.holders if isinstance(self.params, Container) else [self.params]
        return type(next(holder for holder in holders if not keeps_assigned_objects(holder))).__name__

    def _proven_in_float64(
        self, native: Objective, context: MeasurementContext, is_late: Callable[[], bool]
    ) -> tuple[Objective | None, str]:
        """The loss on float64 copies if it is proven to be the same loss, else None and the reason."""
        if (
            not self.takes_parameters
            and not isinstance(self.params, MovableParameters)
            and not keeps_assigned_objects(self.params)
        ):
            return None, (
                f"loss() reads the live arrays, and params is a {self._kind_of_container}, whose entries cannot be "
                "swapped or may be copied; expected a dict or a list, or loss(params)"
            )
        exact = self._objective(self._float64_copies())
        refusal = reason_not_float64(exact, native, context.loss, context.noise, context.unit, is_late)
        native.evaluations += exact.evaluations
        exact.evaluations = 0
        if refusal:
            self.kept.clear()
            return None, refusal
        return exact, ""
