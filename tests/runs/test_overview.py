"""The numbers that the tab draws."""

from reports import MakeReport, MakeTensor

from gradguard.runs.overview import overview
from gradguard.runs.schema import read_check


def test_a_number_of_an_earlier_check_is_not_drawn_again(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Own numbers are in the series where they were measured; the ratio where a screen covered the tensor, too."""
    dates = [(0, 0), (0, 10), (0, 10), (30, 30)]
    reports = [make_report(10 * i, make_tensor("W", measured_at=m, screened_at=s)) for i, (m, s) in enumerate(dates)]
    checks = [read_check(report.to_dict()) for report in reports]
    (tensor,) = overview([check for check in checks if check is not None])["tensors"]
    measured, seen = [True, False, False, True], [True, True, False, True]
    for key in ("discrepancy", "floor", "sign_agreement", "sign_low", "sign_high", "step_size", "deep"):
        assert [value is not None for value in tensor["series"][key]] == measured
    for key in ("ratio", "ratio_error"):
        assert [value is not None for value in tensor["series"][key]] == seen
    assert tensor["stale_since"] is None


def test_it_says_since_when_nobody_looked(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The first check after the last look at a tensor."""
    reports = [
        make_report(step, make_tensor("W", measured_at=0, screened_at=min(step, 10))) for step in (0, 10, 20, 30)
    ]
    checks = [check for report in reports if (check := read_check(report.to_dict())) is not None]
    assert overview(checks)["tensors"][0]["stale_since"] == 20
    assert overview(checks[:2])["tensors"][0]["stale_since"] is None
