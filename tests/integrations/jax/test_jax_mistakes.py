"""Wrong use is an error at once that names the array, what was given and what was expected."""

from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax_models import batch, parameters, recurrent  # noqa: E402

from gradguard.integrations.jax import JaxGuard  # noqa: E402


def before_step(params: Any, *args: Any, loss: Any = None, **options: Any) -> None:
    """The first step of a training."""
    JaxGuard(recurrent() if loss is None else loss, every_n_steps=1).before_step(0, params, *args, **options)


def test_parameters_that_a_step_has_donated_are_named() -> None:
    """With what to do: to call the guard before that step."""
    params = parameters()
    jax.jit(lambda p: jax.tree.map(jnp.tanh, p), donate_argnums=0)(params)
    with pytest.raises(ValueError, match=r"parameter 'dense.0', .*'rnn.w': deleted, since donated .*before that step"):
        before_step(params, *batch())


def test_an_argument_that_a_step_has_donated_is_named() -> None:
    """A batch may be donated too."""
    x, y = batch()
    jax.jit(jnp.tanh, donate_argnums=0)(x)
    with pytest.raises(ValueError, match="argument of the loss '0': deleted, since donated"):
        before_step(parameters(), x, y)


def test_gradients_of_another_tree_are_named() -> None:
    """What is missing, before anything is evaluated."""
    grads = jax.grad(recurrent())(parameters(), *batch())
    del grads["rnn"]["b"]
    with pytest.raises(ValueError, match=r"grads has no entry 'rnn.b'"):
        before_step(parameters(), *batch(), grads=grads)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (
            {"w": jnp.ones(2), "count": jnp.arange(3)},
            "parameter 'count' has dtype int32; expected an array of floating",
        ),
        ({"w": jnp.ones(2, jnp.complex64)}, "parameter 'w' has dtype complex64"),
        ({"layer": {"w": 1.0}}, "parameter 'layer.w' is a float; expected an array"),
        ({"w": jax.random.key(0)}, "parameter 'w' has dtype key<fry>"),
    ],
)
def test_parameters_that_are_no_real_numbers_are_named(params: Any, says: str) -> None:
    """With where the rest of a state belongs: into the further arguments."""
    with pytest.raises(TypeError, match=says):
        before_step(params, loss=lambda params: params["w"].sum())


def test_a_tree_without_arrays_is_refused() -> None:
    """There is nothing to differentiate by."""
    with pytest.raises(ValueError, match="params has no arrays; expected a tree of arrays"):
        before_step({}, loss=lambda _params: jnp.zeros(()))


def test_two_arrays_of_one_name_are_refused() -> None:
    """A key with a dot may look like a path."""
    with pytest.raises(ValueError, match=r"two arrays have the name 'a.b'"):
        before_step({"a": {"b": jnp.ones(2)}, "a.b": jnp.ones(2)}, loss=lambda _params: jnp.zeros(()))


def with_side_effect(params: Any) -> Any:
    """Counts its calls outside of JAX."""
    from jax.experimental import io_callback

    io_callback(lambda: None, None)
    return params["w"].sum()


@pytest.mark.parametrize(
    ("loss", "error", "says"),
    [
        (lambda p: (p["w"].sum(), 1), TypeError, r"returned a tuple; .* pass lambda \*args: loss\(\*args\)\[0\]"),
        (lambda p: p["w"], ValueError, r"shape \(2,\) and no reduction was given; .*reduction='mean'"),
        (lambda p: p["w"].astype(int).sum(), TypeError, "returned an array of dtype int32"),
        (with_side_effect, TypeError, "calls io_callback, which has a side effect at each evaluation"),
    ],
)
def test_a_loss_that_cannot_be_checked_is_refused(loss: Any, error: type[Exception], says: str) -> None:
    """With the remedy, where there is one."""
    with pytest.raises(error, match=says):
        before_step({"w": jnp.ones(2)}, loss=loss)


def test_an_argument_that_no_program_can_hold_is_named() -> None:
    """With where it belongs: into the loss."""

    class Config:
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match="an argument of the loss is a Config, which is neither an array nor hashable"):
        before_step({"w": jnp.ones(2)}, Config(), loss=lambda params, _config: params["w"].sum())


def test_options_are_those_of_the_guard() -> None:
    """An unknown one is an error where it is given, and so is a value out of its range."""
    with pytest.raises(TypeError, match="every"):
        JaxGuard(recurrent(), every=10)
    with pytest.raises(ValueError, match="every_n_steps is 0"):
        JaxGuard(recurrent(), every_n_steps=0)
    with pytest.raises(TypeError, match=r"loss is a float; expected a callable, loss\(params, \*args\)"):
        JaxGuard(1.0)  # type: ignore[arg-type]


def test_a_guard_that_was_closed_is_not_used_again(caplog: pytest.LogCaptureFixture) -> None:
    """One that saw no step says so when it is closed."""
    guard = JaxGuard(recurrent())
    assert guard.report is None
    assert not guard.history
    guard.close()
    guard.close()
    assert caplog.messages == ["no gradient was checked: before_step was never called"]
    with pytest.raises(ValueError, match="the guard is closed"):
        guard.before_step(0, parameters(), *batch())


def test_a_state_is_there_after_the_first_step_and_is_loaded_before_it() -> None:
    """A guard that resumes goes on as the one whose state it has."""
    loss, params = recurrent(), parameters()
    first = JaxGuard(loss, every_n_steps=1, max_overhead=None)
    with pytest.raises(ValueError, match="no state before the first call"):
        first.state_dict()
    first.before_step(0, params, *batch())
    resumed = JaxGuard(loss, every_n_steps=1, max_overhead=None)
    resumed.load_state_dict(first.state_dict())
    reports = [guard.before_step(1, params, *batch(1)) for guard in (first, resumed)]
    assert reports[0] is not None
    assert reports[1] is not None
    assert reports[0].tensors == reports[1].tensors
    assert reports[1].evaluations <= 24
