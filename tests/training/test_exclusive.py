"""A guard belongs to one thread at a time, and to nobody once an exception has come out of it."""

from typing import Any

import numpy as np
import pytest
from guarded_sine import in_another_thread, sine
from recorder import Recorder

from gradguard import Alert, GradGuard, Verdict

# Within a check of its own.


@pytest.mark.parametrize("precision", ["native", "auto", "float64"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_loss_that_calls_its_own_guard_is_told_at_once(first: int, precision: str) -> None:
    """By what it did and what to do, at the first evaluation of the first check or of a later one; nothing changes."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    calls, step = Recorder(), 0

    def loss() -> Any:
        calls.append()
        if step >= first:
            guard.after_backward(step, {"w": np.cos(params["w"])})
        return np.sin(params["w"]).sum()

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision=precision)
    for _ in range(first):
        guard.after_backward(step, {"w": np.cos(params["w"])})
        step += 1
    before = params["w"].tobytes()
    calls.clear()
    with pytest.raises(RuntimeError, match=r"within its own check, probably by its loss(.|\n)*loss that only eval"):
        guard.after_backward(step, {"w": np.cos(params["w"])})
    assert len(calls) == 1
    assert params["w"].tobytes() == before
    assert len(guard.history) == first
    first = step + 1  # the loss is mended
    report = guard.after_backward(step, {"w": np.cos(params["w"])})
    assert report is not None
    assert report.verdict is Verdict.ok


def test_a_state_cannot_be_loaded_within_a_check() -> None:
    """The check would go on with what is no longer there; what only reads or ends may be called, as by a signal."""
    params, guard = sine()
    state = guard.state_dict()

    def loss() -> Any:
        guard.state_dict()
        guard.load_state_dict(state)

    with pytest.raises(RuntimeError, match="within its own check"):
        guard.after_backward(0, {"w": np.cos(params["w"])}, loss)
    guard.load_state_dict(state)
    guard.after_backward(0, {"w": np.cos(params["w"])})
    assert len(guard.history) == 1


def test_whoever_is_told_of_an_alert_may_call_the_guard() -> None:
    """The check is over by then: to look once more, to save the state or to set the training back."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    told: list[Alert] = []

    def tell(alert: Alert) -> None:
        told.append(alert)
        state = guard.state_dict()
        guard.after_backward(alert.step, {"w": 3 * np.cos(params["w"])})
        guard.load_state_dict(state)

    guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, on_alert=tell)
    guard.after_backward(0, {"w": 3 * np.cos(params["w"])})
    assert [alert.verdict for alert in told] == [Verdict.scale]
    assert [row.step for row in guard.history] == [0, 0]


# Other threads.


@pytest.mark.parametrize("name", ["after_backward", "state_dict", "load_state_dict", "close"])
def test_all_that_uses_a_guard_is_refused_to_another_thread_during_a_check(name: str) -> None:
    """A thread that saves checkpoints, or one that ends the run, would find a half-made check."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    refused = Recorder()

    def loss() -> Any:
        if not refused:
            refused.items.extend(in_another_thread(acts[name]))
        return np.sin(params["w"]).sum()

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    state = guard.state_dict()
    grads = {"w": np.cos(params["w"])}
    acts: dict[str, Any] = {
        "after_backward": lambda: guard.after_backward(0, grads),
        "state_dict": guard.state_dict,
        "load_state_dict": lambda: guard.load_state_dict(state),
        "close": guard.close,
    }
    report = guard.after_backward(0, grads)
    assert report is not None
    assert report.verdict is Verdict.ok
    (error,) = refused
    assert isinstance(error, RuntimeError)
    assert "the thread other calls a guard that the thread MainThread is using" in str(error)
    assert in_another_thread(acts[name]) == []
