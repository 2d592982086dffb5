"""The loss in float64: the same operations, without the roundings and the derivative rules of the training."""

from collections.abc import Callable
from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax import lax  # noqa: E402
from jax_models import elman  # noqa: E402

from gradguard.integrations.jax.widening import evaluate_widened  # noqa: E402

X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 3)).astype(np.float32)
Function = Callable[..., Any]


def wide(function: Function, *args: Any) -> Function:
    """The function in float64, traced in float32."""
    closed = jax.make_jaxpr(function)(*args)
    return lambda *given: evaluate_widened(closed, given)[0]


def control_flow(x: Any) -> Any:
    """A scan, a while loop, branches, a nested call, a rematerialized call and a product of matrices."""
    x, ys = lax.scan(lambda c, row: (jnp.sin(c) * row, (c.sum(), c)), x, x, reverse=True)
    x = lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.tanh(s[1] @ x)), (0, x))[1]
    x = lax.cond(x.sum() > 0, lambda v: v**2, lambda v: -v, x) + ys[1].sum(0)
    return jax.checkpoint(jax.jit(lambda v: jnp.linalg.norm(jnp.exp(v))))(x) + ys[0][-1]


def rules(x: Any) -> Any:
    """Functions with derivative rules of their own, here right ones."""
    return elman()(x, x, x, x, x[0]).sum() + jax.nn.relu(x - 0.5).sum() + jax.nn.logsumexp(x)


def integers(x: Any) -> Any:
    """Indices, comparisons and sorting."""
    order = jnp.argsort(x[0])
    return (x[1][order] * jnp.arange(3)).sum() + x[order[0], 1] + jnp.where(x > 0.5, x, 0).cumsum().max()


def with_functions(x: Any) -> Any:
    """Operations that hold functions: linear solvers, sums at indices, reductions."""
    matrix = x @ x.T + jnp.eye(3, dtype=x.dtype)
    solved = (
        jnp.linalg.solve(matrix, x).sum() + jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, x[0], tol=1e-12)[0].sum()
    )
    return solved + jax.ops.segment_sum(x, jnp.asarray([0, 1, 0]), 2)[0].prod() + jnp.asarray(x).at[0].mul(x[1]).max()


@pytest.mark.parametrize("function", [control_flow, rules, integers, with_functions])
def test_a_function_traced_in_float32_is_evaluated_as_in_float64(function: Function) -> None:
    """It has the value of the same function on float64 arrays with x64 enabled, and the same derivative."""
    with jax.enable_x64(True):
        x, v = X.astype(np.float64), np.random.default_rng(1).standard_normal(X.shape)
        want = jax.jvp(function, (x,), (v,)) if function is not rules else jax.vjp(function, x)
        with jax.enable_x64(False):
            widened = wide(function, X)
        if function is rules:
            assert float(widened(x)) == pytest.approx(float(want[0]), rel=1e-14)
            found = np.vdot(jax.grad(widened)(x), v)
            assert float(found) == pytest.approx(float(np.vdot(want[1](1.0)[0], v)), rel=1e-13)
        else:
            found = jax.jvp(widened, (x,), (v,))
            assert [float(each) for each in found] == pytest.approx([float(each) for each in want], rel=1e-13)


def test_conversions_to_narrow_dtypes_are_not_made() -> None:
    """A loss that rounds to bfloat16 on its way is evaluated without that."""

    def rounding(x: Any) -> Any:
        return lax.reduce_precision(x.astype(jnp.bfloat16).astype(jnp.float32), 8, 7).sum()

    with jax.enable_x64(True):
        with jax.enable_x64(False):
            widened = wide(rounding, X)
        assert float(widened(X.astype(np.float64))) == pytest.approx(X.astype(np.float64).sum(), rel=1e-15)


def test_the_random_numbers_are_those_of_the_training() -> None:
    """Masks are the same, and noise is up to the rounding of float32; with x64 enabled JAX would draw others."""
    key = jax.random.key(3)

    def drawn(x: Any, key: Any) -> Any:
        mask = jax.random.bernoulli(key, 0.6, (50,))
        return jnp.concatenate([mask * x[0, 0], jax.random.normal(key, (50,))])

    with jax.enable_x64(True):
        with jax.enable_x64(False):
            widened, want = wide(drawn, X, key), drawn(X, key)
        found = widened(X.astype(np.float64), key)
        assert found.dtype == jnp.float64
        assert np.allclose(found, want, rtol=1e-5, atol=1e-6)
        assert np.array_equal(np.asarray(found[:50]) != 0, np.asarray(want[:50]) != 0)


def test_a_wrong_rule_takes_no_part() -> None:
    """The derivative is the one of the forward pass, however the rule is wrong, and whatever is hidden from it."""

    def loss(x: Any) -> Any:
        return elman("sign")(x, x, x, x, x[0]).sum() + (lax.stop_gradient(x) * x).sum()

    def plain(x: Any) -> Any:
        return jnp.tanh(x @ x + x @ x + x[0]).sum() + (x * x).sum()

    with jax.enable_x64(True):
        with jax.enable_x64(False):
            widened = wide(loss, X)
        x = X.astype(np.float64)
        assert np.allclose(jax.grad(widened)(x), jax.grad(plain)(x), rtol=1e-13)


def test_what_is_printed_within_a_loss_is_printed_by_the_training_only(capfd: pytest.CaptureFixture[str]) -> None:
    """An evaluation in float64 leaves it out."""

    def loss(x: Any) -> Any:
        jax.debug.print("the sum is {}", x.sum())
        return x.sum()

    with jax.enable_x64(True):
        with jax.enable_x64(False):
            widened = wide(loss, X)
        widened(X.astype(np.float64))
        jax.effects_barrier()
    assert "the sum" not in capfd.readouterr().out
