"""The numbers that the tab draws."""

from reports import MakeReport, MakeTensor

from gradguard import Verdict
from gradguard.runs.overview import overview, summary, tensor_over_time
from gradguard.runs.schema import read_check
from gradguard.writers.record import History


def test_a_number_of_an_earlier_check_is_not_drawn_again(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Own numbers are in the series where they were measured; the ratio where a screen covered the tensor, too."""
    dates = [(0, 0), (0, 10), (0, 10), (30, 30)]
    reports = [make_report(10 * i, make_tensor("W", measured_at=m, screened_at=s)) for i, (m, s) in enumerate(dates)]
    checks = [read_check(report.to_dict()) for report in reports]
    tensor = tensor_over_time("W", [check for check in checks if check is not None])
    measured, seen = [True, False, False, True], [True, True, False, True]
    for key in ("discrepancy", "floor", "sign_agreement", "sign_low", "sign_high", "step_size", "deep"):
        assert [value is not None for value in tensor["series"][key]] == measured
    for key in ("ratio", "ratio_error"):
        assert [value is not None for value in tensor["series"][key]] == seen


def test_it_says_where_nobody_looked(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """From the first check after a look up to the next one; a gap of one check between two looks is none."""
    screened = [0, 0, 20, 20, 20, 20, 60, 60]
    reports = [make_report(10 * i, make_tensor("W", measured_at=0, screened_at=at)) for i, at in enumerate(screened)]
    checks = [check for report in reports if (check := read_check(report.to_dict())) is not None]
    assert overview(checks)["tensors"][0]["stale"] == [(30, 60), (70, None)]
    assert overview(checks[:3])["tensors"][0]["stale"] == []
    sampled = [checks[0], checks[3], checks[4], checks[5], checks[7]]
    assert overview(sampled)["tensors"][0]["stale"] == [(30, 60), (70, None)]


def test_a_suspect_comes_first_and_the_order_of_the_model_is_known(
    make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Wrong, formerly wrong, unclear, right; and one that nobody looked at lately is a suspect."""
    verdicts = {"a": ("ok", "ok"), "b": ("ok", "inconclusive"), "c": ("scale", "ok"), "d": ("ok", "sign")}
    reports = [
        make_report(step, *(make_tensor(name, verdict=Verdict(told[step])) for name, told in verdicts.items()))
        for step in (0, 1)
    ]
    checks = [check for report in reports if (check := read_check(report.to_dict())) is not None]
    told = overview(checks)
    assert [(one["name"], one["order"], one["is_suspect"]) for one in told["tensors"]] == [
        ("d", 3, True),
        ("c", 2, True),
        ("b", 1, True),
        ("a", 0, False),
    ]
    assert told["screen"]["verdict"] == ["ok", "ok"]
    assert told["start"] == 1


def test_the_last_record_is_enough_for_a_line_on_a_run(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The menu of runs reads one record of each, however long they are."""
    history = History()
    reports = [make_report(step, make_tensor(verdict=Verdict.scale if step == 3 else Verdict.ok)) for step in range(9)]
    checks = [check for report in reports if (check := read_check(history.record(report))) is not None]
    assert summary(checks[-1:]) == summary(checks)
    assert summary(checks[-1:])["state"] == "recovered"
    assert summary(checks[-1:])["checks"] == 9
