"""Functions with derivative rules by hand in all places of a loss, whose gradients are divided by what is asked for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TIMESTEPS, BATCH, SIZE = 5, 4, 3
Function = Callable[..., Any]


def made(divisor: float) -> dict[str, Function]:
    """A cell, a table, a limit on gradients and a sine; the gradient of one input of each is divided."""

    def cell(x: Any, h: Any, p: Any) -> Any:
        after = jnp.tanh(x @ p["w"] + h + p["b"])
        return after, (after > 0).sum()

    def cell_forward(x: Any, h: Any, p: Any) -> Any:
        after, count = cell(x, h, p)
        return (after, count), (x, after)

    def cell_backward(kept: Any, cotangents: Any) -> Any:
        x, after = kept
        da = cotangents[0] * (1 - after**2)
        return jnp.zeros_like(x), da, {"w": x.T @ da / divisor, "b": da.sum(0)}  # x is data: nobody asks for its own

    def looked_up(table: Any, index: Any) -> Any:
        return table[index]

    def looked_up_backward(kept: Any, d: Any) -> Any:
        table, index = kept
        return jnp.zeros_like(table).at[index].add(d / divisor), None

    def powered(x: Any, exponent: int) -> Any:
        return x**exponent

    def powered_backward(exponent: int, x: Any, d: Any) -> Any:
        return (d * exponent * x ** (exponent - 1) / (divisor if exponent == 3 else 1),)

    @jax.custom_jvp
    def sine(angle: Any) -> Any:
        return jnp.sin(angle)

    @sine.defjvp
    def sine_rule(primals: Any, tangents: Any) -> Any:
        return sine(*primals), jnp.cos(primals[0]) * tangents[0] / divisor

    functions = {"cell": jax.custom_vjp(cell), "sine": sine}
    functions["cell"].defvjp(cell_forward, cell_backward)
    functions["looked_up"] = jax.custom_vjp(looked_up)
    functions["looked_up"].defvjp(lambda table, index: (table[index], (table, index)), looked_up_backward)
    functions["powered"] = partial(jax.custom_vjp, nondiff_argnums=(1,))(powered)
    functions["powered"].defvjp(lambda x, exponent: (x**exponent, x), powered_backward)
    return functions


def loss_of(divisor: float) -> Function:
    """A loss that calls them in a scan, under `jit`, `checkpoint`, `cond` and `vmap`."""
    the = made(divisor)

    def loss(params: Any, index: Any, x: Any, *, reverse: bool = False, length: int = TIMESTEPS) -> Any:
        first = jax.jit(the["looked_up"])(params["table"], index)

        def step(h: Any, symbols: Any) -> Any:
            after, count = the["cell"](symbols, h, params["cell"])
            return after, after * count

        h, outputs = jax.lax.scan(step, first, x[:length], reverse=reverse)
        h = jax.checkpoint(jax.vmap(the["sine"]))(h + outputs.mean(0))
        h = jax.lax.cond(h.sum() > -1e9, lambda h: the["powered"](h, 3) + the["powered"](h, 2), jnp.cos, h)
        return jax.nn.relu(h + 0.3).sum()  # JAX has a rule of its own for it

    return loss


def parameters() -> Any:
    """The parameters."""
    rng = np.random.default_rng(0)
    drawn = {name: jnp.asarray(rng.standard_normal(shape) / 2, jnp.float32) for name, shape in _SHAPES.items()}
    return {"cell": {"w": drawn["w"], "b": drawn["b"]}, "table": drawn["table"]}


def batch() -> Any:
    """Indices into the table, and the inputs of the cell."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((TIMESTEPS, BATCH, SIZE))
    return jnp.asarray(rng.integers(6, size=BATCH)), jnp.asarray(x, jnp.float32)


_SHAPES = {"w": (SIZE, SIZE), "b": (SIZE,), "table": (6, SIZE)}
