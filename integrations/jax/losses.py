"""The loss of the training, compiled in each form that a check needs."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradguard.integrations.jax.trees import unit_roundoff
from gradguard.integrations.jax.widening import PRINTING, dtype_of, evaluate_widened
from gradguard.loss import Reduction

Loss = Callable[..., Any]
REDUCTIONS = {"sum": jnp.sum, "mean": jnp.mean}
EXPLAINING = 500  # evaluations of a check that explains a wrong gradient


class _Traced:
    """Stands for an argument that may differ from step to step."""


TRACED = _Traced()


@dataclass(frozen=True)
class Form:
    """How a loss is called: all but the numbers in its arguments.

    Attributes:
        params: The structure of the parameters.
        args: The structure of the further arguments.
        fixed: The leaves of these, each a value that is part of the program, or `TRACED`.
    """

    params: Any
    args: Any
    fixed: tuple[object, ...]

    @classmethod
    def of(cls, params: object, args: tuple[object, ...]) -> tuple["Form", list[Any], list[Any]]:
        """The form of a call, the arrays of the parameters, and the numbers in the further arguments.

        Raises:
            TypeError: An argument is neither a number, an array, nor a value that can be part of a program.
        """
        leaves, structure = jax.tree.flatten(params)
        further, of_args = jax.tree.flatten(args)
        fixed = tuple(TRACED if _is_traced(leaf) else _require_hashable(leaf) for leaf in further)
        # As the training's own call sees them: without x64, wide integers of NumPy are narrowed.
        numpy = np.ndarray | np.generic
        traced = [jnp.asarray(leaf) if isinstance(leaf, numpy) else leaf for leaf in further if _is_traced(leaf)]
        return cls(structure, of_args, fixed), leaves, traced

    def call(self, loss: Loss, params: Sequence[Any], traced: Sequence[Any]) -> Any:
        """Call the loss with the arguments put together again."""
        numbers = iter(traced)
        args = [next(numbers) if leaf is TRACED else leaf for leaf in self.fixed]
        return loss(jax.tree.unflatten(self.params, params), *jax.tree.unflatten(self.args, args))


def _is_traced(leaf: object) -> bool:
    """Whether a leaf may be a tracer; whole numbers may be sizes, which a program must know."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | float | complex)


def _require_hashable(leaf: object) -> object:
    try:
        hash(leaf)
    except TypeError:
        raise TypeError(
            f"an argument of the loss is a {type(leaf).__name__}, which is neither an array nor hashable; bind it to "
            "the loss, as in lambda params, x: loss(params, x, config)"
        ) from None
    return leaf


@dataclass(slots=True)
class CallTimes:
    """How long calls of the loss with one set of parameters take.

    Attributes:
        first: Seconds of the longest call, which compiles.
        usual: Seconds of the shortest.
    """

    first: float = 0.0
    usual: float = math.inf

    def record(self, seconds: float) -> None:
        """Take one more call into account."""
        self.first, self.usual = max(self.first, seconds), min(self.usual, seconds)

    @property
    def copies_pay(self) -> bool:
        """Whether calls with many copies may save more time than compiling them takes, for two numbers of copies."""
        return self.first > 0 and EXPLAINING * self.usual > 2 * self.first


class CompiledLoss:
    """The loss for calls of one form, as functions of the arrays of its parameters and of the other numbers.

    Args:
        loss: `loss(params, *args)`.
        form: How it is called.
        params: The arrays of the parameters, or their shapes and dtypes.
        traced: The numbers in its further arguments.
        reduction: Which scalar the gradient is of, if it returns an array.

    Attributes:
        closed: Its jaxpr, in the dtypes of the training.
        unit: The unit roundoff of the coarsest floating dtype in it.
        times: How long its calls take, as recorded.

    Raises:
        TypeError: The loss returns no array of real numbers, or has side effects.
        ValueError: It returns several numbers, and there is no reduction.
    """

    def __init__(
        self, loss: Loss, form: Form, params: Sequence[Any], traced: Sequence[Any], reduction: Reduction | None
    ) -> None:
        self._loss = loss
        self._form = form
        self._dtypes = [array.dtype for array in params]
        self._reduction = reduction
        self._x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]  # it is made when JAX is imported
        self.closed = jax.make_jaxpr(self._call)(params, traced)
        _require_pure(self.closed)
        self.times = CallTimes()
        self.unit = max(map(unit_roundoff, _floating_dtypes(self.closed.jaxpr)), default=0.0)

    @cached_property
    def native(self) -> Loss:
        """The loss in the dtypes of the training."""
        return jax.jit(self._call)

    @cached_property
    def native_of_copies(self) -> Loss:
        """The losses of parameters that have one more, leading axis."""
        return jax.jit(jax.vmap(self._call, (0, None)))

    @cached_property
    def wide(self) -> Loss:
        """The loss in float64."""
        return jax.jit(self._widened)

    @cached_property
    def wide_of_copies(self) -> Loss:
        """The losses in float64 of parameters that have one more, leading axis."""
        return jax.jit(jax.vmap(self._widened, (0, None)))

    @cached_property
    def gradient(self) -> Loss:
        """The gradient as the training computes it, by the rules that the loss has."""
        return jax.jit(jax.grad(lambda params, traced: self.total(self._call(params, traced))))

    @cached_property
    def exact_gradient(self) -> Loss:
        """The gradient in float64 of the operations of the forward pass."""
        return jax.jit(jax.grad(lambda params, traced: self.total(self._widened(params, traced))))

    def total(self, losses: Any) -> Any:
        """The scalar that the gradient is of."""
        return losses.reshape(()) if self._reduction is None else REDUCTIONS[self._reduction](losses)

    def _call(self, params: Sequence[Any], traced: Sequence[Any]) -> Any:
        return _require_losses(self._form.call(self._loss, params, traced), self._reduction)

    def _widened(self, params: Sequence[Any], traced: Sequence[Any]) -> Any:
        native = [_abstract(array.shape, dtype) for array, dtype in zip(params, self._dtypes, strict=True)]
        with jax.enable_x64(self._x64):  # traced as the training traces it
            kinds = map(jax.typeof, traced)
            numbers = [_abstract(kind.shape, _narrowed(kind.dtype), weak_type=kind.weak_type) for kind in kinds]
            closed = jax.make_jaxpr(self._call)(native, numbers)
        (losses,) = evaluate_widened(closed, [*params, *traced])
        return losses


def _narrowed(dtype: Any) -> Any:
    """The dtype that JAX has instead of one in its present setting: a number of Python is of float64 with x64 only."""
    return dtype if jnp.issubdtype(dtype, jax.dtypes.extended) else jax.dtypes.canonicalize_dtype(dtype)


def _abstract(shape: tuple[int, ...], dtype: Any, *, weak_type: bool = False) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, weak_type=weak_type)  # type: ignore[no-untyped-call]


def _require_losses(result: Any, reduction: Reduction | None) -> Any:
    if isinstance(result, tuple | list | dict):
        raise TypeError(
            f"the loss returned a {type(result).__name__}; expected an array, such as a scalar: where it returns "
            "(loss, aux), pass lambda *args: loss(*args)[0]"
        )
    losses = jnp.asarray(result)
    if not (jnp.issubdtype(losses.dtype, jnp.floating) and losses.size):
        raise TypeError(
            f"the loss returned an array of dtype {losses.dtype} and shape {losses.shape}; expected floating-point "
            "numbers"
        )
    if losses.size != 1 and reduction is None:
        raise ValueError(
            f"the loss returned an array of shape {losses.shape} and no reduction was given; pass the one that the "
            "gradient belongs to: reduction='sum' or reduction='mean'"
        )
    return losses


def _require_pure(closed: core.ClosedJaxpr) -> None:
    called = {equation.primitive.name for equation in _equations(closed.jaxpr)}
    impure = sorted(called & {"io_callback"})
    if impure:
        raise TypeError(
            f"the loss calls {', '.join(impure)}, which has a side effect at each evaluation of a check; expected a "
            f"loss without side effects, such as one that returns what it would send ({' and '.join(sorted(PRINTING))} "
            "are left out in float64)"
        )


def _floating_dtypes(jaxpr: core.Jaxpr) -> set[Any]:
    """The floating dtypes of whatever the operations of a function return."""
    dtypes = {dtype_of(out) for equation in _equations(jaxpr) for out in equation.outvars}
    return {dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)}


def _equations(jaxpr: core.Jaxpr) -> Iterator[Any]:
    """The operations of a function, and of those that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from _equations(inner)
