import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import Alert, GradientError, Report, TensorReport, Thresholds, Verdict, check
from gradguard.intended import how_to_declare
from gradguard.training.alerts import Alerts, log_messages


def measured(factor: float = 1.0, **constants: float) -> TensorReport:
    """A real report on a gradient that is wrong by a factor."""
    weights = {"w": np.array([0.3, 0.7, 1.1])}
    grads = {"w": np.cos(weights["w"]) / factor}
    return check(weights, grads, lambda: float(np.sin(weights["w"]).sum()), constants=constants).tensors["w"]


@pytest.fixture(scope="module")
def healthy() -> TensorReport:
    """A report on a correct gradient."""
    return measured()


@pytest.fixture(scope="module")
def wrong() -> TensorReport:
    """A report on a gradient 39 times too small."""
    return measured(39, timesteps=39)


def told(alerts: Alerts, step: int, *tensors: TensorReport) -> tuple[Alert, ...]:
    """What is told of these tensors at a step."""
    return alerts.of(step, {tensor.name: tensor for tensor in tensors})


def test_a_correct_gradient_is_never_told(healthy: TensorReport) -> None:
    """Nor that it is still correct."""
    alerts = Alerts(Thresholds())
    assert [told(alerts, step, healthy) for step in range(3)] == [()] * 3


def test_a_bug_is_told_once_in_full(wrong: TensorReport) -> None:
    """What, where, how sure, the likely cause and what to do, in one line; and not again while it lasts."""
    alerts = Alerts(Thresholds())
    (alert,) = told(alerts, 1200, wrong)
    assert (alert.step, alert.level, alert.tensor, alert.verdict) == (1200, logging.ERROR, "w", Verdict.scale)
    assert "\n" not in alert.message
    for words in ("step 1200 w: BUG, scale", "39", "`timesteps`", "number of timesteps", "d = 0.95", "3 entries"):
        assert words in alert.message
    assert "multiply the gradient by numerical/backprop" in alert.message
    assert told(alerts, 1300, wrong) == told(alerts, 1400, wrong) == ()


def test_a_bug_is_told_again_when_it_changes(wrong: TensorReport) -> None:
    """Another verdict, or another cause, is news."""
    alerts = Alerts(Thresholds())
    told(alerts, 0, wrong)
    other_cause = measured(39, batch=39)
    assert [alert.verdict for alert in told(alerts, 1, other_cause)] == [Verdict.scale]
    assert told(alerts, 2, other_cause) == ()
    assert [alert.verdict for alert in told(alerts, 3, measured(-39, batch=39))] == [Verdict.sign]


def test_a_factor_without_a_name_is_told_once_too() -> None:
    """Its last digits are measured anew at each check, which is no news."""
    weights = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
    grads = {"w": np.cos(weights["w"]) / np.float32(1.37)}
    alerts, news = Alerts(Thresholds()), []
    for seed in range(4):
        report = check(weights, grads, lambda: np.sin(weights["w"]).sum(), precision="native", seed=seed)
        assert report.tensors["w"].ratio == pytest.approx(1.37, rel=1e-3)
        news.append(len(told(alerts, seed, report.tensors["w"])))
    assert news == [1, 0, 0, 0]


def test_a_factor_known_to_a_few_units_is_told_once_too(wrong: TensorReport) -> None:
    """The digits in front of the point are measured anew, too."""
    alerts = Alerts(Thresholds())
    first, second = (
        dataclasses.replace(wrong, cause=f"the backward pass is {factor} times too small")
        for factor in ("60(16)", "64(15)")
    )
    assert len(told(alerts, 0, first)) == 1
    assert told(alerts, 1, second) == ()


def test_another_wording_of_the_same_cause_is_no_news(wrong: TensorReport) -> None:
    """Alerts compare the keys of causes, and read no sentence."""
    alerts = Alerts(Thresholds())
    told(alerts, 0, wrong)
    reworded = dataclasses.replace(wrong, cause="T divides the gradient", explanation="n is 39 times g")
    assert told(alerts, 1, reworded) == ()
    (alert,) = told(alerts, 2, dataclasses.replace(reworded, cause_key="clipped_by_norm"))
    assert "T divides the gradient" in alert.message


def test_the_finding_of_an_alert_is_its_message_without_what_stands_beside_it(
    wrong: TensorReport, healthy: TensorReport
) -> None:
    """Before it the step and the tensor, behind it the advice."""
    alerts = Alerts(Thresholds())
    (bug,), (recovered,) = told(alerts, 7, wrong), told(alerts, 8, healthy)
    assert bug.message == f"step 7 w: {bug.finding}; {Verdict.scale.advice}; {how_to_declare([wrong])}"
    assert bug.finding.startswith("BUG, scale: numerical = 39")
    assert recovered.message == f"step 8 w: {recovered.finding}"


def test_news_may_lie_in_a_digit(wrong: TensorReport) -> None:
    """Another constant, another block or quite another factor is another bug."""
    for before, after in (
        (measured(39, t1=39), measured(39, t2=39)),
        (dataclasses.replace(wrong, faulty_block="layer1"), dataclasses.replace(wrong, faulty_block="layer2")),
        (measured(1.37), measured(5.3)),
    ):
        alerts = Alerts(Thresholds())
        assert len(told(alerts, 0, before)) == 1
        assert len(told(alerts, 1, after)) == 1


def test_recovery_is_told_once_at_warning(healthy: TensorReport, wrong: TensorReport) -> None:
    """With the numbers that show it; and the same bug is news when it comes back."""
    alerts = Alerts(Thresholds())
    told(alerts, 0, wrong)
    (alert,) = told(alerts, 1, healthy)
    assert (alert.step, alert.level, alert.tensor, alert.verdict) == (1, logging.WARNING, "w", Verdict.ok)
    assert "recovered" in alert.message
    assert healthy.explanation in alert.message
    assert told(alerts, 2, healthy) == ()
    assert [alert.level for alert in told(alerts, 3, wrong)] == [logging.ERROR]


def test_a_check_that_cannot_tell_is_no_recovery(healthy: TensorReport, wrong: TensorReport) -> None:
    """A bug followed by noise that hides everything has not recovered."""
    alerts = Alerts(Thresholds())
    told(alerts, 0, wrong)
    blind = dataclasses.replace(healthy, verdict=Verdict.inconclusive, floor=0.9, discrepancy=0.7)
    assert all("recovered" not in alert.message for alert in told(alerts, 1, blind))


def test_each_tensor_has_its_own_news(healthy: TensorReport, wrong: TensorReport) -> None:
    """One that is known to be wrong does not hide another."""
    alerts = Alerts(Thresholds())
    second, fine = dataclasses.replace(wrong, name="b"), dataclasses.replace(healthy, name="c")
    assert [alert.tensor for alert in told(alerts, 0, wrong, fine)] == ["w"]
    assert [alert.tensor for alert in told(alerts, 1, wrong, second, fine)] == ["b"]
    assert [alert.tensor for alert in told(alerts, 2, healthy, second, fine)] == ["w"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"discrepancy": 0.02, "floor": 1e-3}, "discrepancy"),
        ({"ratio_drift": 0.05, "ratio_error": 1e-4}, "ratio_drift"),
        ({"ratio_drift": -0.05, "ratio_error": 1e-4}, "ratio_drift"),
        ({"sign_agreement": 0.5, "sign_interval": (0.4, 0.6)}, "sign_agreement"),
    ],
)
def test_a_threshold_that_is_crossed_for_sure_is_a_warning(
    healthy: TensorReport, changes: dict[str, Any], what: str
) -> None:
    """It names the number and its value, and is told once."""
    alerts = Alerts(Thresholds())
    crossed = dataclasses.replace(healthy, **changes)
    (alert,) = told(alerts, 7, crossed)
    assert alert.level == logging.WARNING
    assert f"step 7 w: {what} is {changes[what]:.3g}" in alert.message
    assert told(alerts, 8, crossed) == ()
    assert [alert.level for alert in told(alerts, 9, healthy)] == [logging.WARNING]


@pytest.mark.parametrize(
    "changes",
    [
        {"discrepancy": 0.02, "floor": 0.015},
        {"ratio_drift": 0.05, "ratio_error": 0.02},
        {"ratio_drift": 0.005, "ratio_error": 1e-4},
        {"sign_agreement": 0.5, "sign_interval": (0.01, 0.9999)},
        {"sign_agreement": 0.0, "sign_interval": (0.0, 0.4), "discrepancy": 0.67, "floor": 1.5},
        {"discrepancy": float("nan"), "floor": float("inf"), "ratio": float("nan")},
    ],
)
def test_a_threshold_that_float_precision_explains_is_not_told(healthy: TensorReport, changes: dict[str, Any]) -> None:
    """Over the threshold but within the error bar, or the other way round, is silence."""
    assert told(Alerts(Thresholds()), 0, dataclasses.replace(healthy, **changes)) == ()


def test_a_routine_check_does_not_warn_of_what_few_probes_do_by_chance(healthy: TensorReport) -> None:
    """Three entries and a direction exceed twice their floor now and then, on correct gradients."""
    few = dataclasses.replace(healthy, deep=False, sampled=3, discrepancy=0.03, floor=0.012)
    assert told(Alerts(Thresholds()), 0, few) == ()


def test_a_deep_check_does_not_warn_of_what_happens_by_chance(healthy: TensorReport) -> None:
    """Where a few entries with wide bars make up the floor, the discrepancy exceeds it like a single deviation."""
    few = dataclasses.replace(healthy, deep=True, sampled=16, discrepancy=0.014, floor=0.005)
    assert told(Alerts(Thresholds()), 0, few) == ()


def test_a_warning_says_whether_a_deep_check_has_looked_into_it(healthy: TensorReport) -> None:
    """One that could not confirm a bug is not claimed where there was no time for it."""
    suspect = dataclasses.replace(healthy, discrepancy=0.3, floor=1e-5, sampled=3)
    (deep,) = told(Alerts(Thresholds()), 0, dataclasses.replace(suspect, deep=True))
    (quick,) = told(Alerts(Thresholds()), 0, dataclasses.replace(suspect, deep=False))
    assert "an examination did not confirm a bug" in deep.message
    assert "there was no time to examine it" in quick.message


def test_thresholds_are_the_user_s(healthy: TensorReport) -> None:
    """What is told moves with them."""
    tensor = dataclasses.replace(healthy, discrepancy=0.02, floor=1e-3)
    assert told(Alerts(Thresholds(discrepancy=0.1)), 0, tensor) == ()
    assert len(told(Alerts(Thresholds(discrepancy=1e-3)), 0, tensor)) == 1


@pytest.mark.parametrize("verdict", [Verdict.nondeterministic, Verdict.inconclusive])
def test_a_check_that_measured_nothing_is_a_warning(healthy: TensorReport, verdict: Verdict) -> None:
    """It repeats why, and what to do about it."""
    tensor = dataclasses.replace(healthy, verdict=verdict, sampled=0, explanation="it differs", cause="pass a snapshot")
    (alert,) = told(Alerts(Thresholds()), 3, tensor)
    assert (alert.level, alert.verdict) == (logging.WARNING, verdict)
    assert alert.message == f"step 3 w: {verdict}: it differs; pass a snapshot"


@pytest.mark.parametrize("verdict", [verdict for verdict in Verdict if verdict.is_bug])
def test_every_bug_comes_with_advice(wrong: TensorReport, verdict: Verdict) -> None:
    """One line at ERROR that ends with more than the cause."""
    tensor = dataclasses.replace(wrong, verdict=verdict, explanation="so it is", cause="because")
    (alert,) = told(Alerts(Thresholds()), 0, tensor)
    assert alert.level == logging.ERROR
    assert alert.message.startswith(f"step 0 w: BUG, {verdict}: so it is; because; ")
    assert not alert.message.endswith((";", " "))


def test_a_gradient_error_carries_the_alert_and_the_report(wrong: TensorReport) -> None:
    """Whoever catches it has everything, and its text is the alert's message."""
    (alert,) = told(Alerts(Thresholds()), 0, wrong)
    report = Report(0, wrong.verdict, {"w": wrong}, "native", 5, 0.1, "", 1.0)
    error = GradientError(alert, report)
    assert str(error) == alert.message
    assert error.alert is alert
    assert error.report is report


def many(wrong: TensorReport, names: Sequence[str], **changes: Any) -> list[TensorReport]:
    """Reports of tensors with the same fault."""
    return [dataclasses.replace(wrong, name=name, **changes) for name in names]


def lines_of(alerts: Sequence[Alert]) -> list[tuple[int, list[str]]]:
    """The level and the lines of each message that the log gets."""
    return [(level, message.splitlines()) for level, message in log_messages(alerts)]


def test_one_fault_in_many_tensors_is_one_message(wrong: TensorReport, healthy: TensorReport) -> None:
    """With the first tensors and the number of the others; its end, too. The alerts themselves name each tensor."""
    alerts, names = Alerts(Thresholds()), [f"encoder.layer.{i}.attention.weight" for i in range(200)]
    wrongs = told(alerts, 5, *many(wrong, names))
    assert [alert.tensor for alert in wrongs] == names
    ((level, lines),) = lines_of(wrongs)
    assert level == logging.ERROR
    assert lines[0].startswith(
        f"gradguard: step 5 {names[0]}, likewise {names[1]} and 198 more: BUG, scale: numerical = 39"
    )
    ((level, lines),) = lines_of(told(alerts, 9, *many(healthy, names)))
    assert level == logging.WARNING
    assert ": recovered, " in lines[0]


def test_two_faults_are_two_messages(wrong: TensorReport) -> None:
    """The gravest first, whatever the order of the tensors."""
    small = many(wrong, ["c"], verdict=Verdict.nondeterministic)
    alerts = told(Alerts(Thresholds()), 5, *small, *many(wrong, ["a", "b"]), *many(wrong, ["d"], ratio=-4.0))
    assert [lines[0].split(":")[1] for _, lines in lines_of(alerts)] == [
        " step 5 a, likewise b",
        " step 5 d",
        " step 5 c",
    ]


def test_many_faults_are_a_few_messages(wrong: TensorReport) -> None:
    """Where each tensor has a factor of its own, the first are told, and the others counted."""
    wrongs = [dataclasses.replace(wrong, name=f"t{i}", ratio=1.5**i, cause_key=f"{i}") for i in range(1, 100)]
    messages = lines_of(told(Alerts(Thresholds()), 5, *wrongs))
    assert [level for level, _ in messages] == [logging.ERROR] * 5
    assert messages[-1][1] == [
        "gradguard: step 5 t5, t6, t7, t8, t9, t10, t11, t12 and 87 more: 95 more alerts, in guard.report.alerts"
    ]


@given(name=st.text(max_size=300), text=st.text(max_size=2000), count=st.integers(1, 30))
def test_every_line_says_who_writes_and_has_less_than_200_characters(name: str, text: str, count: int) -> None:
    """Whatever a tensor is called and whatever is to be said of it."""
    alerts = [Alert(7, logging.ERROR, f"{name}{i}", Verdict.scale, text, text, "scale") for i in range(count)]
    ((_, message),) = log_messages(alerts)
    assert len(message.split("\n")) <= 4
    for line in message.split("\n"):
        assert line.startswith("gradguard: ")
        assert len(line) < 200
        assert line.isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("discrepancy", 0.0),
        ("discrepancy", 1.0),
        ("discrepancy", float("nan")),
        ("ratio_drift", -0.1),
        ("sign_agreement", 1.1),
        ("sign_agreement", float("nan")),
        ("false_alarms", 0.0),
        ("false_alarms", 1.0),
    ],
)
def test_a_threshold_out_of_range_is_refused(name: str, value: float) -> None:
    """The message names it, and the range."""
    with pytest.raises(ValueError, match=rf"Thresholds\.{name} is {value}; expected a number"):
        Thresholds(**{name: value})


def test_a_loss_of_steps_is_a_warning_in_its_own_words(healthy: TensorReport) -> None:
    """It is said once what the loss does, and no deep check is asked for that would tell no more."""
    changes: dict[str, Any] = {"verdict": Verdict.inconclusive, "cause_key": "loss_in_steps", "discrepancy": 1.0}
    tensor = dataclasses.replace(healthy, explanation="the loss moves in steps", cause="floor", **changes)
    alerts = Alerts(Thresholds())
    (alert,) = alerts.of(1, {tensor.name: tensor})
    assert alert.level == logging.WARNING
    assert "inconclusive: the loss moves in steps; floor" in alert.message
    assert not alerts.of(2, {tensor.name: tensor})
