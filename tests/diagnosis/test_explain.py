import pytest

from gradguard.diagnosis.explain import uncertain


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
