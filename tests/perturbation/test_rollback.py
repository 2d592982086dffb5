"""A loss that runs the backward pass too writes to the gradients that the optimizer is about to use."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from recorder import Recorder

from gradguard import GradGuard, Verdict, check
from gradguard.arrays.types import Array
from gradguard.perturbation import snapshot_attributes
from gradguard.perturbation.rollback import Rollback
from gradguard.testing import LSTM, random_batch

BATCH = random_batch(3, 2, inputs=2, outputs=2)


class Training:
    """A network whose gradients lie in one place, and whose loss may write to them."""

    def __init__(self) -> None:
        self.model = LSTM(2, 2, 2)
        self.grads: dict[str, Array] = {name: np.zeros_like(param) for name, param in self.model.params.items()}
        self.checks = 0

    def backward(self) -> float:
        """The loss, with the gradients as a by-product."""
        loss, grads = self.model.loss_and_grads(BATCH)
        for name, grad in grads.items():
            self.grads[name][...] = grad
        return float(loss)

    def run(self, loss: Callable[[], object], steps: int) -> dict[str, Array]:
        """Train under guard; the parameters at the end."""
        guard = GradGuard(self.model.params, loss, every_n_steps=1, max_overhead=None, precision="native")
        for step in range(steps):
            self.backward()
            self.checks = step
            guard.after_backward(step, self.grads)
            for name, param in self.model.params.items():
                param -= np.float32(0.1) * self.grads[name]
        return self.model.params


def test_a_loss_that_writes_the_gradients_leaves_no_trace() -> None:
    """All checks put back what it writes, the routine ones too, whose copies are made only for such losses."""
    plain, guarded, spoilt = Training(), Training(), Training()
    expected = plain.run(lambda: plain.model.loss(BATCH), 4)

    def spoiling() -> object:
        for grad in spoilt.grads.values():
            grad += 1
        return spoilt.model.loss(BATCH)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reached, also = guarded.run(guarded.backward, 4), spoilt.run(spoiling, 4)
    assert all(also[name].tobytes() == param.tobytes() for name, param in expected.items())
    assert {name: param.tobytes() for name, param in reached.items()} == {
        name: param.tobytes() for name, param in expected.items()
    }


def test_a_loss_that_begins_to_write_the_gradients_is_refused() -> None:
    """It had not done so at the first check, so that no copies are there; its gradients are not called wrong."""
    training = Training()

    def loss() -> object:
        return training.backward() if training.checks >= 2 else training.model.loss(BATCH)

    with pytest.raises(ValueError, match=r"the loss wrote to the gradients of Wx, Wh, b, V, c, which it did not do at"):
        training.run(loss, 5)
    assert training.checks == 2


def test_checks_after_the_first_copy_no_gradients() -> None:
    """Where the loss only evaluates, its gradients are read where they lie, also from arrays that cannot be written."""
    training = Training()
    guard = GradGuard(training.model.params, lambda: training.model.loss(BATCH), every_n_steps=1, max_overhead=None)
    for step in range(3):
        training.backward()
        for grad in training.grads.values():
            grad.setflags(write=False)
        report = guard.after_backward(step, training.grads)
        for grad in training.grads.values():
            grad.setflags(write=True)
        assert report is not None
        assert report.verdict.is_bug is False


def test_a_loss_that_runs_the_backward_pass_too_does_not_change_the_gradients() -> None:
    """Into the same buffers, as a C++ model does: the optimizer gets those of the step."""
    w = np.array([0.3, 0.7, 1.1], np.float32)
    grads = {"w": np.cos(w)}
    before = grads["w"].tobytes()

    def loss() -> Any:
        np.cos(w, out=grads["w"])
        return np.sin(w).sum()

    guard = GradGuard({"w": w}, loss, every_n_steps=1, max_overhead=None, precision="native")
    for step in range(4):
        report = guard.after_backward(step, grads)
        assert report is not None
        assert report.verdict is Verdict.ok
        assert grads["w"].tobytes() == before


def test_a_check_puts_back_gradients_that_the_loss_zeroes() -> None:
    """A single check compares copies made before the first evaluation, and leaves the user's arrays as they were."""
    w = np.array([0.3, 0.7, 1.1])
    grads = {"w": np.cos(w)}
    before = grads["w"].tobytes()

    def zeroing() -> Any:
        grads["w"][...] = 0
        return np.sin(w).sum()

    assert check({"w": w}, grads, zeroing).verdict is Verdict.ok
    assert grads["w"].tobytes() == before


def test_a_late_write_to_the_gradients_is_put_back_and_remembered() -> None:
    """The loss writes only at its 30th evaluation in a check; later checks keep copies and put the gradients back."""
    w = np.array([0.3, 0.7, 1.1])
    grads, calls = {"w": np.cos(w)}, Recorder()
    before = grads["w"].tobytes()

    def writes_late() -> Any:
        calls.append()
        if len(calls) == 30:
            grads["w"][...] = 7
        return np.sin(w).sum()

    guard = GradGuard({"w": w}, writes_late, every_n_steps=1, max_overhead=None)
    for step in range(3):
        calls.items[:] = [None] * (
            0 if step == 0 else 29
        )  # a routine check has fewer evaluations, and writes at the first of them
        report = guard.after_backward(step, grads)
        assert len(calls) >= 30
        assert grads["w"].tobytes() == before
        assert report is not None
        assert report.verdict is Verdict.ok


def test_every_evaluation_begins_with_the_state_before_the_check() -> None:
    """A loss that carries a state on from call to call is the same function at each of them."""
    w, carried = np.array([0.3, 0.7, 1.1]), {"calls": np.zeros(1)}
    state = Rollback({}, snapshot_attributes(SimpleNamespace(carried=carried), "carried"))

    def work() -> list[float]:
        values = []
        for _ in range(3):
            state.restore()
            carried["calls"] += 1
            values.append(float(np.sum(w) * carried["calls"][0]))
        return values

    assert state.run(work) == [np.sum(w)] * 3
    assert carried["calls"].tolist() == [0]


def test_everything_is_put_back_after_each_of_several_works() -> None:
    """A check of single functions follows that of the model."""
    grads, state = {"w": np.zeros(3)}, {"calls": 0}
    rollback = Rollback(grads, snapshot_attributes(SimpleNamespace(state=state), "state"))

    def work() -> None:
        state["calls"] += 1
        grads["w"] += 1
        np.random.rand()  # noqa: NPY002 - the global stream is meant

    before = np.random.get_state()[2]  # noqa: NPY002
    for _ in range(2):
        rollback.run(work)
        assert state == {"calls": 0}
        assert not grads["w"].any()
        assert np.random.get_state()[2] == before  # noqa: NPY002
