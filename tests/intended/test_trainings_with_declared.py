"""A training in which some gradients differ on purpose."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradguard import Alert, GradGuard, JSONLWriter, Report, gates
from gradguard.runs import read_logs, story_of
from gradguard.testing import LSTM, faulty, random_batch

Factor = Callable[[int], float]


class Training:
    """An LSTM whose gradient of Wh is multiplied by some factor at each step."""

    def __init__(self, factor: Factor = lambda _: 0.5, fault: str = "", **options: Any) -> None:
        self.model = (faulty(fault) if fault else LSTM)(hidden=5)
        self.factor = factor
        self.alerts: list[Alert] = []
        self.options = {"expected": {"Wh": "half on purpose"}, "max_overhead": None, "every_n_steps": 1} | options
        self.guard = self.made()

    def made(self) -> GradGuard:
        """Another guard of the same training."""
        return GradGuard(self.model.params, on_alert=self.alerts.append, **self.options)

    def run(self, steps: range) -> list[Report]:
        """The reports of some steps."""
        reports = []
        for step in steps:
            batch = random_batch(12, 4, seed=step)
            loss, grads = self.model.loss_and_grads(batch)
            handed = {**grads, "Wh": grads["Wh"] * np.float32(self.factor(step))}
            report = self.guard.after_backward(
                step, handed, loss=lambda batch=batch: self.model.loss(batch), value=loss
            )
            reports += [] if report is None else [report]
            for name, gradient in grads.items():
                self.model.params[name] -= np.float32(0.1) * gradient
        return reports


def test_a_difference_that_stays_makes_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    """At no check: the verdict is `expected`, and its numbers are those of a date."""
    training = Training()
    with caplog.at_level(logging.INFO, logger="gradguard"):
        reports = training.run(range(12))
    assert not training.alerts
    assert not caplog.records
    for report in reports:
        assert report.tensors["Wh"].verdict == "expected"
        assert report.tensors["Wh"].ratio == pytest.approx(2, rel=1e-3)
        assert not any(tensor.verdict.is_bug for tensor in report.tensors.values())
    assert reports[-1].tensors["Wh"].measured_at > 0


def test_truncation_makes_no_alert_however_it_varies() -> None:
    """Its size depends on the batch and on the parameters: that is no other difference."""
    training = Training(lambda _: 1.0, "truncated", expected={"W[xh]": "truncated BPTT", "b": "truncated BPTT"})
    reports = training.run(range(40))
    assert not training.alerts
    assert {str(report.tensors["Wh"].verdict) for report in reports} == {"expected"}
    assert len({round(report.tensors["Wh"].discrepancy, 3) for report in reports}) > 3


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize("expected", ["Wh", "*"])
def test_a_routine_check_takes_no_more_evaluations(expected: str, precision: str) -> None:
    """However many tensors are declared: each is measured in its turn, by a few probes, while it differs as it did."""
    training = Training(expected={expected: "half on purpose"}, precision=precision)
    reports = training.run(range(20))
    assert max(report.evaluations for report in reports[1:]) <= 24
    assert len({report.tensors["Wh"].measured_at for report in reports}) > 2
    assert not training.alerts


@pytest.mark.parametrize(
    ("before", "after"), [(0.5, 0.25), (0.5, -0.5), (0.5, 0.45), (-1.0, -3.0), (0.5, 0.0)], ids=str
)
def test_another_difference_makes_one_alert(before: float, after: float) -> None:
    """It names what it was and what it is, with the reason; the verdict stays, since the user decides."""
    training = Training(lambda step: before if step < 4 else after)
    training.run(range(14))
    (alert,) = training.alerts
    assert (alert.tensor, alert.level, str(alert.verdict)) == ("Wh", logging.WARNING, "expected")
    assert "the difference has changed" in alert.message
    assert "'half on purpose'" in alert.message
    assert "at step 0" in alert.message


def test_a_larger_change_is_found_at_the_next_check() -> None:
    """Whosever turn it is to be measured."""
    training = Training(lambda step: 0.5 if step < 9 else 5.0)
    training.run(range(10))
    assert [alert.step for alert in training.alerts] == [9]


def test_a_change_in_a_declared_block_is_seen() -> None:
    """The other blocks agree before and after."""
    factors = np.ones((1, 20), np.float32)

    def factor(step: int) -> Any:
        factors[:, 5:10] = 0.5 if step < 3 else -0.5
        return factors

    training = Training(
        factor,
        expected={"Wh:f": "forgets slowly"},
        blocks={"Wh": gates("ifog", axis=1)},  # type: ignore[arg-type]
    )
    reports = training.run(range(12))
    assert {str(report.tensors["Wh"].verdict) for report in reports} == {"expected"}
    assert [alert.tensor for alert in training.alerts] == ["Wh"]


def test_a_constant_that_follows_the_batch_is_no_change() -> None:
    """The gradient is divided by the timesteps of each batch."""
    model, alerts = faulty("timesteps")(hidden=5), []
    guard = GradGuard(
        model.params,
        every_n_steps=1,
        max_overhead=None,
        on_alert=alerts.append,
        expected={"W[xh]": "mean", "b": "mean"},
    )
    for step in range(12):
        timesteps = 9 + 4 * (step % 3)
        batch = random_batch(timesteps, 4, seed=step)
        _, grads = model.loss_and_grads(batch)
        guard.after_backward(
            step, grads, loss=lambda batch=batch: model.loss(batch), constants={"timesteps": timesteps}
        )
    assert not alerts


def test_a_guard_that_resumes_compares_with_what_was_seen_first() -> None:
    """The checkpoint carries it, through JSON."""
    training = Training(lambda step: 0.5 if step < 6 else 0.25)
    training.run(range(6))
    state = json.loads(json.dumps(training.guard.state_dict()))
    training.guard = training.made()
    training.guard.load_state_dict(state)
    training.run(range(6, 12))
    assert len(training.alerts) == 1
    assert "and 2 at step 0" in training.alerts[0].message


def test_a_declaration_may_come_with_a_resumed_training() -> None:
    """What was a bug until then is expected from the next check on."""
    training = Training(expected=None)
    assert training.run(range(3))[-1].tensors["Wh"].verdict == "scale"
    state = training.guard.state_dict()
    training.options["expected"] = {"W*": "half on purpose"}
    training.guard = training.made()
    training.guard.load_state_dict(state)
    training.alerts.clear()
    assert training.run(range(3, 6))[0].tensors["Wh"].verdict == "expected"
    assert not training.alerts


def test_a_tensor_that_is_added_is_declared_by_a_pattern() -> None:
    """It is measured at the next check."""
    params = {"a": np.array([0.3, 0.7])}

    def loss() -> float:
        return float(sum(np.sin(array).sum() for array in params.values()))

    with GradGuard(params, loss, every_n_steps=1, max_overhead=None, expected={"*": "half"}) as guard:
        for step in range(4):
            report = guard.after_backward(step, {name: np.cos(array) / 2 for name, array in params.items()})
            assert report is not None
            assert {str(tensor.verdict) for tensor in report.tensors.values()} == {"expected"}
            if step == 1:
                params["b"] = np.array([0.2, 0.4])
    assert report.tensors["b"].measured_at is not None


def test_everything_may_be_declared() -> None:
    """Then no screen covers anything, and the tensors take turns all the same."""
    training = Training(expected={"*": "semi-gradient"})
    reports = training.run(range(8))
    assert not training.alerts
    assert {str(tensor.verdict) for tensor in reports[-1].tensors.values()} == {"expected", "ok"}
    assert {tensor.measured_at for tensor in reports[-1].tensors.values()} != {0}


def test_a_gradient_that_goes_wrong_beside_it_is_a_bug() -> None:
    """The screens of the other tensors see as much as without a declaration."""
    training = Training()
    batch = random_batch(12, 4)
    for step in range(6):
        _, grads = training.model.loss_and_grads(batch)
        grads["Wh"] *= np.float32(0.5)
        if step > 2:
            grads["V"] *= np.float32(1.1)
        report = training.guard.after_backward(step, grads, loss=lambda: training.model.loss(batch))
        assert report is not None
        assert (report.tensors["V"].verdict == "scale") == (step > 2)
        assert report.tensors["Wh"].verdict == "expected"


def test_an_error_in_another_block_is_found_at_the_next_check() -> None:
    """The other blocks of a tensor with a declared one are probed at each check."""
    factors = np.ones((1, 20), np.float32)
    factors[:, 5:10] = 0.5

    def factor(step: int) -> Any:
        changed = factors.copy()
        changed[:, :5] = 1.05 if step > 5 else 1
        return changed

    blocks = {"Wh": gates("ifog", axis=1)}
    training = Training(factor, expected={"Wh:f": "forgets slowly"}, blocks=blocks)
    reports = training.run(range(8))
    verdicts = [reports[step].tensors["Wh"].verdict for step in range(8)]
    assert {str(verdict) for verdict in verdicts[:6]} == {"expected"}
    assert verdicts[6].is_bug is True
    assert "wrong in i" in reports[6].tensors["Wh"].explanation


def test_the_training_is_unchanged() -> None:
    """Bit for bit, with every tensor or one block declared."""
    plain = Training(every_n_steps=10**6, expected=None)
    for declared in ({"*": "on purpose"}, {"Wh:f": "on purpose"}):
        guarded = Training(expected=declared, blocks={"Wh": gates("ifog", axis=1)})
        guarded.run(range(5))
        fresh = Training(every_n_steps=10**6, expected=None)
        fresh.run(range(5))
        for name, array in guarded.model.params.items():
            assert array.tobytes() == fresh.model.params[name].tobytes()
    assert plain.guard.report is None


def test_a_recorded_run_with_declared_tensors_is_fine(tmp_path: Path) -> None:
    """The summary says that they differ as declared, and the exit status is 0, however long their turn is ago."""
    path = tmp_path / "run.jsonl"
    training = Training(writers=(JSONLWriter(path),))
    training.run(range(9))
    training.guard.close()
    (log,) = read_logs(str(tmp_path))
    story = story_of(log.checks)
    assert story.state.status == 0
    assert "No bug in 5 tensors: Wh differs as declared, and rounding and truncation" in story.headline


def test_a_key_that_matches_nothing_is_an_error_at_once() -> None:
    """Before the training begins."""
    with pytest.raises(ValueError, match="matches nothing"):
        Training(expected={"Wq": "on purpose"})
