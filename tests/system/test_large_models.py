"""Models of many tensors: the first check takes about as long as it may, and the later ones go on."""

import itertools

import numpy as np
import pytest
from recorder import Recorder

from gradguard import GradGuard, Report, Verdict
from gradguard.screening import SUSPECTED
from gradguard.testing import LSTM, random_batch
from gradguard.training.monitor import EXAMINATION_SECONDS

TENSORS = 40
WRONG = f"w{TENSORS - 3}"


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check takes no more time than it does for users."""
    monkeypatch.setattr("gradguard.training.monitor.EXAMINATION_SECONDS", EXAMINATION_SECONDS)


def guarded() -> tuple[GradGuard, dict[str, np.ndarray]]:
    """A guard of many small tensors, one of whose gradients is doubled."""
    rng = np.random.default_rng(0)
    params = {f"w{i}": rng.standard_normal(4).astype(np.float32) for i in range(TENSORS)}
    grads = {name: 1 - np.tanh(param) ** 2 for name, param in params.items()}
    grads[WRONG] = grads[WRONG] * 2

    def loss() -> np.float32:
        return np.float32(np.tanh(np.stack(list(params.values()))).sum())

    return GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision="native"), grads


def suspected_ones(report: Report) -> set[str]:
    """The tensors that there was no time to look at by themselves."""
    return {name for name, tensor in report.tensors.items() if tensor.cause_key == SUSPECTED}


@pytest.mark.parametrize("evaluation", [0.02, 0.07, 0.3])
def test_a_first_check_that_has_no_time_for_all_goes_on_later(
    evaluation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tensor is in the report, nobody is alarmed about those that are right, and the wrong one is found."""
    guard, grads = guarded()
    counted = guard._loss
    calls = Recorder()

    def slow() -> object:
        calls.append()
        return counted()

    monkeypatch.setattr("gradguard.training.ranks.SingleProcess.clock", lambda _: evaluation * len(calls))
    reports = []
    for step in range(8):
        report = guard.after_backward(step, grads, slow)
        assert report is not None
        assert list(report.tensors) == list(grads)
        assert report.tensors[WRONG].verdict.is_bug is not False
        assert not [n for n, tensor in report.tensors.items() if tensor.verdict.is_bug and n != WRONG]
        assert WRONG in suspected_ones(report) or not suspected_ones(report)
        reports.append(report)
    last = reports[-1]
    assert not suspected_ones(last)
    assert {name for name, tensor in last.tensors.items() if tensor.verdict.is_bug} == {WRONG}
    assert last.tensors[WRONG].verdict is Verdict.scale
    assert len(last.explanation) < 600


def test_float64_is_proven_for_as_many_tensors_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many tensors and a slow loss some must do; without a bound all of them are tried."""
    calls = Recorder()

    def first_check(seconds: float) -> tuple[str, int]:
        monkeypatch.setattr("gradguard.training.monitor.EXAMINATION_SECONDS", seconds)
        params = {f"w{i}": np.full(2, 0.5, np.float32) for i in range(TENSORS)}
        calls.clear()

        def loss(given: dict[str, np.ndarray]) -> np.floating:
            calls.append(given["w0"].dtype)
            return np.tanh(np.stack(list(given.values()))).sum()

        guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
        report = guard.after_backward(0, {name: 1 - np.tanh(param) ** 2 for name, param in params.items()})
        assert report is not None
        assert not [tensor for tensor in report.tensors.values() if tensor.verdict.is_bug]
        return report.precision, len(calls)

    (bounded, few), (unbounded, many) = first_check(0.0), first_check(1e6)
    assert (bounded, unbounded) == ("float64", "float64")
    assert few < 100 < many


class SlowLSTM(LSTM):
    """A network of which each loss takes 70 ms of a clock that nobody needs to wait for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(5, 32, 5)
        self.batch, self.evaluations = random_batch(8, 2, inputs=5, outputs=5), 0
        monkeypatch.setattr("gradguard.training.ranks.SingleProcess.clock", lambda _: 0.07 * self.evaluations)

    def measured(self) -> np.floating:
        """The loss."""
        self.evaluations += 1
        return self.loss(self.batch)

    def guarded(self, precision: str) -> GradGuard:
        """A guard that checks it at every step."""
        return GradGuard(self.params, self.measured, every_n_steps=1, max_overhead=None, precision=precision)


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_first_check_of_a_slow_loss_takes_about_as_long_as_it_may(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tensors are screened in it, one at least is looked at by itself, and nothing is said against any."""
    model = SlowLSTM(monkeypatch)
    report = model.guarded(precision).after_backward(0, model.loss_and_grads(model.batch)[1])
    assert report is not None
    assert report.evaluations * 0.07 < 1.2 * EXAMINATION_SECONDS
    assert report.screened == len(report.tensors)
    assert sum(tensor.measured_at == 0 for tensor in report.tensors.values()) >= 1
    assert report.alerts == ()


def test_a_slow_check_tells_what_is_new_before_it_goes_back_to_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five wrong tensors are found by five checks, and what is told stays told, though there is no time for all."""
    model = SlowLSTM(monkeypatch)
    guard, grads = model.guarded("native"), model.loss_and_grads(model.batch)[1]
    told, evaluations = list[set[str]](), []
    for step in range(5):
        report = guard.after_backward(step, {name: 2 * grad for name, grad in grads.items()})
        assert report is not None
        told.append({name for name, tensor in report.tensors.items() if tensor.verdict.is_bug})
        evaluations.append(report.evaluations)
    assert all(before <= after for before, after in itertools.pairwise(told))
    assert told[-1] == set(grads)
    assert max(evaluations) < 450


@pytest.mark.parametrize("evaluation", [0.07, 0.3, 1.0])
def test_nobody_stays_suspected_for_good(evaluation: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the loss is, each check goes on a bit: of five tensors one is wrong, and the others are cleared."""
    model = SlowLSTM(monkeypatch)
    monkeypatch.setattr("gradguard.training.ranks.SingleProcess.clock", lambda _: evaluation * model.evaluations)
    guard, grads = model.guarded("native"), model.loss_and_grads(model.batch)[1]
    for step in range(12):
        report = guard.after_backward(step, grads | {"Wh": grads["Wh"] * np.float32(3 if step else 1)})
    assert report is not None
    assert not suspected_ones(report)
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {"Wh"}


def test_a_small_drift_of_a_slow_loss_is_examined_in_the_time_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many directions as there is time for, not the two hundred of a fast one."""
    model = SlowLSTM(monkeypatch)
    monkeypatch.setattr("gradguard.training.ranks.SingleProcess.clock", lambda _: 0.3 * model.evaluations)
    guard, evaluations = model.guarded("native"), []
    for step in range(40):
        grads = model.loss_and_grads(model.batch)[1]
        report = guard.after_backward(step, grads | {"V": grads["V"] * np.float32(1.001 if step > 5 else 1)})
        assert report is not None
        evaluations.append(report.evaluations)
    assert max(evaluations) < 500


def test_with_time_enough_all_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deeply."""
    monkeypatch.setattr("gradguard.training.monitor.EXAMINATION_SECONDS", 1e6)
    guard, grads = guarded()
    report = guard.after_backward(0, grads)
    assert report is not None
    assert all(tensor.deep and tensor.sampled == 4 for tensor in report.tensors.values())
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {WRONG}


def test_float64_copies_are_made_once() -> None:
    """The loss is handed the same arrays at every check, brought up to date."""
    weights, seen = np.linspace(-1, 1, 6, dtype=np.float32), Recorder()

    def loss(params: dict[str, np.ndarray]) -> np.floating:
        if params["w"].dtype == np.float64:
            seen.append(params["w"])
        return np.sum(np.sin(params["w"]))

    guard = GradGuard({"w": weights}, loss, every_n_steps=1, max_overhead=None)
    for step in range(4):
        report = guard.after_backward(step, {"w": np.cos(weights)})
        assert report is not None
        assert report.precision == "float64"
        assert report.verdict is Verdict.ok
        weights *= np.float32(0.9)
    assert len({id(array) for array in seen}) == 1
