"""How often is a jitted loss compiled that evaluates many parameter points in one call (`gradguard.batched`)?

What is measured: compilations of `jax.jit(jax.vmap(loss))` and seconds, of checks of an LSTM with 39 timesteps. Its
gradient is right, or 39 times too small. XLA compiles for each number of points. "as asked" is without padding: a call
takes as many points as the check asks for. "padded" is what gradguard does: two numbers of points occur.

How to read it: "first" is a check of a loss that was never called, "again" the first check of a training with the same
loss, and "later" ten further checks of that training. "s" and "s a check" are the seconds of a whole check. Where one
call with many points is about as slow as many calls, a check may choose either; in the latter case it compiles for two
or three numbers of points only, padded or not.

    python tests/benchmarks compilations
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, batched, check
from gradguard.loss import batch_size
from gradguard.testing import LSTM, Batch, random_batch

USUAL_TIME = "about 1 min"

SIZES = ((5, 16), (32, 8), (64, 16))  # H, B
FACTOR = 39
LATER = 10

Arrays = Mapping[str, Any]
State = tuple[jax.Array, jax.Array]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each network, gradient and way of calling."""
    chosen = parser_of(__name__, "the smallest network only, right").parse_args(arguments)
    head = ("H, B", "gradient", "calls", "first: compiled", "s", "again: compiled", "s", "later: compiled", "s a check")
    print(table(head, rows(SIZES[:1] if chosen.quick else SIZES, (1,) if chosen.quick else (1, FACTOR))))


def rows(sizes: Sequence[tuple[int, int]], factors: Sequence[int]) -> Iterator[Row]:
    """A row for each network, gradient and way of calling."""
    runs = [(size, factor, padded) for size in sizes for factor in factors for padded in (False, True)]
    for (hidden, sequences), factor, padded in tqdm(runs, desc="networks", leave=False):
        never = mock.patch.object(batch_size, "COMPILE_SECONDS", batch_size.COMPILE_SECONDS if padded else math.inf)
        with never:
            measured = compilations_and_seconds(hidden, sequences, factor)
        shown = [cell for compiled, seconds in measured for cell in (f"{compiled}", f"{seconds:.3f}")]
        wrong = "right" if factor == 1 else f"1/{factor}"
        yield f"{hidden}, {sequences}", wrong, "padded" if padded else "as asked", *shown


def compilations_and_seconds(hidden: int, sequences: int, factor: int) -> list[tuple[int, float]]:
    """Of a first check, of a second one, and of ten later ones, whose seconds are those of one check."""
    model = LSTM(hidden, hidden, hidden, seed=0)
    loss = loss_of(random_batch(39, sequences, inputs=hidden, outputs=hidden))
    single, many = jax.jit(loss), jax.jit(jax.vmap(loss))
    grads = {name: np.asarray(grad) / factor for name, grad in jax.jit(jax.grad(loss))(model.params).items()}

    def points(params: Arrays) -> object:
        return (single if np.ndim(params["b"]) == 1 else many)(dict(params))

    def measured(work: Callable[[], object]) -> tuple[int, float]:
        compiled, started = many._cache_size(), time.perf_counter()
        work()
        return many._cache_size() - compiled, time.perf_counter() - started

    def later() -> None:
        for step in range(1, LATER + 1):
            guard.after_backward(step, grads)

    first = measured(lambda: check(model.params, grads, batched(points)))
    guard = GradGuard(model.params, batched(points), every_n_steps=1, max_overhead=None, on_alert=lambda _alert: None)
    again = measured(lambda: guard.after_backward(0, grads))
    compiled, seconds = measured(later)
    return [first, again, (compiled, seconds / LATER)]


def loss_of(batch: Batch) -> Callable[[Arrays], jax.Array]:
    """The loss of `gradguard.testing.LSTM` on a batch, in JAX."""
    x, y = jnp.asarray(batch.x), jnp.asarray(batch.y)

    def loss(params: Arrays) -> jax.Array:
        def step(state: State, symbols: jax.Array) -> tuple[State, jax.Array]:
            h, c = state
            i, f, o, g = jnp.split(symbols @ params["Wx"] + h @ params["Wh"] + params["b"], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros((x.shape[1], len(params["Wh"])), x.dtype)
        _, h = jax.lax.scan(step, (zeros, zeros), x)
        logs = jax.nn.log_softmax(h @ params["V"] + params["c"])
        return -jnp.take_along_axis(logs, y[..., None], axis=-1).mean()

    return loss
