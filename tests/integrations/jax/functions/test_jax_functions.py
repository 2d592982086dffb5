"""Where a gradient is wrong, the function whose derivative rule is wrong is named, and no other one."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import ruled_functions  # noqa: E402
from ruled_functions import TIMESTEPS, batch, loss_of, made, parameters  # noqa: E402

from gradguard import Report, Verdict  # noqa: E402
from gradguard.integrations.jax import JaxGuard, check_function  # noqa: E402
from gradguard.integrations.jax.functions import checks  # noqa: E402

DIVISOR = 7.0
SOURCE = Path(ruled_functions.__file__).read_text(encoding="utf-8").splitlines()


def checked(loss: Any, params: Any, *args: Any, grads: Any = None) -> Report:
    """The first check of a training."""
    guard = JaxGuard(loss, every_n_steps=1, on_alert=lambda _alert: None)
    report = guard.before_step(0, params, *args, grads=grads)
    assert report is not None
    return report


@functools.cache
def wrong() -> Report:
    """The check of a loss with four wrong rules."""
    return checked(loss_of(DIVISOR), parameters(), *batch())


def test_each_wrong_rule_is_named_with_the_inputs_whose_gradient_is_wrong() -> None:
    """By the names of the function and of its inputs, with the line; the factor is that of the rule alone."""
    found = {}
    for function in wrong().functions:
        name, line = re.fullmatch(r"(\w+) \(ruled_functions\.py:(\d+)\)", function.name).groups()  # type: ignore[union-attr]
        found[name] = (
            function.calls,
            {
                name: (str(tensor.verdict), pytest.approx(tensor.ratio, rel=1e-3))
                for name, tensor in function.report.tensors.items()
            },
        )
        assert f"def {name}(" in "".join(SOURCE[int(line) - 1 : int(line) + 1])  # a decorator's line counts too
    right, divided = ("ok", 1.0), ("scale", DIVISOR)
    assert found == {
        "looked_up": (1, {"table": divided}),
        "cell": (TIMESTEPS, {"h": right, "p.b": right, "p.w": divided}),
        "sine": (1, {"angle": divided}),
        "powered": (2, {"x": divided}),
    }


def test_the_cause_says_which_function_is_wrong_and_in_which_gradient() -> None:
    """Three are named and the fourth is counted."""
    cause = wrong().tensors["cell.w"].cause
    said = r"cell \(\w+.py:\d+\) is wrong in its gradient for p.w: numerical = 7 x backprop; h and p.b agree; 5 calls"
    assert re.search(said, cause), cause
    assert "1 other function too" in cause


def test_where_all_rules_are_right_the_bug_lies_after_the_backward_pass() -> None:
    """The gradient that the training passes on is half of the right one."""
    loss = loss_of(1.0)
    grads = jax.tree.map(lambda gradient: gradient / 2, jax.grad(loss)(parameters(), *batch()))
    report = checked(loss, parameters(), *batch(), grads=grads)
    assert {function.report.verdict for function in report.functions} == {Verdict.ok}
    assert re.search(r"are right; look at what happens to the gradient after", report.explanation)


def test_a_function_whose_calls_cannot_be_seen_is_not_called_right() -> None:
    """Within a `shard_map`; the right function beside it is no reason to say that all are right."""
    sine, powered = made(DIVISOR)["sine"], made(1.0)["powered"]
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("devices")
    mapped = jax.shard_map(sine, mesh=mesh, in_specs=spec, out_specs=spec)
    report = checked(lambda params: powered(mapped(params["w"]), 2).sum(), {"w": jnp.asarray([0.3, 0.6])})
    assert [function.report.verdict for function in report.functions] == [Verdict.inconclusive, Verdict.ok]
    said = r"the check of sine \(\w+.py:\d+\) \(it is called within .*\) could not tell"
    assert re.search(said, report.tensors["w"].cause), report.tensors["w"].cause


def test_a_loss_without_a_reverse_pass_leaves_open_whether_its_functions_are_right() -> None:
    """JAX has none for a while loop; the check goes on and quotes the reason."""
    sine = made(DIVISOR)["sine"]

    def loss(params: Any) -> Any:
        return jax.lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, sine(s[1])), (0, params["w"]))[1].sum()

    params = {"w": jnp.asarray([0.3, 0.6])}
    report = checked(loss, params, grads=jax.jacfwd(loss)(params))
    assert report.tensors["w"].verdict.is_bug
    assert "the functions of the loss (recording their calls raises ValueError" in report.tensors["w"].cause


def test_a_function_that_an_infinite_gradient_reaches_is_not_called_wrong() -> None:
    """The gradient of the square root at 0 is not finite, whatever the rule of the sine."""
    sine = made(1.0)["sine"]
    report = checked(lambda params: jnp.sqrt(sine(params["w"])).sum(), {"w": jnp.asarray([0.0, 0.5])})
    assert report.verdict is Verdict.nonfinite
    assert [function.report.verdict for function in report.functions] == [Verdict.inconclusive]
    assert "not finite" in report.functions[0].report.explanation


def test_no_check_of_a_function_is_begun_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function may be wrong, and the cause says why that is not known."""
    monkeypatch.setattr(checks, "MAX_SECONDS", 0.0)
    report = checked(lambda params: made(DIVISOR)["sine"](params["w"]).sum(), {"w": jnp.asarray([0.3, 0.6])})
    assert "(no time was left) could not tell" in report.tensors["w"].cause


@pytest.mark.parametrize(("divisor", "verdict"), [(1.0, Verdict.ok), (DIVISOR, Verdict.scale)])
def test_one_function_is_checked_without_a_training(divisor: float, verdict: Verdict) -> None:
    """The indices of a table are left alone, and the factor is named after a constant."""
    index, _ = batch()
    report = check_function(made(divisor)["looked_up"], parameters()["table"], index, constants={"seven": DIVISOR})
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {"table": verdict}
    assert report.tensors["table"].factors == (("`seven`",) if divisor == DIVISOR else ())
    assert not jax.config.jax_enable_x64


def test_options_of_a_function_stay_what_they_are() -> None:
    """An exponent is part of the program; of trees, each array has a name."""
    functions = made(1.0)
    x = jnp.asarray([0.3, -0.4])
    assert check_function(functions["powered"], x, 3).verdict is Verdict.ok
    assert check_function(functions["powered"], x, 3, precision="native").precision == "native"
    report = check_function(lambda pair, *more: functions["sine"](pair["a"] + more[0]), {"a": x}, x)
    assert list(report.tensors) == ["pair.a", "more.0"]


@pytest.mark.parametrize(
    ("function", "says"), [(jnp.argmax, "returns no array of floating"), (len, "is called with no array of floating")]
)
def test_a_function_without_a_gradient_is_refused(function: Any, says: str) -> None:
    """Where it takes or returns whole numbers only."""
    with pytest.raises(TypeError, match=says):
        check_function(function, np.ones(3) if function is jnp.argmax else "text")
