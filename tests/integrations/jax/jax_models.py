"""Small losses of JAX with derivative rules by hand, right or wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TIMESTEPS = 3
Tree = Any
Loss = Callable[..., jax.Array]


def elman(fault: str | None = None) -> Callable[..., jax.Array]:
    """A recurrent step `tanh(x w + h u + b)` with its backward pass by hand; the fault names what is wrong in it."""

    @jax.custom_vjp
    def cell(x: jax.Array, h: jax.Array, w: jax.Array, u: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w + h @ u + b)

    def forward(*args: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        after = cell(*args)
        return after, (*args[:4], after)

    def backward(kept: tuple[jax.Array, ...], dh: jax.Array) -> tuple[jax.Array, ...]:
        x, h, w, u, after = kept
        da = dh * (1 - after**2)
        scale = {"averaged": 1 / TIMESTEPS, "sign": -1.0}.get(fault or "", 1.0)
        db = jnp.zeros_like(da.sum(0)) if fault == "no bias" else da.sum(0)
        return da @ w.T, da @ u.T, scale * (x.T @ da), scale * (h.T @ da), db

    cell.defvjp(forward, backward)
    return cell


def recurrent(fault: str | None = None) -> Loss:
    """The loss of the recurrent network on (x, y); with a random key, its states are noisy and partly dropped."""
    cell = elman(fault)

    def loss(params: Tree, x: jax.Array, y: jax.Array, key: jax.Array | None = None) -> jax.Array:
        rnn, (weight, bias) = params["rnn"], params["dense"]

        def step(h: jax.Array, symbols: jax.Array) -> tuple[jax.Array, None]:
            return cell(symbols, h, rnn["w"], rnn["u"], rnn["b"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[1], len(rnn["u"])), rnn["u"].dtype), x)
        if key is not None:
            h = h + 0.1 * jax.random.normal(key, h.shape, h.dtype)
            h = jnp.where(jax.random.bernoulli(key, 0.7, h.shape), h / 0.7, 0)
        logits = jax.nn.log_softmax(h @ weight + bias)
        return -jnp.take_along_axis(logits, y[:, None], 1).mean()

    return loss


def parameters(dtype: Any = jnp.float32, hidden: int = 4) -> Tree:
    """The parameters of the recurrent network."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape) / 2, dtype)

    rnn = {"w": drawn(3, hidden), "u": drawn(hidden, hidden), "b": drawn(hidden)}
    return {"rnn": rnn, "dense": (drawn(hidden, 3), drawn(3))}


def batch(step: int = 0, dtype: Any = jnp.float32) -> tuple[jax.Array, jax.Array]:
    """The batch of a step."""
    rng = np.random.default_rng(step)
    return jnp.asarray(rng.standard_normal((TIMESTEPS, 6, 3)), dtype), jnp.asarray(rng.integers(3, size=6))


def bugs(verdicts: Mapping[str, Any]) -> dict[str, str]:
    """The tensors with a bug, each with its verdict, from the verdicts of a row or the tensors of a report."""
    each = {name: getattr(verdict, "verdict", verdict) for name, verdict in verdicts.items()}
    return {name: str(verdict) for name, verdict in each.items() if verdict.is_bug}


def bits(tree: Tree) -> list[tuple[str, bytes]]:
    """The dtype and the bytes of each array of a tree, random keys included."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return [(str(leaf.dtype), np.asarray(leaf).tobytes()) for leaf in leaves]
