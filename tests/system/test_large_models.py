"""Models of many tensors: the first check takes about as long as it may, and the later ones go on."""

from dataclasses import replace

import numpy as np
import pytest

from gradguard import GradGuard, Verdict
from gradguard.checks.effort import IN_DOUBT, LEAST, Effort
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


def test_a_first_check_that_has_no_time_for_all_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is in the report, nobody is alarmed about those that wait, and the wrong one is found."""
    monkeypatch.setattr("gradguard.training.monitor.EXAMINATION_SECONDS", 0.02)
    guard, grads = guarded()
    first = guard.after_backward(0, grads)
    assert first is not None
    assert list(first.tensors) == list(grads)
    waiting = [tensor for tensor in first.tensors.values() if "not looked at yet" in tensor.explanation]
    assert waiting
    assert not [alert for alert in first.alerts if alert.tensor != WRONG]
    reports = [guard.after_backward(step, grads) for step in range(1, 4)]
    last = reports[-1]
    assert last is not None
    assert not [tensor for tensor in last.tensors.values() if "not looked at yet" in tensor.explanation]
    assert {name for name, tensor in last.tensors.items() if tensor.verdict.is_bug} == {WRONG}
    assert last.tensors[WRONG].verdict is Verdict.scale
    assert len(last.explanation) < 600


def test_float64_is_proven_for_as_many_tensors_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many tensors and a slow loss some must do; without a bound all of them are tried."""
    calls = []

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
    assert few < 300 < many


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
    """One tensor is looked at deeply in that time, and nothing is said against any."""
    model = SlowLSTM(monkeypatch)
    report = model.guarded(precision).after_backward(0, model.loss_and_grads(model.batch)[1])
    assert report is not None
    assert report.evaluations * 0.07 < 1.2 * EXAMINATION_SECONDS
    assert sum(tensor.deep for tensor in report.tensors.values()) == 1
    assert report.alerts == ()


def test_a_slow_check_tells_what_is_new_before_it_goes_back_to_what_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five wrong tensors are found by five checks, one deep check in each."""
    model = SlowLSTM(monkeypatch)
    guard, grads = model.guarded("native"), model.loss_and_grads(model.batch)[1]
    told, evaluations = [], []
    for step in range(5):
        report = guard.after_backward(step, {name: 2 * grad for name, grad in grads.items()})
        assert report is not None
        told.append(sum(bool(tensor.verdict.is_bug) for tensor in report.tensors.values()))
        evaluations.append(report.evaluations)
    assert told == [1, 2, 3, 4, 5]
    assert max(evaluations) < 450


def test_with_time_enough_all_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each deeply."""
    monkeypatch.setattr("gradguard.training.monitor.EXAMINATION_SECONDS", 1e6)
    guard, grads = guarded()
    report = guard.after_backward(0, grads)
    assert report is not None
    assert all(tensor.deep and tensor.sampled == 4 for tensor in report.tensors.values())
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {WRONG}


def test_fewer_evaluations_buy_fewer_entries_then_fewer_directions() -> None:
    """And the least there is, however few they are."""
    wanted = Effort(entries=100)
    assert wanted.at_most(1e9) == wanted
    some = wanted.at_most(500)
    assert (some.aligned, some.gaussian) == (wanted.aligned, wanted.gaussian)
    assert LEAST.entries <= some.entries < 100
    assert wanted.at_most(100) == wanted.at_most(0) == wanted.at_most(-5) == LEAST


def test_many_directions_become_fewer_with_the_evaluations() -> None:
    """A slow loss leaves as many as there is time for, and not the least there is."""
    wanted = Effort(entries=30, aligned=200)
    aligned = [wanted.at_most(evaluations).aligned for evaluations in (10_000, 4_000, 1_000, 100)]
    assert aligned == sorted(aligned, reverse=True)
    assert (aligned[0], aligned[-1]) == (200, LEAST.aligned)
    assert 150 < aligned[1] < 200
    assert 35 < aligned[2] < 50
    assert wanted.at_most(1_000).gaussian == LEAST.gaussian


def test_a_tensor_in_doubt_is_thought_to_cost_more() -> None:
    """What disagrees is measured again: as many evaluations pay for fewer entries, and stay in the time."""
    usual, doubted = Effort(entries=100), Effort(entries=100, cost=IN_DOUBT)
    assert doubted.at_most(1e9) == doubted
    assert LEAST.entries < doubted.at_most(1_000).entries < usual.at_most(1_000).entries
    assert doubted.at_most(0) == replace(LEAST, cost=IN_DOUBT)


def test_float64_copies_are_made_once() -> None:
    """The loss is handed the same arrays at every check, brought up to date."""
    weights, seen = np.linspace(-1, 1, 6, dtype=np.float32), list[np.ndarray]()

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
