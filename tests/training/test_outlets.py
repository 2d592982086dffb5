"""Who is told, and where it is written."""

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import lstm_training
import numpy as np
import pytest
from failing_writer import Failing
from lstm_training import TIMESTEPS, WATCHED, StopError, Training, averaged, guard_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradguard import Alert, GradGuard, GradientError, JSONLWriter, Report
from gradguard.cli import main
from gradguard.writers import read_jsonl


def test_a_bug_raises_where_that_is_asked_for_and_is_on_record(tmp_path: Path) -> None:
    """The file and the history have the check, the parameters are untouched, and the guard can go on."""
    training, path = Training(), tmp_path / "checks.jsonl"
    guard = guard_of(
        training,
        on_alert="raise",
        precision="float64",
        writers=[JSONLWriter(path)],
        constants={"timesteps": TIMESTEPS},
    )
    before = {name: param.tobytes() for name, param in training.model.params.items()}
    grads = averaged(0, training.grads())
    with pytest.raises(GradientError, match=r"step 0 Wh: BUG, scale.*`timesteps`") as raised:
        guard.after_backward(0, grads)
    assert before == {name: param.tobytes() for name, param in training.model.params.items()}
    assert raised.value.report is guard.report
    assert raised.value.alert in raised.value.report.alerts
    assert [row.step for row in guard.history] == [0]
    (written,) = read_jsonl(path)
    assert written["verdict"] == "scale"
    assert written["alerts"]
    assert guard.after_backward(1, grads) is not None
    assert len(read_jsonl(path)) == 2


def test_warnings_do_not_raise() -> None:
    """A check that cannot tell ends no training."""
    training = Training()
    guard = guard_of(training, on_alert="raise")
    grads = training.grads()
    report = guard.after_backward(0, grads, lambda: float("nan"))
    assert report is not None
    assert report.alerts


def test_a_callable_is_handed_every_alert() -> None:
    """Bugs and recoveries, in the order of the reports; and what it raises comes out, after the record."""
    training, alerts = Training(), list[Alert]()
    guard = guard_of(training, on_alert=alerts.append, seed=1)
    reports = training.run(guard, range(3), lambda step, grads: averaged(step, grads) if step == 1 else grads)
    assert alerts == [alert for report in reports for alert in report.alerts]
    assert [alert.level for alert in alerts] == [logging.ERROR] * 2 + [logging.WARNING] * 2

    def refuse(alert: Alert) -> None:
        raise StopError(alert.message)

    guard = guard_of(training, on_alert=refuse)
    with pytest.raises(StopError):
        guard.after_backward(0, averaged(0, training.grads()))
    assert len(guard.history) == 1


def test_several_actions_are_all_taken_before_a_bug_raises() -> None:
    """Every callable of a list has every alert, wherever "raise" stands in it."""
    training, first, second = Training(), list[Alert](), list[Alert]()
    guard = guard_of(training, on_alert=["raise", "log", first.append, second.append])
    with pytest.raises(GradientError) as raised:
        guard.after_backward(0, averaged(0, training.grads()))
    assert first == second == list(raised.value.report.alerts)
    assert [alert.tensor for alert in first] == ["Wh", "b"]
    assert raised.value.alert is first[0]


def test_a_writer_that_fails_costs_one_warning_and_goes_on_when_it_can() -> None:
    """Training and the other writers do not notice; a second failure after a recovery is told again."""
    training, failing, other = Training(), Failing(1, 2, 3, 5), Failing()
    guard = guard_of(training, writers=[failing, other])
    with pytest.warns(RuntimeWarning, match="Failing failed .*No space left on device") as told:
        training.run(guard, range(7))
    assert len(told) == 2
    assert Path(told[0].filename) == Path(lstm_training.__file__)
    assert failing.written == [0, 4, 6]
    assert other.written == list(range(7))
    assert [row.step for row in guard.history] == list(range(7))


def test_closing_closes_the_writers_once() -> None:
    """Also by the end of a `with`, whatever ended it; a closed guard checks no more."""
    training, writer = Training(), Failing()
    with pytest.raises(StopError), guard_of(training, writers=[writer]) as guard:
        raise StopError
    guard.close()
    assert writer.closed == 1
    with pytest.raises(ValueError, match="guard is closed"):
        guard.after_backward(0, {})


def test_a_log_folder_gets_an_event_file(tmp_path: Path) -> None:
    """TensorBoard finds the run in the folder it was promised."""
    training = Training()
    with guard_of(training, logdir=tmp_path / "runs" / "lstm") as guard:
        training.run(guard, range(2))
    (events,) = (tmp_path / "runs" / "lstm").iterdir()
    assert "tfevents" in events.name
    assert events.stat().st_size > 1000


def test_what_a_check_did_not_measure_is_not_written_as_of_that_check(tmp_path: Path) -> None:
    """A routine check screens the whole model and measures a tensor: text and curves keep the others' numbers apart."""
    training = Training()
    with guard_of(training, logdir=tmp_path) as guard:
        reports = training.run(guard, range(4))
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0})
    events.Reload()
    for name in WATCHED:
        measured = [report.step for report in reports if report.tensors[name].measured_at == report.step]
        looked_at = [report.step for report in reports if report.tensors[name].looked_at(report.step)]
        assert [event.step for event in events.Tensors(f"gradguard.discrepancy/{name}")] == measured
        assert [event.step for event in events.Tensors(f"gradguard.ratio/{name}")] == looked_at
        assert measured[0] == 0 < len(measured) < len(looked_at)
    rows = str(reports[-1]).splitlines()
    for row, tensor in zip(rows, reports[-1].tensors.values(), strict=False):
        assert (f"at step {tensor.measured_at}" in row) == (tensor.measured_at != reports[-1].step)
    assert rows[-1] == f"3 of 3 tensors screened, {reports[-1].measured} measured"
    assert main(["report", str(tmp_path)]) == 0


class Hours(dict[str, Any]):
    """Parameters whose processes share a clock that only this test moves."""

    is_first = True

    def __init__(self, **params: Any) -> None:
        super().__init__(params)
        self.now = 0.0

    @property
    def ranks(self) -> "Hours":
        """The processes: one, which is this object."""
        return self

    def clock(self) -> float:
        """Seconds."""
        return self.now

    def checking(self, step: int) -> AbstractContextManager[None]:  # noqa: ARG002 - of the protocol
        """Nothing to agree about."""
        return nullcontext()

    def write(self, report: Report) -> None:  # noqa: ARG002 - of the protocol
        """A record that takes as long as a slow network disk may."""
        self.now += 100

    def close(self) -> None:
        """Nothing is held open."""


def test_the_time_that_writing_takes_counts_as_overhead() -> None:
    """Checks that take no time and records that take 100 seconds: at one per cent, one in 10,000 seconds."""
    params = Hours(w=np.array([0.3, 0.7]))
    guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, writers=[params])
    for step in range(40):
        guard.after_backward(step, {"w": np.cos(params["w"])})
        params.now += 1000
    first, *later = [row.step for row in guard.history]
    assert first == 0
    assert 1 < len(later) <= 0.01 * params.now / 100 + 1
