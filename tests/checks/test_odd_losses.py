"""Losses that are zero, undefined close by, or computed under traps for floating-point errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checked_lstm import Params, loss_of, network
from numpy.typing import NDArray

from gradguard import Verdict, check
from gradguard.testing import LSTM, random_batch


@pytest.mark.parametrize("seed", [0, 13, 35])
def test_a_smooth_network_has_no_kinks(seed: int) -> None:
    """An LSTM has no corner anywhere."""
    model, batch = LSTM(2, 2, 3, seed=seed), random_batch(4, 2, inputs=2, outputs=3, seed=seed)
    grads = model.loss_and_grads(batch)[1]
    report = check(model.params, grads, lambda: model.loss(batch), precision="native", seed=seed)
    assert {tensor.kinks for tensor in report.tensors.values()} == {0}


def test_a_tensor_of_which_nothing_could_be_measured_has_no_discrepancy() -> None:
    """A discrepancy of 0 would say that n and g agree, where all entries sit at a corner."""
    report = check({"w": np.zeros(4)}, {"w": np.ones(4)}, lambda params: np.abs(params["w"]).sum())
    tensor = report.tensors["w"]
    assert tensor.verdict is Verdict.kink
    assert math.isnan(tensor.discrepancy)
    assert math.isnan(tensor.floor)
    assert "d = " not in tensor.explanation


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [
        (lambda w: 0.5 * np.sum(w**2), lambda w: w),
        (np.sum, np.ones_like),
        (lambda w: np.sum(0 * w), np.zeros_like),
        (lambda w: np.sum(w**3), lambda w: 3 * w**2),
    ],
    ids=["quadratic", "linear", "constant", "cubic"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_losses_of_zero_are_no_trouble(
    loss: Callable[[NDArray[Any]], Any], gradient: Callable[[NDArray[Any]], NDArray[Any]], dtype: type
) -> None:
    """Where there is no scale to go by, nothing is divided by it."""
    params: Params = {"w": np.zeros(3, dtype)}
    for precision in ("native", "auto"):
        report = check(params, {"w": gradient(params["w"])}, lambda: loss(params["w"]), precision=precision)
        assert not report.verdict.is_bug


@pytest.mark.parametrize("outside", [np.nan, np.inf])
def test_a_loss_that_is_undefined_close_by_is_no_trouble(outside: float) -> None:
    """Steps that leave the domain of a logarithm are shortened until they stay inside."""
    params = {"w": np.array([1e-3, 2e-3, 3.0])}

    def loss() -> float:
        return float(np.log(params["w"]).sum()) if (params["w"] > 0).all() else outside

    report = check(params, {"w": 1 / params["w"]}, loss)
    assert report.verdict is Verdict.ok
    assert check(params, {"w": 1.01 / params["w"]}, loss).verdict is Verdict.scale


def test_a_loss_that_is_defined_at_one_point_only_is_inconclusive() -> None:
    """There is nothing to difference, and nothing to warn of."""
    params = {"w": np.array([1.0, 2.0])}
    start = params["w"].copy()
    report = check(
        params, {"w": np.ones(2)}, lambda: 1.3 if np.array_equal(params["w"], start) else np.inf, precision="native"
    )
    assert report.verdict is Verdict.inconclusive


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_training_that_traps_floating_point_errors_can_be_checked(precision: str) -> None:
    """np.seterr(all="raise") is how many look for the first overflow; the check itself causes none."""
    model, batch, grads = network()
    with np.errstate(all="raise"):
        assert check(model.params, grads, loss_of(model, batch), precision=precision).verdict is Verdict.ok
        model.params["b"][...] = 0
        assert not check(model.params, grads, loss_of(model, batch), precision=precision, entries=4).seconds < 0
