"""The report of a single function."""

import numpy as np

import gradguard
from gradguard.functions import merged, unchecked
from gradguard.report import Verdict

X = np.linspace(0.5, 1.5, 6)


def report_of(factor: float) -> gradguard.Report:
    """The check of the squares with a gradient that is divided."""
    x = X.copy()
    return gradguard.check({"x": x}, {"x": 2 * x / factor}, lambda: float((x**2).sum()))


def test_the_gravest_verdict_of_an_input_counts() -> None:
    """In whatever order the calls are checked, with the evaluations of all."""
    right, wrong = report_of(1.0), report_of(3.0)
    for reports in ([right, wrong], [wrong, right]):
        report = merged(reports)
        assert report.verdict is report.tensors["x"].verdict is Verdict.scale
        assert report.evaluations == right.evaluations + wrong.evaluations


def test_a_call_that_could_not_be_checked_is_not_hidden_by_right_ones() -> None:
    """Only a wrong one is graver."""
    failed = unchecked("its inputs are not finite")
    assert merged([report_of(1.0), failed]) is failed
    assert merged([failed, report_of(3.0)]).verdict is Verdict.scale
