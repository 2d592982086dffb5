"""A check of a loss with random numbers or a state of its own, with a snapshot and without."""

from types import SimpleNamespace

import numpy as np
import pytest
from checked_lstm import Loss, Params

from gradguard import Verdict, check, snapshot_attributes, snapshot_rng


def dropout(rng: np.random.Generator) -> tuple[Params, Params, Loss]:
    """A linear model behind dropout; its gradient is for the mask that the stream draws next."""
    inputs = np.random.default_rng(1).standard_normal((30, 4))
    params = {"w": np.array([0.3, -0.7, 1.1, 0.5])}
    upcoming = np.random.default_rng()
    upcoming.bit_generator.state = rng.bit_generator.state
    mask = upcoming.random(inputs.shape) < 0.5
    grads = {"w": (inputs * mask).T @ np.sin((inputs * mask) @ params["w"])}

    def loss() -> float:
        return float(-np.cos((inputs * (rng.random(inputs.shape) < 0.5)) @ params["w"]).sum())

    return params, grads, loss


@pytest.mark.parametrize("precision", ["native", "auto"])
def test_a_loss_that_draws_numbers_needs_a_snapshot_of_its_stream(precision: str) -> None:
    """Without one the check says that it cannot tell, and what to pass; with it the gradient agrees."""
    rng = np.random.default_rng(7)
    params, grads, loss = dropout(rng)
    report = check(params, grads, loss, precision=precision)
    assert report.verdict is Verdict.nondeterministic
    assert report.verdict.is_bug is None
    assert "snapshot_rng(generator)" in report.tensors["w"].cause
    rng = np.random.default_rng(7)
    state = rng.bit_generator.state
    params, grads, loss = dropout(rng)
    assert check(params, grads, loss, precision=precision, snapshot=snapshot_rng(rng)).verdict is Verdict.ok
    assert rng.bit_generator.state == state


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_loss_with_a_state_needs_a_snapshot_of_it(precision: str) -> None:
    """A hidden state carried from call to call: put back before each evaluation, and after the check."""
    model = SimpleNamespace(w=np.array([0.3, -0.7]), hidden=np.array([0.5, 0.25]), calls=0)
    params, hidden = {"w": model.w}, model.hidden

    def loss() -> float:
        model.calls += 1
        model.hidden = np.tanh(params["w"] * model.hidden)
        return float(model.hidden.sum())

    grads = {"w": hidden * (1 - np.tanh(model.w * hidden) ** 2)}
    snapshot = snapshot_attributes(model, "hidden", "calls")
    report = check(params, grads, loss, precision=precision, snapshot=[snapshot])
    assert report.verdict is Verdict.ok
    assert model.hidden is hidden
    assert hidden.tolist() == [0.5, 0.25]
    assert model.calls == 0
    stateful = check(params, grads, loss)
    assert stateful.verdict is Verdict.nondeterministic
    assert "snapshot_attributes(model, 'hidden')" in stateful.tensors["w"].cause
