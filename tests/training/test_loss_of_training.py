"""A training that hands the guard the loss that it computed itself."""

import json
import logging
from typing import Any

import numpy as np
import pytest
from lstm_training import Training, averaged, batch_of, guard_of, right, sgd

from gradguard import Alert, GradGuard, Report, Verdict


class Handed(Training):
    """A training that hands over its loss, and at some steps updates the parameters too early."""

    def train(self, guard: GradGuard, steps: range, too_early: range = range(0), broken: Any = right) -> list[Report]:
        """The reports of all steps."""
        reports = []
        for step in steps:
            self.batch = batch_of(step)
            value, grads = self.loss(), broken(step, self.grads())
            if step in too_early:
                sgd(self.model.params, grads)
            report = guard.after_backward(step, grads, value=value)
            if step not in too_early:
                sgd(self.model.params, grads)
            assert report is not None
            reports.append(report)
        return reports


def is_other(report: Report) -> bool:
    """Whether all tensors have the verdict; otherwise none may."""
    verdicts = {tensor.verdict for tensor in report.tensors.values()}
    assert verdicts == {Verdict.other_loss} or Verdict.other_loss not in verdicts
    return report.verdict is Verdict.other_loss


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_every_check_compares_the_loss(precision: str) -> None:
    """It is told at the first check and at later ones, in two evaluations or few more, and is over when it is over."""
    training = Handed()
    with guard_of(training, precision=precision) as guard:
        reports = training.train(guard, range(8), too_early=range(2)) + training.train(
            guard, range(8, 14), too_early=range(10, 12)
        )
    assert [is_other(report) for report in reports] == [step in (0, 1, 10, 11) for step in range(14)]
    assert max(report.evaluations for report in reports if is_other(report)) <= 7
    assert not any(report.verdict.is_bug for report in reports)
    assert [row.verdict for row in guard.history] == [report.verdict for report in reports]


def test_it_is_one_warning_in_a_training(caplog: pytest.LogCaptureFixture) -> None:
    """Of all tensors, however often it comes and goes: the reports tell the rest."""
    training, alerts = Handed(), list[Alert]()
    with guard_of(training, on_alert=alerts.append) as guard:
        reports = training.train(guard, range(6), too_early=range(0, 6, 2))
    (alert,) = alerts
    assert (alert.step, alert.level, alert.tensor, alert.verdict) == (0, logging.WARNING, "", Verdict.other_loss)
    assert alert.message.startswith(f"step 0: other_loss: {reports[0].tensors['Wh'].explanation}; one of these: ")
    (message,) = caplog.messages
    assert message.startswith("gradguard: step 0: other_loss: ")


def test_a_resumed_training_does_not_warn_again() -> None:
    """That it was told is in the checkpoint."""
    training, alerts = Handed(), list[Alert]()
    with guard_of(training) as guard:
        training.train(guard, range(2), too_early=range(2))
        state = json.loads(json.dumps(guard.state_dict()))
    with guard_of(training, on_alert=alerts.append) as guard:
        guard.load_state_dict(state)
        (report,) = training.train(guard, range(2, 3), too_early=range(2, 3))
    assert is_other(report)
    assert alerts == []


def test_a_bug_is_neither_forgotten_nor_told_anew(caplog: pytest.LogCaptureFixture) -> None:
    """A check that measures nothing leaves what the checks before have found."""
    training = Handed()
    with guard_of(training) as guard:
        reports = training.train(guard, range(6), too_early=range(3, 4), broken=averaged)
    assert [is_other(report) for report in reports] == [False, False, False, True, False, False]
    assert all(report.tensors["Wh"].verdict is Verdict.scale for report in reports if not is_other(report))
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1  # Wh and b together, once
    assert reports[3].tensors["Wh"].measured_at is None


def test_a_training_that_hands_over_its_loss_is_the_same_bit_for_bit() -> None:
    """So are the checks: where the losses agree, nothing but that comparison is made."""
    reports, params = [], []
    for handed in (True, False):
        training = Handed()
        with guard_of(training) as guard:
            reports.append(training.train(guard, range(5)) if handed else training.run(guard, range(5)))
        params.append({name: array.tobytes() for name, array in training.model.params.items()})
    assert params[0] == params[1]
    for told, untold in zip(*reports, strict=True):
        changing = {"seconds": 0, "overhead": 0}
        assert told.to_dict() | changing == untold.to_dict() | changing


def test_parameters_and_gradients_are_intact_after_another_loss() -> None:
    """Bit for bit, also where the loss is so near that its rounding is looked at."""
    training = Handed()
    grads, value = training.grads(), training.loss()
    before = [array.tobytes() for array in (*training.model.params.values(), *grads.values())]
    with guard_of(training) as guard:
        for step, distance in enumerate((1e-4, 0.1)):
            report = guard.after_backward(step, grads, value=value * (1 + distance))
            assert report is not None
            assert is_other(report)
    assert before == [array.tobytes() for array in (*training.model.params.values(), *grads.values())]


class Busy:
    """A loss on a device that has not computed it yet."""

    shape, dtype = (), "float32"

    def __init__(self, value: float) -> None:
        self.value = value
        self.reads = 0

    def __float__(self) -> float:
        self.reads += 1
        return self.value


def test_the_value_is_read_at_a_check_only() -> None:
    """Reading it may wait for a device, for as long as a step takes."""
    training = Handed()
    values = [Busy(float(training.loss())) for _ in range(7)]
    with guard_of(training, every_n_steps=3) as guard:
        for step, value in enumerate(values):
            guard.after_backward(step, training.grads(), value=value)
    assert [value.reads for value in values] == [1, 0, 0, 1, 0, 0, 1]


def test_a_value_of_another_kind_is_refused_at_the_first_step() -> None:
    """Even where no check is due."""
    training = Handed()
    with guard_of(training, every_n_steps=3) as guard:
        guard.after_backward(0, training.grads(), value=training.loss())
        with pytest.raises(TypeError, match=r"value is a ndarray of shape \(3,\); expected one number"):
            guard.after_backward(1, training.grads(), value=np.ones(3))
