"""What is a bug and what is float precision, in words."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from swept_losses import swept, toy

from gradguard import Sweep, snapshot_attributes, sweep
from gradguard.testing import FAULTS, LSTM, Batch, faulty, random_batch

RECURRENT = {"Wx", "Wh", "b"}


def test_a_factor_is_told_from_float_precision_and_named(averaged: Sweep) -> None:
    """Of the question's bug no step is to blame: the factor is the same wherever the loss moves."""
    assert averaged.explained is False
    assert {name for name, curve in averaged.tensors.items() if curve.explained is False} == RECURRENT
    for name in RECURRENT:
        curve = averaged.tensors[name]
        assert curve.ratio[curve.best] == pytest.approx(39, abs=0.05)
        assert curve.discrepancy[curve.best] == pytest.approx(0.95, abs=1e-3)
    says = averaged.explanation
    assert "Wx, Wh and b: d is 0.95 where rounding and truncation account for" in says
    assert "(`timesteps`) at every step from" in says
    assert "gradguard.check" in says
    assert "Rounding and truncation account for the rest of V and c" in says


@pytest.mark.parametrize(
    "fault", ["no-recurrent-dh", "half-gate", "negated", "missing-bias", "padding-row", "entry-doubled"]
)
def test_a_bug_is_not_explained_in_exactly_the_tensors_that_have_it(fault: str) -> None:
    """Whatever is wrong, the tensors that are wrong are told, and no others."""
    found = swept(faulty(fault)(), random_batch(7, 2), entries=12)
    assert {name for name, curve in found.tensors.items() if curve.explained is False} == FAULTS[fault].tensors


@pytest.mark.parametrize("seed", range(6))
def test_a_correct_gradient_is_explained(seed: int) -> None:
    """No seed, batch or sample makes a bug of a correct network."""
    found = swept(LSTM(seed=seed), random_batch(7, 1 + 3 * (seed % 2), seed=seed), entries=8, seed=seed)
    assert found.explained, found.explanation


class Counting:
    """A loss that counts its calls, and returns a little more each time unless the count is put back."""

    def __init__(self) -> None:
        self.calls = 0
        self.x = {"x": np.ones(3)}

    def __call__(self) -> float:
        """The loss."""
        self.calls += 1
        return float(self.x["x"].sum()) + self.calls


def test_a_loss_that_does_not_repeat_is_told_and_a_snapshot_helps() -> None:
    """Without the state put back nothing holds; with it the sweep is as of any other loss."""
    grads, loss = {"x": np.ones(3)}, Counting()
    unrestored = sweep(loss.x, grads, loss)
    assert not unrestored.deterministic
    assert unrestored.explained is None
    assert "snapshot=" in unrestored.explanation
    restored = sweep(loss.x, grads, loss, snapshot=snapshot_attributes(loss, "calls"))
    assert restored.deterministic
    assert restored.explained
    assert loss.calls == 0


@pytest.mark.parametrize(
    ("g", "loss", "start", "explained", "words"),
    [
        (1.0, lambda _: 1.0, 1.0, False, "the arrays in params are not the ones that the loss reads"),
        (0.0, lambda _: 1.0, 1.0, True, "the gradient is zero too"),
        (0.0, lambda x: np.float32(x.sum()), 1.0, False, "backprop is zero and numerical is not"),
        (math.nan, lambda x: np.float32(x.sum()), 1.0, None, "its gradient contains nan or inf"),
        (-1.0, lambda x: np.float32(x.sum()), 1.0, False, "numerical = -1 x backprop at every step"),
        (1.0, lambda x: np.float32(np.abs(x).sum()), 0.0, None, "too kinked"),
        (1.0, lambda x: np.float32(x.sum()), 1.0, True, "Rounding and truncation account for the rest"),
        (2e-30, lambda x: np.float32(2e-30) * x.sum(), 1.0, True, "Rounding and truncation account for the rest"),
        (3e30, lambda x: np.float32(3e30) * x.sum(), 1.0, True, "Rounding and truncation account for the rest"),
    ],
)
def test_what_is_found_is_said(
    g: float, loss: Callable[[NDArray[Any]], object], start: float, explained: bool | None, words: str
) -> None:
    """Each outcome has its sentence."""
    found = toy(g, loss, start)
    assert found.explained is explained
    assert words in found.explanation


def test_a_gradient_of_what_the_loss_ignores_is_not_explained(model: LSTM, batch: Batch) -> None:
    """A gradient that is not zero where the loss does not move is told."""
    model.params["unused"] = np.ones(3, np.float32)
    grads = model.loss_and_grads(batch)[1] | {"unused": np.ones(3, np.float32)}
    found = sweep(model.params, grads, lambda: model.loss(batch))
    assert found.tensors["unused"].explained is False
    assert "unused: the loss depends on it by no more than noise" in found.explanation
