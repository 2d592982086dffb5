import numpy as np
import pytest
from lstm_training import TIMESTEPS, Params, Training, averaged, batch_of, guard_of

from gradguard import GradGuard, Thresholds, Verdict, gates
from gradguard.testing import LSTM


def clipped(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """All gradients together are clipped to a norm of a hundredth."""
    norm = np.sqrt(sum(float(np.sum(grad.astype(np.float64) ** 2)) for grad in grads.values()))
    return {name: np.float32(min(1, 0.01 / norm)) * grad for name, grad in grads.items()}


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_bug_that_comes_and_goes_is_told_once_each_time(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the first check it is there, by name, at ERROR; not again while it lasts; its end at INFO."""
    training = Training()
    guard = guard_of(training, precision=precision, constants={"timesteps": TIMESTEPS, "batch": 4})
    reports = training.run(guard, range(9), lambda step, grads: averaged(step, grads) if 3 <= step < 6 else grads)
    assert not any(report.verdict.is_bug for report in reports[:3])
    assert [report.verdict for report in reports[3:6]] == [Verdict.scale] * 3
    assert not any(report.verdict.is_bug for report in reports[6:])
    assert set(guard.history[3].alarms) == {"Wh", "b"}
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "gradguard"]
    errors = [message for level, message in told if level == "ERROR"]
    assert [message.split(":")[1] for message in errors] == [" step 3 Wh, likewise b"]
    assert all("`timesteps`" in message and "number of timesteps" in message for message in errors)
    endings = [message for level, message in told if level == "WARNING"]
    assert [message.split(":")[1] for message in endings] == [" step 6 Wh, likewise b"]
    assert all("recovered" in message for message in endings)
    assert len(told) == 2
    assert [len(report.alerts) for report in reports] == [0, 0, 0, 2, 0, 0, 2, 0, 0]


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_factor_that_has_no_name_is_told_once_too(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    """A gradient 1.37 times too large is news once."""
    training = Training()
    training.run(
        guard_of(training, precision=precision),
        range(5),
        lambda _, grads: grads | {"Wh": np.float32(1.37) * grads["Wh"]},
    )
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_clipped_training_is_told_once() -> None:
    """One tensor that is lost in the noise at one check does not set off news about all the others."""
    training = Training()
    reports = training.run(guard_of(training), range(7), clipped)
    for name in training.model.params:
        assert sum(alert.tensor == name for report in reports for alert in report.alerts) <= 1
    assert "norm of 0.01" in reports[0].explanation


def test_a_correct_training_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Not a word in forty checks, and no alarm that a deep check would have had to clear."""
    training = Training()
    guard = guard_of(training)
    reports = training.run(guard, range(40))
    assert not any(report.verdict.is_bug for report in reports)
    assert [record.getMessage() for record in caplog.records] == []
    assert sum(len(row.alarms) for row in guard.history) <= 1


def test_a_small_error_is_found_by_the_evidence_of_several_checks() -> None:
    """Half a per cent in the native precision of a float32 LSTM, which no single entry need show."""
    training = Training()
    guard = guard_of(training)
    reports = training.run(
        guard, range(14), lambda step, grads: grads | {"V": np.float32(1.005) * grads["V"]} if step > 1 else grads
    )
    found = [report.step for report in reports if report.tensors["V"].verdict.is_bug]
    assert found
    assert found[0] > 1
    assert all(
        not tensor.verdict.is_bug for report in reports for name, tensor in report.tensors.items() if name != "V"
    )
    wrong = reports[found[0]].tensors["V"]
    assert wrong.ratio == pytest.approx(1 / 1.005, abs=1e-3)
    assert wrong.last_fine is not None
    assert 0 < wrong.last_fine < found[0]
    assert any(f"last ok at step {wrong.last_fine}" in alert.message for alert in reports[found[0]].alerts)


def test_the_constants_of_a_step_name_its_ratio() -> None:
    """With sequences of changing length the ratio follows the timesteps, not the batch that it equals at first."""
    model = LSTM(3, 2, 3)
    guard = GradGuard(model.params, every_n_steps=1, max_overhead=None, precision="float64", constants={"batch": 4})
    for step, timesteps in enumerate((4, 6)):
        batch = batch_of(step, timesteps)
        grads = {name: grad / np.float32(timesteps) for name, grad in model.loss_and_grads(batch)[1].items()}
        loss = lambda batch=batch: model.loss(batch)  # noqa: E731 - as users write it
        report = guard.after_backward(step, grads, loss, constants={"timesteps": timesteps})
        assert report is not None
        for tensor in report.tensors.values():
            assert tensor.verdict is Verdict.scale
            assert f"; {timesteps} is " in tensor.explanation
            assert "`timesteps`" in tensor.explanation
            assert ("`batch`" in tensor.explanation) == (step == 0)


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_named_blocks_are_reported(precision: str) -> None:
    """The sentence says which gate is wrong: one of little weight, soon after it goes wrong."""
    training = Training()
    guard = guard_of(training, precision=precision, blocks={"Wh": gates("ifog", axis=1)})

    def forget_gate(step: int, grads: Params) -> Params:
        broken = grads["Wh"].copy()
        broken[:, 2:4] *= -1 if step >= 2 else 1
        return grads | {"Wh": broken}

    reports = training.run(guard, range(6), forget_gate)
    assert list(reports[0].tensors["Wh"].blocks) == [*"ifog"]
    wrong = reports[-1].tensors["Wh"]
    assert wrong.verdict.is_bug
    assert {name for name, block in wrong.blocks.items() if block.verdict.is_bug} == {"f"}
    assert "wrong in f" in wrong.explanation


def test_a_gradient_that_is_not_finite_is_told_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """With a finite loss it is a bug, and when it is over that is told."""
    training = Training()

    def overflow(step: int, grads: Params) -> Params:
        return grads | {"V": grads["V"] + np.float32(np.inf if step == 1 else 0)}

    reports = []
    guard = guard_of(training)
    for step in range(4):
        grads = overflow(step, training.grads())
        reports.append(guard.after_backward(step, grads))
    assert [str(report.tensors["V"].verdict) for report in reports if report] == ["ok", "nonfinite", "ok", "ok"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "nan or inf" in caplog.records[0].getMessage()


@pytest.mark.parametrize("when", [0, 1])
def test_a_loss_that_is_nan_is_no_bug_of_the_gradients(when: int, caplog: pytest.LogCaptureFixture) -> None:
    """At the first check or a later one it is a warning to look at the training, and afterwards checks go on."""
    training = Training()
    verdicts = []
    guard = guard_of(training)
    for step in range(3):
        grads = training.grads()
        value = np.float32(np.nan if step == when else 0)
        report = guard.after_backward(step, grads, lambda value=value: training.loss() + value)
        assert report is not None
        verdicts.append(report.verdict)
    assert [verdict.is_bug for verdict in verdicts] == [None if step == when else False for step in range(3)]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "diverged" in caplog.records[0].getMessage()


def test_arrays_that_the_loss_does_not_read_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The message explains what was attached wrongly, once, and no bug is claimed."""
    training = Training()
    copies = {name: param.copy() for name, param in training.watched.items()}
    guard = GradGuard(copies, training.loss, every_n_steps=1, max_overhead=None, precision="native")
    reports = training.run(guard, range(2))
    assert not any(report.verdict.is_bug for report in reports)
    assert reports[0].verdict is Verdict.inconclusive
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert len(caplog.records) == 1
    assert "not the ones that the loss reads" in caplog.records[0].getMessage().replace("\ngradguard:  ", "")


def test_a_gradient_without_an_effect_stays_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """The other tensors still move the loss at later checks, though only this one is measured deeply."""
    training = Training()
    training.model.params["spare"] = np.ones(3, np.float32)
    params = training.watched | {"spare": training.model.params["spare"]}
    guard = GradGuard(params, training.loss, every_n_steps=1, max_overhead=None, precision="native")
    reports = training.run(guard, range(3), lambda _, grads: grads | {"spare": np.full(3, 0.1, np.float32)})
    assert [report.tensors["spare"].verdict for report in reports] == [Verdict.spurious] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_loss_that_becomes_much_sharper_is_found_a_step_for() -> None:
    """After a change of the landscape the guard is not blind for good: a bug is still found."""
    params, sharpness = {"w": np.array([0.3, 0.7, 1.1])}, [1.0]
    guard = GradGuard(
        params, lambda: float(np.sin(sharpness[0] * params["w"]).sum()), every_n_steps=1, max_overhead=None
    )
    verdicts = []
    for step in range(12):
        sharpness[0] = 1.0 if step == 0 else 1e4
        grads = {"w": (2.0 if step else 1.0) * sharpness[0] * np.cos(sharpness[0] * params["w"])}
        report = guard.after_backward(step, grads)
        assert report is not None
        verdicts.append(report.verdict)
    assert Verdict.scale in verdicts


def test_the_worst_entries_of_a_routine_check_are_at_their_places() -> None:
    """What is shown at an index is the derivative of that entry, where a neighbour could not be measured too."""
    params = {"w": np.array([0.3, 0.7, 1.1, -0.5])}
    sharpness = np.ones(4)
    guard = GradGuard(params, lambda: float(np.sin(sharpness * params["w"]).sum()), every_n_steps=1, max_overhead=None)
    for step in range(6):
        if step:
            sharpness[1] = 3e3
        grads = {"w": sharpness * np.cos(sharpness * params["w"])}
        report = guard.after_backward(step, grads)
        assert report is not None
        for entry in report.tensors["w"].worst:
            assert entry.analytic == pytest.approx(grads["w"][entry.index], rel=1e-9)


def test_thresholds_are_those_of_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    """With a looser one float precision is `ok`, with a tighter one it is `float_precision`, which is silent."""
    training = Training()
    (report,) = training.run(guard_of(training), range(1))
    assert report.verdict is Verdict.ok
    tighter = Thresholds(discrepancy=0.9 * max(tensor.discrepancy for tensor in report.tensors.values()))
    training = Training()
    (report,) = training.run(guard_of(training, thresholds=tighter), range(1))
    assert report.verdict is Verdict.float_precision
    assert report.verdict.is_bug is False
    assert not caplog.records
