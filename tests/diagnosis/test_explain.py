import re

import numpy as np
import pytest
from tensor_evidence import evidence_of, pairs_of

from gradguard import Thresholds, Verdict
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.explain import uncertain
from gradguard.diagnosis.known_factors import History
from gradguard.report import told_apart


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (39.0123, 0.0234, "39.01(2)"),
        (39.0123, 0.0996, "39.0(1)"),
        (39.0123, 0.99, "39(1)"),
        (60.2384, 16.02, "60(16)"),
        (-1234.5, 211.0, "-1234(211)"),
        (39.0123, 0.0, "39.0123"),
        (39.0123, 1e-12, "39.0123"),
        (2.5e30, 1e29, "2.5e+30"),
        (2.0, float("inf"), "2"),
        (float("nan"), 1.0, "nan"),
    ],
)
def test_an_uncertain_number_is_told_in_as_many_digits_as_are_known(value: float, error: float, told: str) -> None:
    """And with its error in the last of them, however large that is."""
    assert uncertain(value, error) == told


@pytest.mark.parametrize(
    ("is_native", "is_scalar", "remedies"),
    [
        (True, True, ["precision='float64'", "unreduced losses", "summed in float64"]),
        (False, True, ["unreduced losses"]),
        (True, False, ["precision='float64'"]),
        (False, False, []),
    ],
)
def test_no_advice_is_given_that_is_followed_already(is_native: bool, is_scalar: bool, remedies: list[str]) -> None:
    """Of a noisy loss, and of a difference that is not clear enough, in float64 or with unreduced losses."""
    noisy, unsure = pairs_of(4 * [1.0], error=5.0), pairs_of(40 * [1.3, 0.7], error=0.1)
    for entries in (noisy, unsure):
        evidence = evidence_of(entries, is_native=is_native, is_scalar=is_scalar)
        report = diagnose_tensor(evidence, History({}), Thresholds())
        assert report.verdict is Verdict.inconclusive
        told = [one for one in ("precision='float64'", "unreduced losses", "summed in float64") if one in report.cause]
        assert told == remedies


def test_numbers_that_differ_are_written_so_that_they_do() -> None:
    """With as many digits as that takes; equal ones with as few as ever."""
    assert told_apart(-0.0203, -0.0203004, 3) == ("-0.0203", "-0.0203004")
    assert told_apart(1.0, 1.0 + 2e-16, 3) == ("1", "1.0000000000000002")
    assert told_apart(2.0, 2.0, 3) == ("2", "2")
    g = np.linspace(1, 2, 40)
    n = g * (1 + 1e-3 * np.where(np.arange(40) % 2, 1, -1))
    report = diagnose_tensor(evidence_of(pairs_of(n, g, error=1e-6)), History({}), Thresholds())
    assert report.verdict is Verdict.structure
    pairs = re.findall(r"(?:numerical =|from) (\S+?),? (?:backprop =|to) ([\d.e-]+)", report.explanation)
    assert len(pairs) == 2
    assert all(left != right for left, right in pairs)
