import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gradguard import Verdict
from gradguard.report.plain import finite_or_name, finite_or_none, to_plain
from gradguard.statistics.sequential import Detector


@dataclass(frozen=True)
class Nested:
    """A value of several kinds."""

    verdict: Verdict
    pairs: tuple[tuple[int, float], ...]
    array: Any
    by_name: dict[str, Any]


VALUE = Nested(
    Verdict.scale,
    ((1, 0.5), (2, float("nan"))),
    np.array([[1.5, -np.inf], [np.inf, 0.0]], np.float32),
    {"flag": True, "none": None, "number": np.float64(2.5), "whole": np.int64(3), "dtype": np.dtype(np.float32)},
)


@pytest.mark.parametrize(
    ("number", "nan", "low", "high"), [(finite_or_none, None, None, None), (finite_or_name, "nan", "-inf", "inf")]
)
def test_values_become_strict_json(number: Any, nan: object, low: object, high: object) -> None:
    """Dataclasses, tuples, arrays and enums; what is not finite becomes None, or a name that float() reads back."""
    plain = to_plain(VALUE, number)
    assert plain == {
        "verdict": "scale",
        "pairs": [[1, 0.5], [2, nan]],
        "array": [[1.5, low], [high, 0.0]],
        "by_name": {"flag": True, "none": None, "number": 2.5, "whole": 3, "dtype": "<f4"},
    }
    assert type(plain["verdict"]) is str
    assert type(plain["by_name"]["flag"]) is bool
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_a_float_is_written_as_the_caller_says() -> None:
    """At any depth, and nothing else is."""
    assert to_plain({"a": [1.23456, 7, "1.5"]}, lambda value: round(value, 1)) == {"a": [1.2, 7, "1.5"]}


def test_a_value_with_a_plain_form_of_its_own_has_that() -> None:
    """Such as the sums of a detector, which checkpoints keep."""
    detector = Detector()
    detector.update(1.0)
    assert to_plain({"d": detector}, finite_or_name) == {"d": detector.to_plain()}
