import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.arrays.types import Float64
from gradguard.statistics.weighing import PRIOR, PROBES_PER_TENSOR, ROWS, WeighedRatios


def weighed(truth: Float64, probes: int, seed: int = 0, noise: float = 1.0) -> WeighedRatios:
    """Ratios from probes of tensors whose true ratios are known, each share a hundred times the noise."""
    rng, ratios = np.random.default_rng(seed), WeighedRatios(truth.size)
    for _ in range(probes):
        shares = 100 * noise * rng.choice([-1, 1], truth.size) * rng.uniform(0.5, 1.5, truth.size)
        ratios.add(shares, float(shares @ (truth - 1) + noise * rng.standard_normal()), noise)
    return ratios


TRUTH = np.array([1.0, 39.0, 0.99, 1.0, -1.0])


def test_the_ratio_of_every_tensor_is_told_within_its_error_bar() -> None:
    """Twenty probes of five tensors give right and wrong ones to half a per cent; the bars hold the errors."""
    scores = []
    for seed in range(60):
        ratios, errors = weighed(TRUTH, 20, seed).ratios()
        assert ratios == pytest.approx(TRUTH, abs=0.03)
        assert (errors < 6e-3).all()
        scores.append((ratios - TRUTH) / errors)
    assert 0.85 < np.sqrt(np.mean(np.square(scores))) < 1.15
    assert np.abs(scores).max() < 5


def test_the_bars_are_wider_where_the_probes_scatter_more_than_they_say() -> None:
    """With deviations that are ten times too small, the bars still hold the errors."""
    scores = []
    for seed in range(60):
        rng, ratios = np.random.default_rng(seed), WeighedRatios(TRUTH.size)
        for _ in range(20):
            shares = 100 * rng.choice([-1, 1], TRUTH.size)
            ratios.add(shares, float(shares @ (TRUTH - 1) + 10 * rng.standard_normal()), 1.0)
        found, errors = ratios.ratios()
        scores.append((found - TRUTH) / errors)
    # Of Student's t with 20 - 5 degrees of freedom it is 1.07; with the deviations as given it would be 10.
    assert 0.8 < np.sqrt(np.mean(np.square(scores))) < 1.4


def test_two_probes_that_contradict_each_other_resolve_nothing() -> None:
    """The bar of the one tensor is as wide as they are apart, not as narrow as they say."""
    ratios = WeighedRatios(1)
    ratios.add(np.array([100.0]), 0.0, 1.0)
    ratios.add(np.array([100.0]), 100.0, 1.0)
    (found,), (error,) = ratios.ratios()
    assert found == pytest.approx(1.5, rel=1e-3)
    assert error == pytest.approx(0.5, rel=1e-3)


def test_the_bars_shrink_as_the_probes_grow_in_number() -> None:
    """As one over the square root of it, once there are more probes than tensors."""
    few, many = (np.median(weighed(np.ones(40), probes).ratios()[1]) for probes in (80, 160))
    assert 0.5 < many / few < 0.75


@pytest.mark.parametrize("probes", [0, 1, 4])
def test_fewer_probes_than_tensors_resolve_none_of_them(probes: int) -> None:
    """The errors then say so, and right tensors are not far from 1."""
    ratios, errors = weighed(np.ones(20), probes).ratios()
    assert ratios == pytest.approx(np.ones(20), abs=0.1)
    assert (errors > 0.5 * PRIOR).all()
    assert (errors <= PRIOR).all()


def test_a_tensor_without_a_share_keeps_its_prior() -> None:
    """One whose gradient is zero is not resolved by any number of probes; the others are."""
    rng, ratios = np.random.default_rng(0), WeighedRatios(3)
    for _ in range(12):
        shares = 100 * np.array([rng.choice([-1, 1]), 0, rng.choice([-1, 1])])
        ratios.add(shares, float(shares[2]), 1.0)
    found, errors = ratios.ratios()
    assert found == pytest.approx([1, 1, 2], abs=1e-3)
    assert errors[1] == pytest.approx(PRIOR)
    assert (errors[[0, 2]] < 0.01).all()


def test_old_probes_are_forgotten() -> None:
    """A ratio that changes in mid-training is the new one after some probes for each tensor."""
    ratios, rng = WeighedRatios(3), np.random.default_rng(0)
    for probe in range(60):
        shares = 100 * rng.choice([-1.0, 1.0], 3)
        ratios.add(shares, float(shares[1]) if probe >= 60 - PROBES_PER_TENSOR * 3 else 0.0, 1.0)
    assert ratios.ratios()[0] == pytest.approx([1, 2, 1], abs=1e-3)


def test_the_memory_of_many_tensors_is_bounded() -> None:
    """However many tensors there are and however long the training is."""
    ratios = WeighedRatios(200)
    for _ in range(ROWS + 30):
        ratios.add(np.ones(200), 0.0, 1.0)
    plain = ratios.to_plain()
    assert isinstance(plain, list)
    assert len(plain) == ROWS


@pytest.mark.parametrize(("share", "difference", "deviation"), [(np.nan, 0, 1), (1, np.inf, 1), (1, 0, np.nan)])
def test_a_probe_that_is_not_finite_is_not_counted(share: float, difference: float, deviation: float) -> None:
    """It would spoil all that come after."""
    ratios = weighed(np.ones(2), 4)
    before = ratios.to_plain()
    ratios.add(np.array([share, 1.0]), difference, deviation)
    assert ratios.to_plain() == before


@given(probes=st.integers(0, 30), tensors=st.integers(1, 6), seed=st.integers(0, 1000))
def test_a_checkpoint_holds_all_of_them(probes: int, tensors: int, seed: int) -> None:
    """The plain form survives strict JSON, and the ratios that follow are the same."""
    ratios = weighed(np.linspace(0.5, 2, tensors), probes, seed)
    again = WeighedRatios.from_plain(json.loads(json.dumps(ratios.to_plain(), allow_nan=False)))
    for each in (ratios, again):
        each.add(np.full(tensors, 3.0), 0.5, 0.1)
    assert again.count == tensors
    assert all(map(np.array_equal, again.ratios(), ratios.ratios()))


@pytest.mark.parametrize("plain", [[1.0, 2.0], [[1.0, float("nan")]], [[[1.0]]], [[1.0, 2.0], [3.0]], [["a", "b"]]])
def test_a_plain_form_that_is_no_table_is_refused(plain: list[list[float]]) -> None:
    """Whatever a spoilt checkpoint holds."""
    with pytest.raises(ValueError):  # noqa: PT011 - NumPy refuses some of them in its own words
        WeighedRatios.from_plain(plain)


def test_what_is_forgotten_is_forgotten() -> None:
    """Nothing is resolved afterwards."""
    ratios = weighed(TRUTH, 20)
    ratios.forget()
    assert ratios.count == 5
    found, errors = ratios.ratios()
    assert found.tolist() == [1.0] * 5
    assert errors.tolist() == [PRIOR] * 5
