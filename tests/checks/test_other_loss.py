"""A check that is told the loss that the training computed, where it evaluates that loss and where it does not."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checked_lstm import WAYS, Params, loss_of, network, reduction_of
from recorder import Recorder

from gradguard import Report, Verdict, check, snapshot_rng
from gradguard.testing import LSTM, Batch, assert_gradients, random_batch


def counted(loss: Callable[..., object]) -> tuple[Callable[[], object], Recorder]:
    """A loss, and a record that grows with each evaluation of it."""
    calls = Recorder()

    def evaluate() -> object:
        calls.append()
        return loss()

    return evaluate, calls


def updated(params: Params, grads: Params, rate: float) -> None:
    """One step of gradient descent, in place."""
    for name, grad in grads.items():
        params[name] -= np.float32(rate) * grad


def other_batch(model: LSTM, grads: Params) -> Batch:  # noqa: ARG001 - one of several changes
    """Another batch than the gradient's."""
    return random_batch(4, 2, inputs=3, outputs=3, seed=5)


def updated_at_once(model: LSTM, grads: Params) -> Batch:
    """The same batch, with parameters that have moved."""
    updated(model.params, grads, 0.05)
    return network()[1]


@pytest.mark.parametrize("change", [other_batch, updated_at_once])
def test_another_loss_is_told_from_a_bug(change: Callable[[LSTM, Params], Batch]) -> None:
    """No tensor is blamed, nothing is measured, and the report gives both numbers and what makes them differ."""
    model, batch, grads = network()
    value = model.loss(batch)
    batch = change(model, grads)
    loss, calls = counted(lambda: model.loss(batch))
    report = check(model.params, grads, loss, value=value)
    assert {tensor.verdict for tensor in report.tensors.values()} == {Verdict.other_loss}
    assert report.verdict.is_bug is None
    assert report.loss == model.loss(batch)
    assert len(calls) == report.evaluations == 2
    tensor = report.tensors["Wh"]
    assert f"a loss of {value:.6g}, and the loss of this check is {report.loss:.6g}" in tensor.explanation
    assert f"{value:.6g}" in report.explanation
    for cause in ("another batch", "hidden state", "parameters updated since", "dropout mask"):
        assert cause in tensor.cause


@pytest.mark.parametrize(("precision", "takes", "form"), WAYS)
def test_the_loss_of_the_training_is_recognized_in_every_form(precision: str, takes: bool, form: str) -> None:
    """In float32 and float64, as a scalar and unreduced; the check is the same as without the value."""
    model, batch, grads = network()
    value = model.loss_and_grads(batch)[0]
    options: dict[str, Any] = {"precision": precision, "reduction": reduction_of(form)}
    told = check(model.params, grads, loss_of(model, batch, takes, form), value=value, **options)
    untold = check(model.params, grads, loss_of(model, batch, takes, form), **options)
    assert told.verdict.is_bug is False
    assert numbers(told) == numbers(untold)


def numbers(report: Report) -> dict[str, Any]:
    """All of a report but the time that it took; nan as None, which equals itself."""
    return report.to_dict() | {"seconds": 0}


@pytest.mark.parametrize("seed", range(10))
def test_a_sum_in_another_order_is_the_same_loss(seed: int) -> None:
    """Added one by one in float32 in the training, in float64 at the check."""
    rng = np.random.default_rng(seed)
    inputs, targets = rng.normal(size=(2, 20_000)).astype(np.float32)
    params = {"w": np.array([0.5], np.float32)}
    errors = (params["w"] * inputs - targets) ** 2
    value = np.cumsum(errors)[-1] / np.float32(errors.size)
    grads = {"w": np.array([2 * ((params["w"] * inputs - targets) * inputs).mean()], np.float32)}
    report = check(params, grads, lambda: ((params["w"] * inputs - targets) ** 2).mean(dtype=np.float64), value=value)
    assert report.verdict is not Verdict.other_loss


@pytest.mark.parametrize("rate", [1e-3, 1e-2])
def test_an_update_before_the_check_shows_its_learning_rate(rate: float) -> None:
    """In float32 it is told even where the loss has moved in its fourth digit alone."""
    model, batch, grads = network()
    value = model.loss(batch)
    updated(model.params, grads, rate)
    report = check(model.params, grads, lambda: model.loss(batch), value=value)
    assert report.verdict is Verdict.other_loss
    (estimate,) = re.findall(r"learning rate of about ([0-9.e-]+\d)", report.tensors["Wh"].cause)
    assert float(estimate) == pytest.approx(rate, rel=0.2)


@pytest.mark.parametrize(("factor", "named"), [(16, "16"), (1 / 39, "1/39"), (1.37, "")])
def test_a_sum_for_a_mean_is_named_by_its_number(factor: float, named: str) -> None:
    """It is not taken for another batch."""
    model, batch, grads = network()
    report = check(model.params, grads, lambda: model.loss(batch), value=factor * model.loss(batch))
    assert report.verdict is Verdict.other_loss
    assert (f"value= is {named} times the loss of the check" in report.tensors["Wh"].cause) == bool(named)
    assert ("another batch" in report.tensors["Wh"].cause) != bool(named)


def test_a_loss_that_rose_was_not_lowered_by_an_update() -> None:
    """Then no learning rate is named."""
    model, batch, grads = network()
    report = check(model.params, grads, lambda: model.loss(batch), value=model.loss(batch) - 0.1)
    assert report.verdict is Verdict.other_loss
    assert "learning rate" not in report.tensors["Wh"].cause


@pytest.mark.parametrize("start", [0.3, 0.4])
def test_rounding_that_is_amplified_is_measured(start: float) -> None:
    """A chaotic recurrence leaves four digits of float32: the training's loss, computed in float64, has more."""
    params = {"w": np.array([start], np.float32)}

    def evaluated(dtype: type[np.floating[Any]]) -> np.floating[Any]:
        state, rate = params["w"][0].astype(dtype), dtype(3.9)
        for _ in range(11):
            state = rate * state * (dtype(1) - state)
        return state

    def check_with(value: float) -> Verdict:
        return check(params, {"w": np.ones(1, np.float32)}, lambda: evaluated(np.float32), value=value).verdict

    exact = float(evaluated(np.float64))
    assert abs(exact - evaluated(np.float32)) > 500 * 2.0**-24 * exact
    assert check_with(exact) is not Verdict.other_loss
    assert check_with(1.001 * exact) is Verdict.other_loss


def test_a_loss_that_does_not_repeat_is_told_as_such() -> None:
    """Fresh masks change its value too, but what helps is a snapshot; taken too late, the masks are others."""
    masks, inputs = np.random.default_rng(1), np.random.default_rng(2).normal(size=(10, 6))
    params = {"w": np.full(6, 0.5)}

    def loss() -> float:
        return float(np.square(inputs * (masks.random(inputs.shape) > 0.5) @ params["w"]).sum())

    value, grads = loss(), {"w": np.ones(6)}
    report = check(params, grads, loss, value=value)
    assert report.verdict is Verdict.nondeterministic
    assert "before the forward pass" in report.tensors["w"].cause
    report = check(params, grads, loss, value=value, snapshot=snapshot_rng(masks))
    assert report.verdict is Verdict.other_loss
    assert "before the forward pass" in report.tensors["w"].cause


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_was_not_finite_in_the_training_is_another_one(value: float) -> None:
    """The check finds a finite loss; where it does not either, the training has diverged."""
    model, batch, grads = network()
    report = check(model.params, grads, lambda: model.loss(batch), value=value)
    assert report.verdict is Verdict.other_loss
    assert f"a loss of {value}" in report.tensors["Wh"].explanation
    report = check(model.params, grads, lambda: value, value=value)
    assert report.verdict is Verdict.inconclusive
    assert "diverged" in report.tensors["Wh"].cause


def test_a_value_of_another_kind_is_refused_at_once() -> None:
    """Before the loss is evaluated."""
    model, batch, grads = network()
    loss, calls = counted(lambda: model.loss(batch))
    with pytest.raises(TypeError, match="value is a str; expected the loss that the training computed"):
        check(model.params, grads, loss, value="0.5")
    with pytest.raises(TypeError, match=r"value is a ndarray of shape \(4,\); expected one number"):
        check(model.params, grads, loss, value=np.ones(4))
    assert not calls


def test_an_assertion_fails_on_another_loss() -> None:
    """Even where it lets a check pass that cannot tell."""
    model, batch, grads = network()
    value = model.loss(batch)
    assert_gradients(model.params, grads, lambda: model.loss(batch), value=value)
    with pytest.raises(AssertionError, match="belongs to another loss"):
        assert_gradients(model.params, grads, lambda: model.loss(batch), value=value + 1, allow_inconclusive=True)
