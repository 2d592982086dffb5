"""Law 1: training is never changed."""

import gc
import random
import weakref
from typing import Any

import numpy as np
import pytest
from lstm_training import Params, StopError, Training, averaged, batch_of, sgd
from recorder import Recorder

from gradguard import GradGuard, Verdict
from gradguard.testing import LSTM, random_batch

FORMS: dict[str, dict[str, Any]] = {
    "native": {"precision": "native"},
    "native, unreduced": {"precision": "native", "reduction": "mean"},
    "native, loss(params)": {"precision": "native", "takes": True},
    "float64 by swap": {"precision": "float64"},
    "float64 by swap, unreduced": {"precision": "float64", "reduction": "mean"},
    "float64, loss(params)": {"precision": "float64", "takes": True},
}


class Dice:
    """A training that hangs on three random streams, and on which every disturbance would leave its mark."""

    def __init__(self, takes: bool = False, reduction: str | None = None) -> None:
        self.model = LSTM(2, 1, 2)
        self.objects = dict(self.model.params)
        self.own = np.random.default_rng(5)
        self.batch = random_batch(2, 1, inputs=2, outputs=2)
        self.trace: list[bytes] = []
        self.calls, self.fails_at = Recorder(), 0
        self.error: BaseException | None = None
        self.evaluate: Any = self.model.losses if reduction else self.model.loss
        self.loss: Any = self.at if takes else lambda: self.at(self.model.params)
        np.random.seed(5)  # noqa: NPY002 - users have it
        random.seed(5)

    def at(self, params: Params) -> object:
        """The loss, unless it is to fail here."""
        self.calls.append()
        if self.error is not None and len(self.calls) == self.fails_at:
            raise self.error
        return self.evaluate(self.batch, params)

    def run(self, guard: GradGuard | None, steps: int = 7) -> list[bytes]:
        """Train; every bit of parameters, gradients and streams on the way."""
        for step in range(steps):
            self.batch = random_batch(2, 1, inputs=2, outputs=2, seed=int(self.own.integers(1000)))
            _, grads = self.model.loss_and_grads(self.batch)
            before = [grad.tobytes() for grad in grads.values()]
            if guard is not None:
                try:
                    guard.after_backward(step, grads, self.loss)
                except (StopError, KeyboardInterrupt):
                    self.trace.append(b"stopped")
            assert before == [grad.tobytes() for grad in grads.values()]
            assert all(self.model.params[name] is array for name, array in self.objects.items())
            assert list(self.model.params) == list(self.objects)
            sgd(self.model.params, grads, 0.1 * random.random() * np.random.random())  # noqa: NPY002, S311 - the point
            self.trace += [array.tobytes() for array in self.objects.values()]
        self.trace += [self.own.bytes(8), np.random.bytes(8), random.randbytes(8)]  # noqa: NPY002, S311 - the point
        return self.trace


@pytest.mark.parametrize("form", FORMS)
def test_training_is_bit_for_bit_the_same_with_and_without_a_guard(form: str) -> None:
    """Parameters, gradients and the streams of NumPy, `random` and the training's own generator."""
    options = dict(FORMS[form])
    takes = options.pop("takes", False)
    reduction = options.get("reduction")
    alone = Dice(takes, reduction).run(None)
    guarded = Dice(takes, reduction)
    guard = GradGuard(guarded.model.params, every_n_steps=2, max_overhead=None, **options)
    assert guarded.run(guard) == alone
    assert [row.step for row in guard.history] == [0, 2, 4, 6]
    assert guard.report is not None
    assert guard.report.precision == options["precision"]
    assert guard.report.verdict.is_bug is False


@pytest.mark.parametrize("form", ["native", "float64 by swap", "float64, loss(params)"])
def test_training_is_the_same_when_the_loss_raises_in_the_middle_of_a_check(form: str) -> None:
    """An error, or Ctrl-C, at any evaluation of the first check or of a later one comes out and leaves no trace."""
    options = dict(FORMS[form])
    takes = options.pop("takes", False)
    alone = Dice(takes).run(None, steps=3)
    calm = Dice(takes)
    guard = GradGuard(calm.model.params, every_n_steps=1, max_overhead=None, **options)
    calm.run(guard, steps=3)
    first, total = guard.history[0].evaluations, len(calm.calls)
    assert total == sum(row.evaluations for row in guard.history)
    places = [1, first // 3, first - 1, first, first + 1, first + 2, first + 30, total]
    for index, place in enumerate(places):
        error = StopError() if index % 2 else KeyboardInterrupt()
        shaken = Dice(takes)
        shaken.fails_at, shaken.error = place, error
        guard = GradGuard(shaken.model.params, every_n_steps=1, max_overhead=None, **options)
        trace = shaken.run(guard, steps=3)
        assert trace.count(b"stopped") == 1
        assert [bits for bits in trace if bits != b"stopped"] == alone
        assert len(guard.history) == 2


def test_a_guard_goes_on_after_a_loss_that_raised() -> None:
    """Whoever catches the error keeps a guard that still finds bugs."""
    training, calls = Training(), Recorder()

    def loss() -> object:
        calls.append()
        if len(calls) == 1:
            raise StopError
        return training.loss()

    guard = GradGuard(training.watched, loss, every_n_steps=1, max_overhead=None)
    grads = training.grads()
    with pytest.raises(StopError):
        guard.after_backward(0, grads)
    assert guard.report is None
    report = guard.after_backward(0, averaged(0, grads))
    assert report is not None
    assert report.verdict is Verdict.scale


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_loss_given_for_one_step_is_let_go(precision: str) -> None:
    """A closure over a batch, and all that hangs on it, is not kept for the rest of the training."""
    training = Training()
    guard = GradGuard(training.model.params, every_n_steps=1, max_overhead=None, precision=precision)
    batch = batch_of(1)
    gone = weakref.ref(batch.x)
    guard.after_backward(0, training.model.loss_and_grads(batch)[1], lambda batch=batch: training.model.loss(batch))
    del batch
    gc.collect()
    assert gone() is None
