"""A training is, bit for bit, what it is without a guard."""

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax_models import batch, bits, bugs, parameters, recurrent  # noqa: E402

from gradguard.integrations.jax import JaxGuard, gradient_tap  # noqa: E402

STEPS = 24
OPTIONS = {"every_n_steps": 8, "max_overhead": None, "on_alert": lambda _alert: None}
Losses = Callable[..., Any]


def of_each_sample(loss: Losses) -> Losses:
    """The same loss by vmap over the samples."""

    def mapped(params: Any, x: Any, y: Any, key: Any) -> Any:
        return jax.vmap(lambda x, y: loss(params, x[:, None], y[None], key), (1, 0))(x, y).mean()

    return mapped


def trained(loss: Losses, guard: JaxGuard | None, *, donates: bool, jitted: bool = True) -> Any:
    """All that a training leaves behind: clipped, in windows of 3 batches, with noise from a key that is split."""
    params, key = parameters(), jax.random.key(0)
    optimizer = optax.MultiSteps(optax.chain(gradient_tap(), optax.clip_by_global_norm(0.1), optax.adam(1e-2)), 3)
    state, losses = optimizer.init(params), []

    def step(params: Any, state: Any, x: Any, y: Any, key: Any) -> tuple[Any, Any, Any]:
        value, grads = jax.value_and_grad(loss)(params, x, y, key)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    step = jax.jit(step, donate_argnums=(0, 1) if donates else ()) if jitted else step
    for index in range(STEPS):
        key, drawn = jax.random.split(key)
        args = (*batch(index), drawn)
        if guard is not None:
            guard.before_step(index, params, *args)
            before = params
        params, state, value = step(params, state, *args)
        assert guard is None or all(leaf.is_deleted() is donates for leaf in jax.tree.leaves(before))
        losses.append(value)
    return bits((params, state, losses, key))


@pytest.mark.parametrize(("fault", "donates"), [(None, True), ("averaged", False)])
def test_a_jitted_training_is_the_same_with_a_guard(fault: str | None, donates: bool) -> None:
    """Weights, optimizer, losses and keys, in their dtypes; what a step donates it still donates."""
    loss = recurrent(fault)
    guard = JaxGuard(loss, **OPTIONS)
    assert trained(loss, guard, donates=donates) == trained(loss, None, donates=donates)
    assert [row.step for row in guard.history] == [0, 8, 16]
    assert all(set(bugs(row.verdicts)) == ({"rnn.w", "rnn.u"} if fault else set()) for row in guard.history)


def test_a_loss_that_maps_over_its_samples_is_the_same_with_a_guard() -> None:
    """The rules of vmap for the hand-written cell are those of its forward pass."""
    loss = of_each_sample(recurrent())
    guard = JaxGuard(loss, **OPTIONS)
    assert trained(loss, guard, donates=True) == trained(loss, None, donates=True)
    assert all(row.verdict.is_bug is False for row in guard.history)


def test_the_settings_of_jax_stay_as_they_are() -> None:
    """Also where the loss raises in the middle of a check: arrays are of float32 afterwards."""
    calls = []

    def loss(params: Any) -> Any:
        calls.append(params["w"].dtype)
        if len(calls) > 2:
            raise RuntimeError("stopped")
        return (params["w"] ** 2).sum()

    guard = JaxGuard(loss, every_n_steps=1)
    with pytest.raises(RuntimeError, match="stopped"):
        guard.before_step(0, {"w": jnp.ones(3)})
    assert not jax.config.jax_enable_x64
    assert jnp.ones(1).dtype == jnp.float32


@pytest.mark.parametrize("visit", [1, 2, 5, 9])
def test_an_interrupt_while_jax_puts_its_setting_back_leaves_no_trace(visit: int) -> None:
    """The exception of a signal may come up at the beginning of an `__exit__`, which then does nothing."""
    code, visits = type(jax.enable_x64(True)).__exit__.__code__, count(1)

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code is code and next(visits) == visit:
            raise KeyboardInterrupt

    guard, params = JaxGuard(lambda params: (params["w"] ** 3).sum(), every_n_steps=1), {"w": jnp.ones(3)}
    before, tracer = bits(params), sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            guard.before_step(0, params)
    finally:
        sys.settrace(tracer)
    assert jnp.ones(1).dtype == jnp.float32
    assert bits(params) == before


def test_parameters_of_float64_are_checked_where_x64_is_enabled() -> None:
    """In the setting of the training, which stays enabled."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), parameters())
        args = batch(dtype=np.float64)
        report = JaxGuard(recurrent("averaged"), every_n_steps=1, on_alert=lambda _alert: None).before_step(
            0, params, *args
        )
        assert jnp.ones(1).dtype == jnp.float64
    assert report is not None
    assert set(bugs(report.tensors)) == {"rnn.w", "rnn.u"}
