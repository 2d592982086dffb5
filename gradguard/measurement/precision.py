"""What is checked, as the user gave it: it is found out in which precision, and how many points at a time."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from gradguard.arrays.floating_point import unit_roundoff
from gradguard.arrays.types import Array, Float64
from gradguard.differences.noise import Noise, noise_search
from gradguard.loss.batch_size import proven_at_once, still_at_once, tried_at_once
from gradguard.loss.batching import Batched
from gradguard.loss.float64_proof import swaps, why_not_exact
from gradguard.loss.interleaving import Search, interleave
from gradguard.loss.objective import Objective
from gradguard.loss.signature import Loss, Reduction, takes_parameters
from gradguard.measurement.context import FLOAT32_UNIT, Derivative, MeasurementContext, ProvenSetup
from gradguard.measurement.tensor import Size
from gradguard.perturbation.journal import Held, HeldCopying
from gradguard.perturbation.protocols import Copying, Movable, Space
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.spaces import ComplexCopies, Float64Copies, InPlace, NativeCopies

Precision = Literal["native", "float64", "auto"]
LISTENED = 4  # tensors along which the native noise is measured
SAME = 1e-3  # relative distance between one loss in two precisions
SAME_IN_ROUNDOFFS = 8  # of the coarser one, where that is more
COMPLEX_STEP = 1e-20  # in typical sizes of a tensor: its square is nothing beside 1
TANGENT = 2.0**-60  # in typical sizes: a derivative is in proportion to it, and zeros are moved to one side by it


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
    """What is checked, as the user gave it, before it is decided in which precision.

    Attributes:
        params: The mapping of the parameters itself.
        arrays: Its live arrays.
        loss: `loss()` or `loss(params)`.
        reduction: Which scalar the gradient is of, when the loss returns an array.
        state: Their gradients, and what must be put back.
        kept: Float64 copies, from check to check.
    """

    params: Mapping[str, object]
    arrays: Mapping[str, Array]
    loss: Loss
    reduction: Reduction | None
    state: Rollback
    kept: dict[str, Array] = field(default_factory=dict)

    def context(self, precision: Precision, is_late: Callable[[], bool] = lambda: False) -> MeasurementContext:
        """The bench in the precision asked for; with "auto", float64 where it proves to take, else native.

        Args:
            precision: What the user asked for.
            is_late: Whether to look at no more tensors for what those of one loss have in common.

        Raises:
            ValueError: float64 was asked for by name and does not take; the message says what was tried.
        """
        context = self._chosen(precision, is_late)
        if isinstance(context.objective.copying, HeldCopying):
            context.objective.at_once = tried_at_once(context.objective, context.centre, is_late)
        return context

    def _chosen(self, precision: Precision, is_late: Callable[[], bool]) -> MeasurementContext:
        native = self._objective(self._native())
        context = self._open(native, ProvenSetup("native", self._unit(), 0.0, {}), list(self.arrays))
        if not np.isfinite(context.centre).all():
            return context
        if isinstance(self.loss, Batched):
            native.at_once = proven_at_once(native, context.centre)
        heard = self._heard(native, context.centre, is_late)
        finest = max((noise.dtype for noise in heard.values()), key=lambda dtype: dtype.itemsize, default=native.dtype)
        sigma = max((noise.sigma for noise in heard.values() if not noise.is_unknown), default=0.0)
        unit = max(context.unit, min(unit_roundoff(finest), FLOAT32_UNIT))
        context = replace(context, noise=sigma, unit=unit, heard=heard)
        if precision == "native":
            return context
        shadow, refusal = self._proven(native, context, is_late)
        if shadow is not None:
            shadow.evaluations += native.evaluations
            shadow.at_once = native.at_once
            return replace(context, objective=shadow, centre=shadow(), heard={}, derivative=self._derivative)
        if precision == "float64":
            raise ValueError(f"precision='float64' does not take: {refusal}; use precision='auto' or 'native'")
        return context

    def reopened(self, proven: ProvenSetup, names: Sequence[str]) -> MeasurementContext:
        """The bench for some of the tensors, in the precision that an earlier check has proven."""
        objective = self._objective(self._native() if proven.precision == "native" else self._shadow())
        context = self._open(objective, proven, names)
        if isinstance(self.loss, Batched):
            objective.at_once = proven.at_once
        else:
            objective.at_once = still_at_once(objective, names[0], context.centre, proven.at_once)
        return context

    def _open(self, objective: Objective, proven: ProvenSetup, names: Sequence[str]) -> MeasurementContext:
        gradients = self.state.gradients
        sizes = {**proven.sizes, **{name: Size.of(self.arrays[name], gradients[name]) for name in names}}
        derivative = self._derivative if objective.space.precision == "float64" else None
        return MeasurementContext(
            objective, self.arrays, gradients, sizes, objective(), proven.unit, proven.noise, derivative=derivative
        )

    def _heard(self, native: Objective, centre: Float64, is_late: Callable[[], bool]) -> dict[str, Noise]:
        """The noise along a few of the tensors, or those there is time for."""
        names = [name for name, array in self.arrays.items() if array.size]
        chosen = names[:: -(-len(names) // LISTENED) or 1]
        together = len(chosen) if native.at_once > 1 else 1
        heard: list[Noise] = []
        for some in (chosen[:1], *(chosen[start : start + together] for start in range(1, len(chosen), together))):
            if heard and is_late():
                break
            heard += interleave(native, [_noise_search(native, name, centre) for name in some])
        return dict(zip(chosen, heard, strict=False))

    def _objective(self, space: Space, loss: Loss | None = None) -> Objective:
        undo_log = self.state.undo_log
        copying = HeldCopying(space, undo_log) if isinstance(space, Copying) else None
        return Objective(loss or self.loss, Held(space, undo_log), self.reduction, self.state.restore, copying)

    def _derivative(self, at_once: int) -> Derivative | None:
        """That of the loss, as it is on float64 copies; None where it is known to have none."""
        if isinstance(self.params, Movable):
            tangents = self.params.tangents()
            if tangents is None:
                return None
            objective = self._objective(tangents)
            objective.at_once = at_once if isinstance(tangents, Copying) else 1
            return Derivative(objective, TANGENT, "forward mode")
        loss: Callable[..., Any] = self.loss
        part = (lambda params: np.imag(loss(params))) if takes_parameters(loss) else (lambda: np.imag(loss()))
        return Derivative(
            self._objective(ComplexCopies(self.arrays, self._stood_in_for), part), COMPLEX_STEP, "complex step"
        )

    def _unit(self) -> float:
        if isinstance(self.params, Movable):
            return self.params.unit
        return max(unit_roundoff(array.dtype) for array in (*self.arrays.values(), *self.state.gradients.values()))

    def _native(self) -> Space:
        if isinstance(self.params, Movable):
            return self.params.native()
        return NativeCopies(self.arrays) if takes_parameters(self.loss) else InPlace(self.arrays)

    def _shadow(self) -> Space:
        if isinstance(self.params, Movable):
            return self.params.shadow()
        return Float64Copies(self.arrays, self._stood_in_for, self.kept)

    @property
    def _stood_in_for(self) -> MutableMapping[str, Any] | None:
        """The mapping in which copies must stand for the live arrays, where the loss is not handed them."""
        reads = not takes_parameters(self.loss) and isinstance(self.params, MutableMapping)
        return self.params if reads else None  # type: ignore[return-value]  # just asked

    def _proven(
        self, native: Objective, context: MeasurementContext, is_late: Callable[[], bool]
    ) -> tuple[Objective | None, str]:
        """The loss on float64 copies where it is proven to be the same loss in float64, else the reason."""
        if not takes_parameters(self.loss) and not isinstance(self.params, Movable) and not swaps(self.params):
            return None, (
                f"loss() reads the live arrays, and params is a {type(self.params).__name__}, whose entries cannot be "
                "swapped or may be copied; expected a dict, or loss(params)"
            )
        shadow = self._objective(self._shadow())
        refusal = why_not_exact(shadow, native, context.loss, max(SAME, SAME_IN_ROUNDOFFS * context.unit), is_late)
        native.evaluations += shadow.evaluations
        shadow.evaluations = 0
        if refusal:
            self.kept.clear()
            return None, refusal
        return shadow, ""


def _noise_search(native: Objective, name: str, centre: Float64) -> Search[Noise]:
    return noise_search(native, name, centre, np.random.default_rng(0))
