"""What a guard says about losses of JAX: each fault by name, and no alarm without one."""

import logging
from typing import Any

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax_models import TIMESTEPS, batch, bugs, parameters, recurrent  # noqa: E402

from gradguard import Alert, Report, Verdict  # noqa: E402
from gradguard.integrations.jax import JaxGuard  # noqa: E402


def checked(loss: Any, params: Any, *args: Any, grads: Any = None, **options: Any) -> Report:
    """The report of a first check."""
    with JaxGuard(loss, every_n_steps=1, on_alert=lambda _alert: None, **options) as guard:
        report = guard.before_step(0, params, *args, grads=grads)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("averaged", {"rnn.w": "scale", "rnn.u": "scale"}),
        ("sign", {"rnn.w": "sign", "rnn.u": "sign"}),
        ("no bias", {"rnn.b": "missing"}),
    ],
)
def test_a_wrong_rule_is_told_at_the_first_check(fault: str, found: dict[str, str]) -> None:
    """The tensors that it spoils, and no others, as precisely as float64 shows it."""
    alerts: list[Alert] = []
    guard = JaxGuard(jax.jit(recurrent(fault)), on_alert=alerts.append, constants={"timesteps": TIMESTEPS})
    report = guard.before_step(0, parameters(), *batch())
    assert guard.before_step(1, parameters(), *batch(1)) is None
    guard.close()
    assert report is not None
    assert report.precision == "float64"
    assert bugs(report.tensors) == bugs(guard.history[0].verdicts) == found, str(report)
    assert {alert.tensor for alert in alerts if alert.level >= logging.ERROR} == set(found)
    if fault == "averaged":
        assert all(report.tensors[name].ratio == pytest.approx(TIMESTEPS, rel=1e-5) for name in found)
        assert "`timesteps`" in report.tensors["rnn.w"].explanation


def test_a_right_rule_is_told_to_be_right_at_every_check() -> None:
    """Through checks of all kinds, on other batches with random noise and dropout, in float64."""
    loss, params = recurrent(), parameters()
    guard = JaxGuard(loss, every_n_steps=1, max_overhead=None)
    for step in range(12):
        report = guard.before_step(step, params, *batch(step), jax.random.key(step))
        assert report is not None
        assert report.verdict.is_bug is False, str(report)
        assert step == 0 or report.evaluations <= 24
    assert {row.verdict.is_bug for row in guard.history} == {False}
    assert guard.report is not None
    assert guard.report.precision == "float64"


def test_a_right_rule_has_an_exact_reference() -> None:
    """The gradient of the operations of its forward pass, which agrees to the rounding of float32."""
    report = checked(recurrent(), parameters(), *batch())
    assert any("reverse pass" in tensor.explanation for tensor in report.tensors.values())
    assert all(tensor.discrepancy < 1e-6 for tensor in report.tensors.values())


def test_a_wrong_custom_jvp_is_told_too() -> None:
    """JAX transposes it to the gradient."""

    @jax.custom_jvp
    def cubed(x: Any) -> Any:
        return x**3

    cubed.defjvp(lambda primals, tangents: (primals[0] ** 3, 2 * primals[0] ** 2 * tangents[0]))
    report = checked(lambda params: cubed(params["w"]).sum() + (params["v"] ** 2).sum(), arrays())
    assert bugs(report.tensors) == {"w": "scale"}
    assert report.tensors["w"].ratio == pytest.approx(1.5, rel=1e-5)


def arrays() -> dict[str, Any]:
    """Two small tensors."""
    return {"w": jnp.asarray([0.3, -0.7, 1.2, 0.9]), "v": jnp.asarray([0.5, 0.2])}


@pytest.mark.parametrize("precision", ["auto", "native"])
def test_the_gradients_of_the_training_are_those_that_are_checked(precision: str) -> None:
    """Where they are given; the loss itself is right."""
    loss, params = recurrent(), parameters()
    grads = jax.grad(loss)(params, *batch())
    grads["dense"] = (grads["dense"][0] / 2, grads["dense"][1])
    report = checked(loss, params, *batch(), grads=grads, precision=precision)
    assert bugs(report.tensors) == {"dense.0": "scale"}, str(report)
    assert report.precision == {"auto": "float64", "native": "native"}[precision]


def test_one_array_is_a_tree() -> None:
    """Its name is "params"."""
    report = checked(lambda w, x: ((w * x) ** 2).sum(), jnp.asarray([0.5, 1.5]), np.asarray([1.0, 2.0]))
    assert list(report.tensors) == ["params"]
    assert report.verdict is Verdict.ok


def test_unreduced_losses_are_reduced_as_told() -> None:
    """The gradient is that of their mean."""

    def losses(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["w"])

    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 4)), jnp.float32)
    grads = jax.grad(lambda params: losses(params, x).mean())(arrays())
    assert checked(losses, arrays(), x, grads=grads, reduction="mean").verdict.is_bug is False
    assert checked(losses, arrays(), x, reduction="sum").verdict.is_bug is False
    assert bugs(checked(losses, arrays(), x, grads=grads, reduction="sum").tensors) == {"w": "scale"}


def test_what_stop_gradient_hides_is_told() -> None:
    """The loss depends on it all the same; an `expected` difference would be told as such by the user."""
    report = checked(lambda params: (params["w"] * jax.lax.stop_gradient(params["v"].sum())).sum(), arrays())
    assert bugs(report.tensors) == {"v": "missing"}


def test_a_loop_without_a_reverse_pass_is_measured_by_differences() -> None:
    """The training's gradient comes by forward mode; JAX has no other for a while loop."""

    def loss(params: Any) -> Any:
        return jax.lax.while_loop(
            lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1] + params["w"])), (0, params["w"])
        )[1].sum()

    params = {"w": arrays()["w"]}
    report = checked(loss, params, grads=jax.jacfwd(loss)(params))
    assert report.verdict is Verdict.ok
    assert report.precision == "float64"
    assert "reverse pass" not in report.tensors["w"].explanation


def test_a_loss_that_leaves_jax_is_evaluated_in_the_dtypes_of_the_training() -> None:
    """As a kernel that has no float64 form is; its wrong rule is told by differences."""

    @jax.custom_vjp
    def sine(x: Any) -> Any:
        return jax.pure_callback(lambda x: np.sin(x), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    sine.defvjp(lambda x: (sine(x), x), lambda x, upstream: (upstream * jnp.cos(x) / 2,))
    report = checked(lambda params: sine(params["w"]).sum() + (params["v"] ** 2).sum(), arrays())
    assert report.precision == "native"
    assert bugs(report.tensors) == {"w": "scale"}


def test_bfloat16_is_checked_in_float64() -> None:
    """A wrong sign is beyond its rounding, and a right gradient raises no alarm."""
    args = batch(dtype=jnp.bfloat16)
    wrong = checked(recurrent("sign"), parameters(jnp.bfloat16), *args)
    assert set(bugs(wrong.tensors)) == {"rnn.w", "rnn.u"}, str(wrong)
    assert wrong.precision == "float64"
    for precision in ("auto", "native"):
        assert not bugs(checked(recurrent(), parameters(jnp.bfloat16), *args, precision=precision).tensors)


def test_arguments_that_are_no_arrays_are_part_of_the_program() -> None:
    """Flags and sizes stay what they are; a number such as a coefficient may change without a new compilation."""
    traced = []

    def loss(params: Any, count: int, coefficient: float, config: Any) -> Any:
        traced.append(1)
        assert config == "squared"
        return coefficient * sum((params["w"] ** 2).sum() for _ in range(count))

    guard = JaxGuard(loss, every_n_steps=1, max_overhead=None)
    guard.before_step(0, {"w": arrays()["w"]}, 3, 0.5, "squared")
    before = len(traced)
    report = guard.before_step(1, {"w": arrays()["w"]}, 3, 0.25, "squared")
    assert report is not None
    assert report.loss == pytest.approx(0.75 * float((arrays()["w"] ** 2).sum()))
    assert len(traced) == before


def test_a_loss_is_compiled_before_the_time_of_the_first_check_begins() -> None:
    """What a snapshot sees at the beginning of a check is all that is ever traced."""
    traced, seen = list[int](), list[int]()

    def loss(params: Any) -> Any:
        traced.append(1)
        return (params["w"] ** 3).sum()

    def snapshot() -> Any:
        seen.append(len(traced))
        return lambda: None

    guard = JaxGuard(loss, every_n_steps=1, max_overhead=None, snapshot=snapshot)
    for step in range(2):
        guard.before_step(step, {"w": arrays()["w"]})
    assert set(seen) == {len(traced)}


def test_the_loss_that_the_training_computed_is_compared() -> None:
    """That of another batch is told, and nothing is measured."""
    loss, params = recurrent(), parameters()
    grads = jax.grad(loss)(params, *batch(1))
    guard = JaxGuard(loss, every_n_steps=1)
    report = guard.before_step(0, params, *batch(0), grads=grads, value=loss(params, *batch(1)))
    assert report is not None
    assert report.verdict is Verdict.other_loss


def test_a_check_at_once_waits_for_neither_schedule_nor_budget() -> None:
    """It takes what `before_step` takes, and is a row of the history as any other check."""
    loss, params = recurrent("averaged"), parameters()
    guard = JaxGuard(loss, every_n_steps=1000, start_step=5, max_overhead=1e-9, on_alert=lambda _alert: None)
    for step in range(2):
        assert guard.before_step(step, params, *batch(step)) is None
        report = guard.check_now(step, params, *batch(step), constants={"timesteps": 3})
        assert "3 is `timesteps`" in report.tensors["rnn.w"].explanation
        assert set(bugs(report.tensors)) == {"rnn.w", "rnn.u"}
    right = jax.grad(recurrent())(params, *batch())
    assert guard.check_now(2, params, *batch(), grads=right).verdict.is_bug is False
    assert [row.step for row in guard.history] == [0, 1, 2]


def test_the_state_of_a_flax_module_is_a_tree() -> None:
    """Parameters are differentiated, statistics and random streams are passed as they are."""
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):  # type: ignore[misc,name-defined]  # flax has no types here
        def __init__(self, rngs: Any) -> None:
            self.linear = nnx.Linear(3, 4, rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.3, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.dropout(self.norm(jnp.tanh(self.linear(x))))

    graph, params, rest = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32)

    def loss(params: Any, rest: Any, x: Any) -> Any:
        return (nnx.merge(graph, params, rest, copy=True)(x) ** 3).mean()

    report = checked(loss, params, rest, x)
    assert set(report.tensors) == {"linear.bias", "linear.kernel", "norm.bias", "norm.scale"}
    assert report.verdict.is_bug is False, str(report)
    grads = jax.grad(loss)(params, rest, x)
    grads["linear"]["kernel"][...] = grads["linear"]["kernel"][...] * 2
    assert bugs(checked(loss, params, rest, x, grads=grads).tensors) == {"linear.kernel": "scale"}
