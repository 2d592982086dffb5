"""What each function with a derivative rule is handed in a training step, and the gradient that reaches its outputs.

The jaxpr of the loss is evaluated operation by operation under `jax.vjp`, outside of `jit`: the rules are those of the
training, and so are the numbers, up to their rounding. An identity behind each function records what comes by.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend import core

from gradguard.integrations.jax.functions.rules import has_rule, rules_within
from gradguard.integrations.jax.widening import Values, bind, evaluate

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "remat2": "jaxpr", "checkpoint": "jaxpr"}
"""The operations that call a function, each with the parameter that holds it."""


@dataclass(slots=True)
class Call:
    """A call of a function with a derivative rule.

    Attributes:
        equation: The operation.
        count: How many calls it stands for: not all iterations of a loop are recorded.
        inputs: What it was handed.
        is_differentiated: Whether the gradient of the loss needs that of the input, for each input.
        cotangents: The gradient of the loss with respect to each output; None where the loss does not depend on it.
    """

    equation: Any
    count: float
    inputs: Values = ()
    is_differentiated: Sequence[bool] = ()
    cotangents: Values = ()


def spread(count: int) -> list[int]:
    """The first, the middle and the last of so many: states are zero at one end of a sequence, gradients at the other.

    Each once, and none of none.
    """
    return sorted({0, count // 2, count - 1}) if count else []


def record(
    closed: core.ClosedJaxpr, params: Values, others: Values, total: Callable[[Any], Any]
) -> tuple[list[Call], list[Any]]:
    """Evaluate a loss and its gradient, and record the calls of functions with a derivative rule.

    Args:
        closed: The loss, a function of the parameters and of other numbers.
        params: The parameters.
        others: The other numbers.
        total: The scalar that the gradient is of, from what the loss returns.

    Returns:
        The calls that the gradient passes, in the order of the forward pass; and the operations with a rule that cannot
        be recorded, since they are in a while loop or the like.
    """
    recorder = _Recorder()

    def loss(*params: Any) -> Any:
        (losses,) = recorder.evaluate(closed.jaxpr, closed.consts, [*params, *others], 1.0)
        return total(losses)

    value, backward = jax.vjp(loss, *params)
    backward(jnp.ones_like(value))
    calls = [call for call in recorder.calls if any(cotangent is not None for cotangent in call.cotangents)]
    return calls, recorder.unreached


class _Recorder:
    """Evaluates functions operation by operation, and keeps the calls of those with a derivative rule."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.unreached: list[Any] = []

    def evaluate(self, jaxpr: core.Jaxpr, consts: Values, arguments: Values, count: float) -> list[Any]:
        """The results of a jaxpr, each call in which stands for `count` calls."""
        return evaluate(jaxpr, consts, arguments, lambda equation, values: self._apply(equation, values, count))

    def _apply(self, equation: Any, values: Values, count: float) -> Values:
        name = equation.primitive.name
        if has_rule(equation):
            self.calls.append(Call(equation, count))
            return _observed(self.calls[-1], values, bind(equation, values, equation.params))
        unrecorded = list(rules_within(equation))
        if unrecorded and name in CALLS:
            return self._call(equation.params[CALLS[name]], values, count)
        if unrecorded and name == "cond":
            return self._call(equation.params["branches"][int(values[0])], values[1:], count)
        if unrecorded and name == "scan" and equation.params["length"]:
            return self._scan(equation.params, values, count)
        self.unreached += unrecorded
        return bind(equation, values, equation.params)

    def _call(self, function: core.ClosedJaxpr | core.Jaxpr, values: Values, count: float) -> list[Any]:
        if isinstance(function, core.Jaxpr):
            return self.evaluate(function, (), values, count)
        return self.evaluate(function.jaxpr, function.consts, values, count)

    def _scan(self, params: Mapping[str, Any], values: Values, count: float) -> list[Any]:
        """A scan, of which some iterations are evaluated operation by operation, and those between them by scans."""
        length, is_reverse, body = params["length"], params["reverse"], params["jaxpr"]
        consts, carry, xs = _split(values, params["num_consts"], params["num_carry"])
        recorded, pieces = spread(length), []

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            after, ys = _split(core.jaxpr_as_fun(body)(*consts, *carry, *x), len(carry))
            return after, ys

        for start, end in pairwise(sorted({0, length, *recorded, *(index + 1 for index in recorded)})):
            rows = slice(length - end, length - start) if is_reverse else slice(start, end)
            some = [x[rows] for x in xs]
            if start in recorded:
                arguments = [*consts, *carry, *(x[0] for x in some)]
                carry, ys = _split(self._call(body, arguments, count * length / len(recorded)), len(carry))
                pieces.append([y[None] for y in ys])
            else:
                carry, ys = lax.scan(step, carry, some, end - start, is_reverse)
                pieces.append(ys)
        in_order = reversed(pieces) if is_reverse else pieces
        return [*carry, *map(jnp.concatenate, zip(*in_order, strict=True))]


def _split(values: Values, *sizes: int) -> list[list[Any]]:
    """The values in groups of some sizes, and one of the rest."""
    ends = [0, *accumulate(sizes), len(values)]
    return [list(values[start:end]) for start, end in pairwise(ends)]


def _observed(call: Call, inputs: Values, outputs: Values) -> Values:
    """The outputs of a call, behind an identity that records the call when its gradient is computed."""

    def forward(inputs: Any, outputs: Any) -> tuple[Any, None]:
        call.inputs = [each.value for each in inputs]
        call.is_differentiated = [each.perturbed for each in inputs]
        return [each.value for each in outputs], None

    def backward(_: None, cotangents: Any) -> tuple[Any, Any]:
        call.cotangents = [None if isinstance(each, SymbolicZero) else each for each in cotangents]
        return [None] * len(inputs), cotangents

    identity = jax.custom_vjp(lambda _inputs, outputs: outputs)
    identity.defvjp(forward, backward, symbolic_zeros=True)
    results: Values = identity(list(inputs), list(outputs))
    return results
