"""Losses that take complex parameters: what is in doubt is told by exact derivatives."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import TensorReport, Verdict, check
from gradguard.testing import LSTM, faulty, random_batch

Array = NDArray[Any]
BATCH = random_batch(8, 3)


def lstm() -> tuple[LSTM, dict[str, Array], dict[str, Array]]:
    """A network whose backward pass is wrong, its gradients, and the right ones in float64."""
    model = faulty("timesteps")(hidden=4, seed=1)
    return model, model.loss_and_grads(BATCH)[1], twin_of(model).loss_and_grads(BATCH)[1]


def twin_of(model: LSTM) -> LSTM:
    """The same network in float64, with the right backward pass."""
    twin = LSTM(hidden=4)
    twin.params = {name: param.astype(np.float64) for name, param in model.params.items()}
    return twin


@pytest.mark.parametrize("takes_parameters", [True, False])
def test_a_bug_is_told_by_exact_derivatives(takes_parameters: bool) -> None:
    """Those of a hand-written LSTM are right to the last digits, in the entries and in their error bars."""
    model, grads, truth = lstm()
    loss = (lambda params: model.loss(BATCH, params)) if takes_parameters else (lambda: model.loss(BATCH))
    tensor = check(model.params, grads, loss, constants={"timesteps": 8}).tensors["Wh"]
    assert tensor.verdict is Verdict.scale
    assert "8 is `timesteps`" in tensor.explanation
    assert is_exact(tensor, truth["Wh"])


def is_exact(tensor: TensorReport, truth: Array) -> bool:
    """Whether its derivatives have no error to speak of."""
    tiny = 1e-13 * np.abs(truth).max()
    return all(0 < entry.error < tiny and abs(entry.numeric - truth[entry.index]) < tiny for entry in tensor.worst)


def test_unreduced_and_complex_losses_go_together() -> None:
    """Each loss has an imaginary part of its own."""
    model, grads, truth = lstm()
    report = check(model.params, grads, lambda params: model.losses(BATCH, params), reduction="mean")
    assert is_exact(report.tensors["Wh"], truth["Wh"])


@pytest.mark.parametrize(
    "blind",
    [
        pytest.param(lambda z: z.real, id="drops the imaginary part"),
        pytest.param(np.abs, id="is not analytic"),
        pytest.param(lambda z: z.astype(np.float64), id="casts with a warning"),
        pytest.param(lambda z: np.fmod(z, 1e9), id="raises"),
        pytest.param(
            lambda z: z.real + 1j * np.abs(z.imag) if z.dtype.kind == "c" else z, id="differs from side to side"
        ),
    ],
)
def test_a_loss_for_real_numbers_only_is_measured_by_differences(blind: Callable[[Array], Array]) -> None:
    """It is found out, and nobody is bothered with a warning."""
    model, _, _ = lstm()
    model.params = {name: np.abs(param) for name, param in model.params.items()}
    grads = model.loss_and_grads(BATCH)[1]

    def loss(params: Mapping[str, Array]) -> object:
        return model.loss(BATCH, {**params, "Wh": blind(params["Wh"])})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = check(model.params, grads, loss).tensors["Wh"]
    assert tensor.verdict is Verdict.scale
    assert not is_exact(tensor, twin_of(model).loss_and_grads(BATCH)[1]["Wh"])
