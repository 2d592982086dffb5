import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradguard.arrays.types import Float64
from gradguard.statistics.discrepancy import discrepancy_of
from gradguard.statistics.ratio import fit_ratio
from gradguard.statistics.signs import Signs, count_signs

# (numerical, backprop) as printed in the question that gradguard grew from; the quantum of n is 2^-23 / 0.01.
QUESTION = [
    (-0.015223, -0.000385),
    (0.000000, 0.000000),
    (-0.058794, -0.001509),
    (-0.000381, -9.238e-06),
    (9.537e-05, 2.473e-06),
    (0.000215, 6.266e-06),
    (-0.015223, -0.000385),
]

in_float32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
bars = st.floats(0, allow_infinity=False, width=32)
seeds = st.integers(0, 2**32 - 1)


def zeros(like: Float64) -> Float64:
    """No error at all."""
    return np.zeros(like.size)


def test_the_question_has_its_ratio_and_its_discrepancy() -> None:
    """Seven printed rows give n/g = 39 within two in a hundred, and 0.95; the row of zeros does no harm."""
    n, g = np.array(QUESTION).T
    error = np.hypot(2.0**-23 / 0.01, 5e-3 * np.abs(n))
    found = fit_ratio(n, g, error, zeros(n))
    assert found.value == pytest.approx(39, rel=0.02)
    assert abs(found.value - 39) < 3 * found.error
    assert discrepancy_of(n, g) == pytest.approx(0.950, abs=5e-4)
    assert count_signs(n, g, error, zeros(n)) == Signs(agreeing=6, resolvable=6)


def scaled(seed: int, k: float, size: int = 60, relative: float = 1e-2) -> tuple[Float64, Float64, Float64]:
    """N = k g with known, unequal errors, and g over two orders of magnitude; n, g and the errors."""
    rng = np.random.default_rng(seed)
    g = rng.standard_normal(size) * 10.0 ** rng.uniform(-2, 0, size)
    error = abs(k) * relative * 10.0 ** rng.uniform(-1, 0, size)
    return k * g + error * rng.standard_normal(size), g, error


@given(seed=seeds, k=st.sampled_from([39.0, -39.0, 1.0, 1 / 39, 1.01, -1.0]))
def test_the_ratio_recovers_the_factor_within_its_error(seed: int, k: float) -> None:
    """Five of its standard errors hold it, the error is small, and the relation is seen to be pure."""
    n, g, error = scaled(seed, k)
    found = fit_ratio(n, g, error, zeros(n))
    assert abs(found.value - k) < 5.5 * found.error
    assert found.error < 0.01 * abs(k)
    assert found.purity < 2.2


def test_the_error_of_the_ratio_is_honest() -> None:
    """About 95 of 100 intervals of 1.96 errors hold the factor, and the errors are not wide for nothing."""
    found = [fit_ratio(n, g, error, zeros(n)) for n, g, error in (scaled(seed, 39.0) for seed in range(400))]
    deviations = np.array([(ratio.value - 39) / ratio.error for ratio in found])
    assert 0.92 < np.mean(np.abs(deviations) < 1.96) < 0.99
    assert 0.8 < deviations.std() < 1.2
    assert 0.8 < np.mean([ratio.purity for ratio in found]) < 1.2


@given(seed=seeds)
@example(seed=7362595)  # the weight of the right entries is small
def test_a_few_wrong_entries_do_not_carry_the_ratio_away(seed: int) -> None:
    """Three of sixty entries wrong by a hundred times move it by Huber's bound at most, and spoil the purity."""
    n, g, error = scaled(seed, 39.0)
    n[:3] *= -100
    found = fit_ratio(n, g, error, zeros(n))
    slope, residual = g / error, (n - found.value * g) / error
    pull_of_the_right = abs(np.sum((slope * np.clip(residual, -1.5, 1.5))[3:]))
    assert pull_of_the_right < 1.01 * 1.5 * np.abs(slope[:3]).sum()  # that of the wrong at most: 0 if there were none
    expected = np.max(np.abs(n - 39 * g) / error)
    assert found.worst == pytest.approx(expected, rel=0.1)
    assert found.purity > expected**2 / 100


def test_backprop_s_own_rounding_counts_in_the_units_of_g() -> None:
    """With a factor of 39 the roundings of g are 39 times larger in n: they widen the error, and excuse the rest."""
    n, g, _ = scaled(0, 39.0, relative=0)
    rng = np.random.default_rng(1)
    found = fit_ratio(n, g + 1e-3 * rng.standard_normal(g.size), zeros(n), np.full(n.size, 1e-3))
    assert abs(found.value - 39) < 4 * found.error
    assert 0.5 < found.purity < 2


def test_roundings_of_the_forward_pass_are_no_excuse_for_a_wrong_structure() -> None:
    """They are in n as they are in g: a g that is 60 times too small has so much less of them."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal(200)
    own, rounding = np.full(g.size, 1e-7), np.full(g.size, 0.3)
    right, wrong = 60 * g + rounding * rng.standard_normal(g.size), 60 * g * rng.uniform(0.7, 1.3, g.size)
    pure, impure = (fit_ratio(n, g, zeros(g), rounding, own) for n in (right, wrong))
    assert abs(pure.value - 60) < 4 * pure.error
    assert 0.5 < pure.purity < 2
    assert 0.1 < pure.error < 0.5  # all of them may be off the same way
    assert impure.purity > 100
    assert fit_ratio(wrong, g, zeros(g), rounding).purity < 2


def test_without_a_gradient_there_is_no_ratio() -> None:
    """Nan with an infinite error where g is 0 or n is not finite; entries that are fine are used."""
    n, none = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    for found in (
        fit_ratio(n, none, none, none),
        fit_ratio(np.full(3, np.nan), n, none, none),
        fit_ratio(np.empty(0), np.empty(0), np.empty(0), np.empty(0)),
    ):
        assert math.isnan(found.value)
        assert found.error == math.inf
    some = fit_ratio(np.array([2.0, np.nan, 5.0]), np.array([1.0, 1.0, 0.0]), np.full(3, 1e-3), none)
    assert some.value == pytest.approx(2)


@given(rows=st.lists(st.tuples(in_float32, in_float32, bars, bars), max_size=6))
def test_no_finite_measurements_upset_the_arithmetic(rows: list[tuple[float, float, float, float]]) -> None:
    """Zeros, equal values, bars of any size a float32 can have: numbers come out, and NumPy has no cause to warn."""
    n, g, error, rounding = np.array(rows).reshape(-1, 4).T
    found = fit_ratio(n, g, error, rounding)
    assert math.isfinite(found.value) == bool(g.any())
    assert found.error >= 0
    assert count_signs(n, g, error, rounding).resolvable <= n.size
