"""The discrepancy of numerical and backprop derivatives, and the floor that error bars put under it."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gradguard.statistics.discrepancy import discrepancy_of, floor_of

values = st.floats(-1e3, 1e3).filter(lambda value: value == 0 or abs(value) > 1e-9)


vectors = st.integers(1, 8).flatmap(lambda size: st.tuples(*2 * [st.lists(values, min_size=size, max_size=size)]))


@given(pair=vectors, power=st.integers(-900, 900))
def test_the_discrepancy_is_a_share_symmetric_and_without_scale(
    pair: tuple[list[float], list[float]], power: int
) -> None:
    """It lies in [0, 1], does not ask which of the two is right, nor in what units they are, however large or small."""
    n, g = map(np.array, pair)
    d = discrepancy_of(n, g)
    assert 0 <= d <= 1 + 1e-15
    assert discrepancy_of(g, n) == d
    assert discrepancy_of(-n * 2.0**power, -g * 2.0**power) == pytest.approx(d, rel=1e-12, abs=0)
    assert (d == 0) == np.array_equal(n, g)


@given(g=st.lists(values, min_size=1, max_size=8), k=st.floats(0, 1e6))
def test_the_discrepancy_of_a_factor_is_known(g: list[float], k: float) -> None:
    """|k - 1| / (k + 1) where n = k g, and 1 where the sign is wrong or one of them is zero."""
    array = np.array(g)
    assume(array.any())
    assert discrepancy_of(k * array, array) == pytest.approx(abs(k - 1) / (k + 1), rel=1e-9, abs=1e-15)
    assert discrepancy_of(-k * array, array) == pytest.approx(1)
    assert discrepancy_of(np.zeros_like(array), np.zeros_like(array)) == 0


@given(pair=vectors, share=st.floats(1e-9, 10))
def test_the_floor_is_the_discrepancy_of_the_bars(pair: tuple[list[float], list[float]], share: float) -> None:
    """What a difference of one bar everywhere would come to."""
    n, g = map(np.array, pair)
    bars = np.full(n.size, share)
    total = math.hypot(*n) + math.hypot(*g)
    expected = share * math.sqrt(n.size) / total if total else math.inf
    assert floor_of(n, g, bars, np.zeros_like(n)) == pytest.approx(expected, rel=1e-12)
    assert floor_of(n, g, np.zeros_like(n), bars) == pytest.approx(expected, rel=1e-12)
    assert floor_of(n, g, 3 * bars, 4 * bars) == pytest.approx(5 * expected, rel=1e-12)
    assert floor_of(np.zeros_like(n), np.zeros_like(n), np.zeros_like(n), np.zeros_like(n)) == 0
