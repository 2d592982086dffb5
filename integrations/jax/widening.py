"""A function of JAX with the operations of its forward pass alone, all in float64.

The function is traced as the training calls it. Its jaxpr is then evaluated once more, each operation on float64
operands. That keeps the random bits, the integers and the branches of the training, where a loss traced anew with x64
enabled would draw other random numbers. A function with a derivative rule of its own, a `custom_vjp` or `custom_jvp`,
takes part with the operations of its forward pass, and so does what `stop_gradient` hides: the derivative of the result
is the one of the loss, whatever the rules say.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

Values = Sequence[Any]
Rule = Callable[[Any, Values], Values]

OPAQUE = frozenset({"bitcast_convert_type", "nextafter", "random_gamma", "pure_callback"})
"""Operations that depend on the format of their operands, or leave JAX: they are evaluated in the training's dtypes."""
PRINTING = frozenset({"debug_callback", "debug_print"})
"""Operations that only show something: an evaluation of the loss leaves them out."""


def is_narrow(dtype: Any) -> bool:
    """Whether a dtype is a floating one, real or complex, narrower than float64."""
    return bool(jnp.issubdtype(dtype, jnp.inexact)) and widened(dtype) != dtype


def widened(dtype: Any) -> Any:
    """The dtype with the precision of float64, for floating dtypes."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    return np.dtype(np.float64) if jnp.issubdtype(dtype, jnp.floating) else dtype


def widen(value: Any) -> Any:
    """A value with the precision of float64, if it is a floating one."""
    dtype = jnp.result_type(value)
    return jnp.asarray(value, widened(dtype)) if is_narrow(dtype) else value


def dtype_of(atom: Any) -> Any:
    """The dtype of a value in a jaxpr; that of a truth value for what is no array, such as a token."""
    return getattr(atom.aval, "dtype", np.dtype(bool))


def evaluate_widened(closed: core.ClosedJaxpr, arguments: Values) -> Values:
    """The results of a jaxpr in float64; x64 must be enabled.

    Args:
        closed: The jaxpr, in the dtypes of the training.
        arguments: Its arguments; floating ones of any precision.
    """
    return _evaluate(closed.jaxpr, closed.consts, arguments)


def evaluate(jaxpr: core.Jaxpr, consts: Values, arguments: Values, apply: Rule) -> list[Any]:
    """The results of a jaxpr, of which `apply` evaluates each operation.

    Args:
        jaxpr: The jaxpr.
        consts: Its constants.
        arguments: Its arguments.
        apply: The results of an operation for some operands.
    """
    known: dict[core.Var, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, dtype_of(atom)) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        known |= zip(equation.outvars, apply(equation, [read(atom) for atom in equation.invars]), strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def bind(equation: Any, values: Values, params: Mapping[str, Any]) -> Values:
    """The results of an operation with some parameters."""
    results = equation.primitive.bind(*values, **equation.primitive.get_bind_params(params))
    return results if equation.primitive.multiple_results else [results]


def _evaluate(jaxpr: core.Jaxpr, consts: Values, arguments: Values) -> list[Any]:
    return [widen(value) for value in evaluate(jaxpr, consts, arguments, _apply_wide)]


def _apply_wide(equation: Any, values: Values) -> Values:
    return RULES.get(equation.primitive.name, _apply)(equation, [widen(value) for value in values])


def _apply(equation: Any, values: Values) -> Values:
    """Any other operation: JAX has it for float64 too, and a loop or branch holds functions to be widened."""
    params = {name: _widened_param(value) for name, value in equation.params.items()}
    return [widen(value) for value in bind(equation, values, params)]


def _apply_narrow(equation: Any, values: Values) -> Values:
    """An operation in the dtypes of the training, the results of which are widened."""
    narrow = [
        jnp.asarray(value, dtype_of(atom)) if is_narrow(dtype_of(atom)) else value
        for value, atom in zip(values, equation.invars, strict=True)
    ]
    return [widen(value) for value in bind(equation, narrow, equation.params)]


def _widened_param(value: Any) -> Any:
    """A parameter of an operation: a function in float64, float64 for a narrower dtype, anything else as it is.

    Raises:
        NotImplementedError: A function would need constants that it has no place for.
    """
    if isinstance(value, core.ClosedJaxpr):
        return _widened_function(value)
    if isinstance(value, core.Jaxpr):
        function = _widened_function(core.ClosedJaxpr(value, ()))
        if function.consts:
            raise NotImplementedError("a function within an operation has constants in float64 only")
        return function.jaxpr
    if isinstance(value, tuple):
        items = map(_widened_param, value)
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return widened(value) if isinstance(value, np.dtype) and is_narrow(value) else value


def _widened_function(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    arguments = [jax.ShapeDtypeStruct(atom.aval.shape, widened(dtype_of(atom))) for atom in closed.jaxpr.invars]  # type: ignore[no-untyped-call]
    return jax.make_jaxpr(lambda *given: evaluate_widened(closed, given))(*arguments)


def _inlined(param: str, equation: Any, values: Values) -> Values:
    """A call of a function, by its operations."""
    closed = equation.params[param]
    return _evaluate(closed.jaxpr, closed.consts, values)


def _converted(equation: Any, values: Values) -> Values:
    """A conversion: to floats it is one to float64, so that no rounding of the training is left."""
    return [lax.convert_element_type(values[0], widened(equation.params["new_dtype"]))]


def _unchanged(_equation: Any, values: Values) -> Values:
    return values


def _left_out(_equation: Any, _values: Values) -> Values:
    return []


RULES: Mapping[str, Rule] = {
    "jit": partial(_inlined, "jaxpr"),
    "pjit": partial(_inlined, "jaxpr"),
    "closed_call": partial(_inlined, "call_jaxpr"),
    "custom_jvp_call": partial(_inlined, "call_jaxpr"),
    "custom_vjp_call": partial(_inlined, "call_jaxpr"),
    "convert_element_type": _converted,
    "reduce_precision": _unchanged,
    "stop_gradient": _unchanged,
    **dict.fromkeys(OPAQUE, _apply_narrow),
    **dict.fromkeys(PRINTING, _left_out),
}
