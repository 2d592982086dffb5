"""How many signs agree, of those that can be told, and the exact interval of that share."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.statistics.signs import Signs, clopper_pearson, count_signs, resolvable_signs


def test_signs_are_counted_where_they_can_be_told() -> None:
    """An entry within three bars of zero, or a g within backprop's rounding, says nothing of the signs."""
    n = np.array([1.0, -1.0, 0.2, 1.0, 1.0])
    g = np.array([1.0, 1.0, -1.0, -1e-9, 0.0])
    error, rounding = np.full(5, 0.1), np.full(5, 1e-8)
    assert resolvable_signs(n, g, error, rounding).tolist() == [True, True, False, False, False]
    signs = count_signs(n, g, error, rounding)
    assert signs == Signs(agreeing=1, resolvable=2)
    assert signs.share == 0.5
    assert signs.interval == clopper_pearson(1, 2)


def test_where_no_sign_can_be_told_none_disagrees() -> None:
    """The share is 1, and its interval says that it is worth nothing."""
    signs = count_signs(np.zeros(4), np.ones(4), np.ones(4), np.zeros(4))
    assert (signs.share, signs.interval) == (1.0, (0.0, 1.0))


def at_most(successes: int, trials: int, p: float) -> float:
    """The binomial probability of so many successes or fewer, in exact arithmetic."""
    share = Fraction(p)
    return float(sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(successes + 1)))


@given(data=st.data(), trials=st.integers(1, 60), level=st.sampled_from([0.9, 0.95, 0.99]))
def test_the_ends_of_the_interval_leave_half_of_the_rest_each(data: st.DataObject, trials: int, level: float) -> None:
    """The identity that defines the Clopper-Pearson interval, with binomial tails in exact fractions."""
    successes = data.draw(st.integers(0, trials))
    low, high = clopper_pearson(successes, trials, level)
    tail = (1 - level) / 2
    assert 0 <= low <= successes / trials <= high <= 1
    assert low == 0 if successes == 0 else 1 - at_most(successes - 1, trials, low) == pytest.approx(tail, rel=1e-6)
    assert high == 1 if successes == trials else at_most(successes, trials, high) == pytest.approx(tail, rel=1e-6)
    mirrored = clopper_pearson(trials - successes, trials, level)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize("trials", [5, 20])
def test_the_interval_covers_every_share_often_enough(trials: int) -> None:
    """Whatever the true share, at least 95 of 100 samples give an interval that holds it."""
    intervals = [clopper_pearson(successes, trials) for successes in range(trials + 1)]
    for p in np.linspace(0.01, 0.99, 25):
        chances = [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
        covered = sum(chance for chance, (low, high) in zip(chances, intervals, strict=True) if low <= p <= high)
        assert covered >= 0.95


def test_many_agreeing_signs_narrow_the_interval() -> None:
    """300 of 300 put the share above 0.98; no count is too large to compute."""
    assert clopper_pearson(300, 300)[0] == pytest.approx(0.025 ** (1 / 300), rel=1e-6)
    low, high = clopper_pearson(9_960, 9_963)
    assert 0.999 < low < 9_960 / 9_963 < high < 1
