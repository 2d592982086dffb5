"""Losses with a state: they are found out, and a snapshot is what helps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lstm_training import Params

from gradguard import GradGuard, Verdict, check, snapshot_attributes, snapshot_rng


def test_a_loss_with_a_state_needs_a_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    """Without one it is not said to be a bug but what it is; with it the state is as if no check had been made."""
    params = {"w": np.array([0.3, -0.7])}
    rng, layer = np.random.default_rng(0), SimpleNamespace(mean=np.zeros(2), calls=0)

    def loss() -> float:
        layer.calls += 1
        layer.mean = 0.9 * layer.mean + 0.1 * params["w"]
        return float(np.sin(params["w"] * (1 + layer.mean) + rng.random()).sum())

    def true_gradient() -> Params:
        later = np.random.default_rng()
        later.bit_generator.state = rng.bit_generator.state
        w, mean = params["w"], 0.9 * layer.mean + 0.1 * params["w"]
        return {"w": np.cos(w * (1 + mean) + later.random()) * (1 + mean + 0.1 * w)}

    stateless = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    report = stateless.after_backward(0, true_gradient())
    assert report is not None
    assert report.verdict is Verdict.nondeterministic
    assert report.verdict.is_bug is None
    assert "snapshot=" in caplog.records[0].getMessage()
    snapshots = [snapshot_attributes(layer, "mean", "calls"), snapshot_rng(rng)]
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, snapshot=snapshots)
    for step in range(3):
        state, mean, calls = rng.bit_generator.state, layer.mean.tolist(), layer.calls
        report = guard.after_backward(step, true_gradient())
        assert report is not None
        assert report.verdict is Verdict.ok
        assert (rng.bit_generator.state, layer.mean.tolist(), layer.calls) == (state, mean, calls)
        loss()  # training goes on


class Stateful:
    """A loss with a state, of which the gradients know nothing."""

    def __init__(self) -> None:
        self.w = np.array([0.3, 0.7, 1.1, -0.4], np.float32)
        self.hidden = np.zeros(4, np.float32)
        self.calls = 0
        self.rng = np.random.default_rng(0)

    def dropout(self) -> Any:
        """Fresh masks."""
        return (np.sin(self.w) * (self.rng.random(4) < 0.7)).sum()

    def global_dropout(self) -> Any:
        """Fresh masks from the stream that everybody uses."""
        return (np.sin(self.w) * (np.random.random(4) < 0.7)).sum()  # noqa: NPY002 - users have it

    def carried(self) -> Any:
        """A hidden state that goes on."""
        self.hidden = np.tanh(self.w + np.float32(0.5) * self.hidden)
        return self.hidden.sum()

    def counted(self) -> Any:
        """It depends on how often it was called."""
        self.calls += 1
        return np.sin(self.w).sum() * np.float32(1 + 1e-3 * self.calls)


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize("loss", ["dropout", "global_dropout", "carried", "counted"])
def test_a_loss_with_a_state_is_found_out(loss: str, precision: str) -> None:
    """It is nondeterministic at every check and never a bug, and the report says what to pass; passed, it works."""
    model = Stateful()
    state = snapshot_attributes(model, "hidden", "calls", "rng")
    options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": precision}
    guard = GradGuard({"w": model.w}, getattr(model, loss), **options)
    stream = np.random.get_state()[1:]  # noqa: NPY002
    for step in range(3):
        report = guard.after_backward(step, {"w": np.cos(model.w)})
        assert report is not None
        assert report.verdict is Verdict.nondeterministic
        assert "snapshot=snapshot_rng(generator)" in report.tensors["w"].cause
        assert "snapshot_attributes(model, 'hidden')" in report.tensors["w"].cause
    assert repr(np.random.get_state()[1:]) == repr(stream)  # noqa: NPY002
    restore = [state(), snapshot_rng(np.random)()]
    guard = GradGuard({"w": model.w}, getattr(model, loss), snapshot=[state, snapshot_rng(np.random)], **options)
    step_size = np.float64(1e-6)
    numeric = np.empty(4)
    for i in range(4):
        ends = []
        for sign in (1, -1):
            for put_back in restore:
                put_back()
            kept, model.w = model.w, model.w.astype(np.float64)
            model.w[i] += sign * step_size
            ends.append(float(getattr(model, loss)()))
            model.w = kept
        numeric[i] = (ends[0] - ends[1]) / (2 * step_size)
    for put_back in restore:
        put_back()
    for step in range(3):
        report = guard.after_backward(step, {"w": numeric.astype(np.float32)})
        assert report is not None
        assert report.verdict is Verdict.ok


class Periodic:
    """A loss with a state that changes at every so many calls only, and the gradient of the state it starts from."""

    def __init__(self, change: str, period: int) -> None:
        rng = np.random.default_rng(period)
        self.params: Params = {"w": rng.standard_normal(6).astype(np.float32)}
        self.masks = (rng.random((1000, 6)) < 0.7).astype(np.float32)
        self.change, self.period, self.calls, self.is_on = change, period, 0, True

    def state(self) -> Any:
        """What the loss is multiplied by: fresh masks, two in turn, a strange one for one call, or a schedule."""
        periods, place = divmod(self.calls, self.period)
        self.calls += self.is_on
        return {
            "fresh masks": self.masks[periods % 1000],
            "masks in turn": self.masks[periods % 2],
            "a strange mask": self.masks[int(place == self.period - 1)],
            "a schedule": self.masks[0] * np.float32(1 + 1e-5 * periods),
        }[self.change]

    def loss(self) -> Any:
        """In that state."""
        return (np.sin(self.params["w"]) * self.state()).sum()

    def grads(self) -> Params:
        """Where it starts."""
        return {"w": np.cos(self.params["w"]) * self.masks[0]}


CHANGES = ("fresh masks", "masks in turn", "a strange mask", "a schedule")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("period", [2, 5, 11, 23])
def test_a_state_that_seldom_changes_is_found_out(change: str, period: int) -> None:
    """By a deep check, however far the changes are apart."""
    model = Periodic(change, period)
    report = check(model.params, model.grads(), model.loss, precision="native")
    assert report.verdict is Verdict.nondeterministic
    assert "snapshot=snapshot_attributes(model, 'hidden')" in report.tensors["w"].cause


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("period", [2, 5, 11, 23])
def test_a_state_that_comes_up_later_is_found_out_too(change: str, period: int) -> None:
    """By the routine checks, of a loss that repeated at first; it is told as nothing else that is bad."""
    model = Periodic(change, period)
    model.is_on = False
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, model.grads())
    model.is_on = True
    for step in range(1, 60):
        model.loss()  # of the training: what the checks do to the state is put back
        report = guard.after_backward(step, model.grads())
        assert report is not None
        assert not report.verdict.is_bug
        if report.verdict is Verdict.nondeterministic:
            break
    else:
        pytest.fail("it was not found out")


@pytest.mark.parametrize("change", ["fresh masks", "a schedule"])
def test_a_state_that_moves_on_within_a_routine_check_is_found_out_at_once(change: str) -> None:
    """By one more evaluation at its end: no deep check is made of a loss that does not repeat.

    Where other threads run, two more evaluations show that the loss moved the state on, and not a thread.
    """
    model = Periodic(change, period=11)
    model.is_on = False
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, model.grads())
    model.is_on = True
    report = guard.after_backward(1, model.grads())
    assert report is not None
    assert report.verdict is Verdict.nondeterministic
    assert report.evaluations - (1 + 4 * (2 + 1 + 2) + 1) in (0, 2)
