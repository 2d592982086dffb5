"""The gradient that the optimizer really got, of one batch or of a window."""

from typing import Any

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

from jax_models import batch, bits, bugs, parameters, recurrent  # noqa: E402

from gradguard.integrations.jax import JaxGuard, gradient_tap  # noqa: E402


def trained(guard: JaxGuard | None, optimizer: Any, steps: int, *, scale: float = 1.0, first: int = 0) -> Any:
    """A training whose steps donate their buffers and multiply the gradient; what it leaves behind."""
    loss, params = recurrent(), parameters()
    state = optimizer.init(params)

    def step(params: Any, state: Any, x: Any, y: Any) -> tuple[Any, Any]:
        grads = jax.tree.map(lambda grad: scale * grad, jax.grad(loss)(params, x, y))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    for index in range(first, first + steps):
        if guard is not None:
            guard.record(index, params, state, *batch(index))
        params, state = jitted(params, state, *batch(index))
        if guard is not None:
            guard.after_step(state)
    return bits((params, state))


def guarded(every_n_steps: int = 1) -> JaxGuard:
    """A guard of the loss without a fault."""
    return JaxGuard(recurrent(), every_n_steps=every_n_steps, max_overhead=None, on_alert=lambda _alert: None)


def test_the_average_of_a_window_is_checked_before_clipping() -> None:
    """A check for each window, of its first step, without alarm; the training is the same."""
    chain = optax.chain(gradient_tap(), optax.clip_by_global_norm(1e-2), optax.adam(1e-2))
    optimizer = optax.MultiSteps(chain, 3)
    guard = guarded()
    assert trained(guard, optimizer, 8) == trained(None, optimizer, 8)
    assert [row.step for row in guard.history] == [0, 3]
    assert {row.verdict.is_bug for row in guard.history} == {False}, str(guard.report)


def test_a_gradient_that_is_spoiled_on_its_way_to_the_optimizer_is_told() -> None:
    """The loss and its gradient are right, and the step makes something else of it."""
    guard = guarded()
    trained(guard, optax.chain(gradient_tap(), optax.sgd(0.1)), 1, scale=0.5)
    assert guard.report is not None
    assert set(bugs(guard.report.tensors).values()) == {"scale"}
    assert all(tensor.ratio == pytest.approx(2, rel=1e-4) for tensor in guard.report.tensors.values())


def test_a_tap_behind_the_clipping_shows_what_the_update_is_made_of() -> None:
    """What is clipped there is no gradient of the loss any more, and that is told."""
    guard = guarded()
    trained(guard, optax.chain(optax.clip_by_global_norm(1e-2), gradient_tap(), optax.sgd(0.1)), 1)
    assert guard.report is not None
    assert guard.report.verdict.is_bug is True


def test_a_check_that_is_due_within_a_window_waits_for_the_next() -> None:
    """Every fifth step: those of windows of 3 that contain one, or begin after it."""
    guard = guarded(every_n_steps=5)
    trained(guard, optax.MultiSteps(optax.chain(gradient_tap(), optax.sgd(0.1)), 3), 15)
    assert [row.step for row in guard.history] == [0, 6, 12]


def test_an_optimizer_without_a_tap_is_refused() -> None:
    """The error shows where it belongs."""
    with pytest.raises(ValueError, match=r"has 0 taps; expected one: optax.chain\(gradient_tap\(\), ...\)"):
        trained(guarded(), optax.sgd(0.1, momentum=0.9), 1)
