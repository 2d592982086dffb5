"""Losses that jump: their derivative is zero or does not exist, and a gradient beside them may mean it like that."""

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import Report, Verdict, check


def layers(seed: int, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    """Two matrices."""
    rng = np.random.default_rng(seed)
    return {"W": rng.normal(size=(5, 8)).astype(dtype), "V": rng.normal(size=(8, 3)).astype(dtype)}


def bugs(report: Report) -> dict[str, Verdict]:
    """The verdicts of the tensors that are called wrong."""
    return {name: tensor.verdict for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize("seed", range(3))
def test_a_gradient_of_zero_beside_a_loss_of_steps_is_no_bug(precision: Literal["native", "auto"], seed: int) -> None:
    """A count of what is above a threshold, or levels of a quantiser: at longer steps they seem to have a slope."""
    params = layers(seed)
    inputs = np.random.default_rng(seed).normal(size=(40, 5)).astype(np.float32)
    zeros = {name: np.zeros_like(array) for name, array in params.items()}
    outputs = lambda: np.tanh(inputs @ params["W"]) @ params["V"]  # noqa: E731
    for loss in (
        lambda: np.round(5 * outputs()).mean(),
        lambda: np.float32((outputs() > 0.3).sum()),
        lambda: np.floor(4 * outputs()).sum(),
    ):
        assert not bugs(check(params, zeros, loss, precision=precision, entries=40, seed=seed))


def test_a_straight_through_gradient_is_no_bug_and_may_be_meant() -> None:
    """The weights are rounded in the forward pass, and the backward pass takes the rounding for none."""
    params, rng = layers(0, np.float64), np.random.default_rng(0)
    inputs, targets = rng.normal(size=(12, 5)), rng.normal(size=(12, 3))
    hidden = lambda: np.tanh(inputs @ (np.round(8 * params["W"]) / 8))  # noqa: E731
    slope = 2 * (hidden() @ params["V"] - targets) / targets.size
    grads = {"W": inputs.T @ (slope @ params["V"].T * (1 - hidden() ** 2)), "V": hidden().T @ slope}
    report = check(params, grads, lambda: float(((hidden() @ params["V"] - targets) ** 2).mean()))
    assert not bugs(report)
    assert (report.tensors["W"].cause_key, report.tensors["V"].verdict) == ("loss_in_steps", Verdict.ok)
    assert "straight-through" in report.tensors["W"].cause


def test_a_missing_gradient_of_a_loss_that_is_rounded_as_a_whole_is_one() -> None:
    """The loss jumps along every tensor alike, and the other gradient follows it."""
    params = layers(0)
    grads = {"W": np.zeros_like(params["W"]), "V": np.cos(params["V"])}
    loss = lambda: np.float32(np.float16(np.sin(params["W"]).sum() + np.sin(params["V"]).sum()))  # noqa: E731
    assert bugs(check(params, grads, loss)) == {"W": Verdict.missing}


def test_a_gradient_of_units_that_are_switched_off_is_spurious() -> None:
    """A longer move switches them on, from where the loss rises without a jump."""
    params = {"w": np.full(6, -0.4), "v": np.linspace(0.2, 1, 6)}
    grads = {"w": np.full(6, 1.0), "v": np.cos(params["v"])}
    loss = lambda: float(np.maximum(params["w"], 0).sum() + np.sin(params["v"]).sum())  # noqa: E731
    assert bugs(check(params, grads, loss)) == {"w": Verdict.spurious}


def test_noise_of_a_loss_that_cancels_is_no_jump() -> None:
    """The sum of normalised values is zero but for rounding, which changes by as much wherever it changes."""
    params = {"x": np.random.default_rng(0).normal(size=(25, 5)), "v": np.linspace(0.2, 1, 6)}
    grads = {"x": np.ones((25, 5)), "v": np.cos(params["v"])}
    normed = lambda: (params["x"] - params["x"].mean(0)) / params["x"].std(0)  # noqa: E731
    assert bugs(check(params, grads, lambda: float(normed().sum() + np.sin(params["v"]).sum()))) == {
        "x": Verdict.spurious
    }
    only = {"x": params["x"]}
    assert bugs(check(only, {"x": grads["x"]}, lambda: float(normed().sum()))) == {"x": Verdict.spurious}
