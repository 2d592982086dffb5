"""Pairs of derivatives: every number is computed by hand."""

import math

import numpy as np
import pytest
from numpy.typing import ArrayLike

from gradguard.statistics.pairs import DerivativePairs


def pairs(
    n: ArrayLike, g: ArrayLike = 0.0, error: ArrayLike = 0.0, rounding: ArrayLike = 0.0, z: ArrayLike = 0.0
) -> DerivativePairs:
    """Pairs of the size of n; one number stands for that number everywhere."""
    columns = (np.array(column, dtype=float) for column in np.broadcast_arrays(n, g, error, rounding, z, rounding))
    return DerivativePairs(*columns)


def test_the_discrepancy_is_relative_to_both_norms() -> None:
    """||(3, 4)|| / (||(6, 8)|| + ||(3, 4)||) = 5 / 15."""
    assert pairs([6, 8], [3, 4]).discrepancy == pytest.approx(1 / 3)


def test_the_deviation_adds_both_bars_in_quadrature() -> None:
    """Hypot(3, 4) = 5, and the floor is that over the norms: 5 / (6 + 4)."""
    found = pairs([6], [4], error=3, rounding=4)
    assert found.deviation.tolist() == [5]
    assert found.floor == 0.5


@pytest.mark.parametrize(
    ("n", "error", "expected"),
    [
        ([5], [1], 2 * 3 * 0.1),
        ([3, 0, 4, 0], [0.6, 0, 0.8, 0], 2 * 2 * 0.1),
        ([3, 4] + 14 * [0], [0.6, 0.8] + 14 * [0], 2 * 1.5 * 0.1),
    ],
)
def test_few_pairs_explain_a_larger_discrepancy_than_many(n: list[float], error: list[float], expected: float) -> None:
    """2 (1 + 2 / sqrt(m)) floors of 0.1, for m = 1, 4 and 16 pairs."""
    assert pairs(n, n, error).explained == pytest.approx(expected)


def test_no_pairs_explain_and_show_nothing() -> None:
    """Without pairs there is no discrepancy, no significance, and no visible error."""
    none = DerivativePairs.none()
    assert (none.size, none.floor, none.explained, none.discrepancy) == (0, 0, 0, 0)
    assert none.significance(nonsmooth=False) == none.significance(nonsmooth=True) == 0
    assert none.smallest_visible(nonsmooth=False) == none.smallest_visible(nonsmooth=True) == math.inf
    assert not none.is_negligible(passing=1.0)


def test_some_of_the_pairs_keep_all_their_columns() -> None:
    """Chosen by a mask or by places, and joined again in the order given."""
    both = DerivativePairs(*(10.0 * column + np.arange(3) for column in range(6)))
    assert both.where(np.array([True, False, True])).z.tolist() == [40, 42]
    assert both.where(np.array([2, 0])).proportional_rounding.tolist() == [52, 50]
    joined = DerivativePairs.joined([both.where(np.array([2])), DerivativePairs.none(), both.where(np.array([0, 1]))])
    assert (joined.n.tolist(), joined.rounding.tolist()) == ([2, 0, 1], [32, 30, 31])
    assert DerivativePairs.joined([]).size == 0


def test_signs_are_counted_where_both_can_be_told() -> None:
    """|n| above three bars and |g| above its rounding: three of these five, of which two agree."""
    found = pairs([3.1, 2.9, -3.1, 3.1, 3.1], [2, 2, 2, 0.9, 1.1], error=1, rounding=1)
    assert found.resolvable.tolist() == [True, False, True, False, True]
    assert (found.signs.agreeing, found.signs.resolvable) == (2, 3)


# Each of four entries: n is half its bar, and g a tenth of its rounding.
CANCELLED = {"n": 4 * [0.5e-9], "g": 1e-9, "error": 1e-9, "rounding": 1e-8}


@pytest.mark.parametrize(("passing", "expected"), [(1.01e-5, True), (0.99e-5, False)])
def test_rounding_must_be_little_beside_what_passes(passing: float, expected: bool) -> None:
    """A thousandth of it: 1e-8 is little beside 1.01e-5."""
    assert pairs(**CANCELLED).is_negligible(passing) is expected


@pytest.mark.parametrize(("error", "expected"), [(0.99e-8, True), (1.01e-8, False)])
def test_the_bars_of_n_must_not_exceed_the_rounding_of_g(error: float, expected: bool) -> None:
    """Where they do, a larger g could hide below them."""
    assert pairs(**CANCELLED | {"error": error}).is_negligible(passing=1.0) is expected


@pytest.mark.parametrize(("n", "expected"), [(1.98e-9, True), (2.02e-9, False), (-1.98e-9, True)])
def test_all_of_n_must_be_within_two_bars(n: float, expected: bool) -> None:
    """Together, where it is not small beside g either."""
    assert pairs(**CANCELLED | {"n": 4 * [n]}).is_negligible(passing=1.0) is expected


@pytest.mark.parametrize(("n", "expected"), [(5.9, True), (-5.9, True), (6.1, False), (-6.1, False)])
def test_each_n_must_be_within_six_bars(n: float, expected: bool) -> None:
    """One of sixteen is beyond, though all sixteen together are within two: 6.1 < 2 ||(1, ..., 1)|| = 8."""
    assert pairs([n, *15 * [0]], error=1, rounding=3).is_negligible(passing=1e4) is expected


@pytest.mark.parametrize(("n", "expected"), [(0.99e-3, True), (1.01e-3, False)])
def test_an_n_that_is_told_from_zero_must_be_small_beside_g(n: float, expected: bool) -> None:
    """A thousandth of it, where n is a thousand bars."""
    assert pairs([n], g=1.0, error=1e-6, rounding=2.0).is_negligible(passing=1e4) is expected


@pytest.mark.parametrize(("rounding", "expected"), [(1.01, True), (0.99, False)])
def test_the_bars_must_be_larger_than_the_derivatives(rounding: float, expected: bool) -> None:
    """With a floor below 1 there is more of g than its rounding."""
    assert pairs([1e-4], g=1.0, error=1e-6, rounding=rounding).is_negligible(passing=1e4) is expected


def test_a_single_deviation_counts_by_its_size() -> None:
    """The largest |z|, whether the loss is rough or not."""
    found = pairs([0, 0, 0], z=[-7, 5, 1])
    assert found.significance(nonsmooth=True) == found.significance(nonsmooth=False) == 7


def test_one_factor_everywhere_counts_where_single_deviations_do_not() -> None:
    """Of 100 residuals of 2 deviations Huber keeps 1.5: sqrt(100) x 1.5 = 15. On a rough loss only the 2 count."""
    found = pairs(100 * [1.1], g=1.0, error=0.05, z=2.0)
    assert found.significance(nonsmooth=False) == pytest.approx(15)
    assert found.significance(nonsmooth=True) == 2


def test_scatter_about_the_factor_takes_from_its_significance() -> None:
    """80 of 100 ratios are two bars from 1.2, a reduced chi^2 of 80 x 4 / 99: 15 is divided by its root."""
    found = pairs(40 * [1.1] + 20 * [1.2] + 40 * [1.3], g=1.0, error=0.05, z=40 * [2] + 20 * [4] + 40 * [6])
    assert found.ratio.purity == pytest.approx(320 / 99)
    assert found.significance(nonsmooth=False) == pytest.approx(15 / math.sqrt(320 / 99))
    assert found.significance(nonsmooth=True) == 6


def test_without_a_gradient_no_factor_counts() -> None:
    """There is no ratio to a g of 0; single deviations are left."""
    assert pairs([3.0, 4.0], error=1.0, z=[3.0, 4.0]).significance(nonsmooth=False) == 4


def test_the_smallest_visible_error_is_the_alarm_over_what_was_seen() -> None:
    """N in deviations of 0.5 is 6 and -8: 6 / hypot(6, 8) = 0.6; on a rough loss the largest alone, 6 / 8."""
    found = pairs([3, 0, -4], error=0.3, rounding=0.4)
    assert found.smallest_visible(nonsmooth=False) == pytest.approx(0.6)
    assert found.smallest_visible(nonsmooth=True) == pytest.approx(0.75)


def test_where_the_loss_does_not_move_no_error_is_visible() -> None:
    """And where it moves without any error, the smallest one is."""
    assert pairs([0, 0], g=1.0, error=0.1).smallest_visible(nonsmooth=False) == math.inf
    assert pairs([1, 0]).smallest_visible(nonsmooth=False) == pairs([1, 0]).smallest_visible(nonsmooth=True) == 0
