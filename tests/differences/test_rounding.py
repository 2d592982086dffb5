"""Whether two computations of one loss differ by rounding alone."""

import math

import numpy as np
import pytest

from gradguard.differences import Comparison, RoundedValue, require_one_number

FLOAT32, FLOAT64 = 2.0**-24, 2.0**-53


def comparison(one: object, other: object, unit: float = FLOAT32, terms: float = 0.0) -> Comparison:
    """The comparison of two numbers as they are handed over."""
    return Comparison.of(RoundedValue.of(one), RoundedValue.of(other), unit, terms)


@pytest.mark.parametrize("terms", [10, 1_000, 60_000])
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_a_sum_in_float32_is_rounding(terms: int, seed: int) -> None:
    """Added one by one, in pairs and in float64, the mean of many losses is one number."""
    losses = np.random.default_rng(seed).exponential(size=terms).astype(np.float32)
    one_by_one = np.cumsum(losses)[-1] / np.float32(terms)
    means = [one_by_one, losses.mean(), float(one_by_one), losses.astype(np.float64).mean()]
    assert all(comparison(one, other).is_usual for one in means for other in means)


def test_float64_sees_what_float32_hides() -> None:
    """The bar follows the coarser of two dtypes, whether the dtype is known or only the digits."""
    loss = 1.2345678901234
    assert not comparison(loss, loss + 1e-7, unit=FLOAT64).is_usual
    assert comparison(loss, np.float32(loss), unit=FLOAT64).is_usual
    assert comparison(loss, float(np.float32(loss)), unit=FLOAT64).is_usual
    assert not comparison(loss, loss * (1 + 1e-4)).is_usual


def test_a_loss_in_half_precision_is_one_rounding_away() -> None:
    """A value that arrives in float16 is compared in its digits."""
    loss = 1.2345678901234
    assert comparison(loss, np.float16(loss)).is_usual
    assert not comparison(loss, np.float16(loss * 1.01)).is_usual


def test_a_loss_that_cancels_to_almost_nothing() -> None:
    """Its digits end where those of the large numbers end that it is a difference of; a small loss has all of them."""
    score = np.float32(17.123456)
    cancelled = float(np.log(np.exp(score) + np.float32(1)) - score)
    assert cancelled < 1e-5
    assert comparison(cancelled, math.log1p(math.exp(-float(score)))).is_usual
    assert comparison(0.0, 3e-8).is_usual
    small = 1.2345678901234e-7
    assert not comparison(small, 1.01 * small).is_usual


def test_small_whole_numbers_are_told_apart() -> None:
    """The few digits of a loss in an exercise are not taken for a coarse dtype."""
    assert not comparison(5.0, 4.9).is_possible
    assert not comparison(5.0, 4.0, unit=FLOAT64).is_possible


def test_unreduced_losses_of_both_signs_are_compared_by_their_size() -> None:
    """The sum of large terms that cancel is as uncertain as the terms."""
    assert not comparison(1.0, 1.001).is_usual
    assert comparison(1.0, 1.001, terms=1e5).is_usual


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (math.inf, -math.inf, False),
        (math.nan, 1.0, False),
        (1.0, math.inf, False),
    ],
)
def test_numbers_that_are_not_finite(one: float, other: float, same: bool) -> None:
    """Two are the same where both are nan, or the same infinity; no rounding makes one of a number."""
    assert comparison(one, other).is_usual is same
    assert comparison(one, other).is_possible is same


@pytest.mark.parametrize("number", [3, 0.5, np.float16(0.5), np.array(0.5), np.array([0.5], np.float32), np.int64(2)])
def test_one_number_of_any_kind_is_read(number: object) -> None:
    """Whatever holds one real number."""
    assert RoundedValue.of(number).value == float(np.asarray(number).item())


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("0.5", "value is a str; expected the loss that the training computed"),
        (None, "value is a NoneType"),
        (True, "value is a bool"),
        (np.array(True), "value is a ndarray of dtype bool"),
        (1j, "value is a complex"),
        (np.complex64(1), "value is a complex64 of dtype complex64"),
        ([0.5], "value is a list"),
        (np.ones(3), r"value is a ndarray of shape \(3,\); expected one number"),
    ],
)
def test_what_is_not_one_real_number_is_refused(number: object, message: str) -> None:
    """The message says what it is, and what was expected."""
    with pytest.raises(TypeError, match=message):
        require_one_number(number)
