import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.sweeps import curves
from gradguard.sweeps.curves import Curve, TwoPointDifferences

STEPS = np.array([float(f"{digit}e{decade}") for decade in range(-6, 0) for digit in (1, 2, 5)])
SIGMA = 1e-7
Float64 = NDArray[np.float64]


def noisy(truth: Float64, curvature: Float64, seed: int = 0) -> tuple[Float64, Float64]:
    """Differences of a smooth loss at `STEPS`, and the deviation of their noise."""
    deviation = np.outer(SIGMA / (math.sqrt(2) * STEPS), np.ones_like(truth))
    noise = deviation * np.random.default_rng(seed).standard_normal(deviation.shape)
    return truth + np.outer(STEPS**2, curvature) + noise, deviation


def curve_of(n: Float64, deviation: Float64, g: Float64) -> Curve:
    """The curve of differences that no kink and no rounding of backprop disturbs."""
    none = np.zeros(n.shape, dtype=bool)
    truncation = curves.truncation_across_steps(STEPS, n, deviation)
    return curves.curve_of(TwoPointDifferences(STEPS, n, deviation, truncation, none, none, g, np.zeros_like(g)))


def norms(rows: Float64) -> Float64:
    """The norm of each row."""
    return np.asarray(np.linalg.norm(rows, axis=1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("entries", [1, 5, 50])
def test_truncation_is_found_from_the_differences_alone(entries: int, seed: int) -> None:
    """Where the curvature stands clear of the noise it is measured, and below that it is carried on as h^2."""
    rng = np.random.default_rng(seed)
    curvature = 0.5 + rng.random(entries)
    n, deviation = noisy(rng.standard_normal(entries), curvature, seed)
    found = norms(curves.truncation_across_steps(STEPS, n, deviation))
    true = STEPS**2 * np.linalg.norm(curvature)
    clear = true > 10 * norms(deviation)
    assert clear.sum() > 3
    assert found[clear] == pytest.approx(true[clear], rel=0.3)
    assert found[1] / found[0] == pytest.approx((STEPS[1] / STEPS[0]) ** 2)
    assert (found[~clear] <= 3 * np.maximum(true, norms(deviation))[~clear]).all()


def test_a_loss_without_curvature_has_no_truncation_beyond_its_noise() -> None:
    """Of a linear loss the bar is the noise, and the longest step is the best."""
    n, deviation = noisy(np.ones(50), np.zeros(50))
    assert (norms(curves.truncation_across_steps(STEPS, n, deviation)) <= norms(deviation)).all()
    assert curve_of(n, deviation, np.ones(50)).best_step >= 0.2


def test_steps_at_which_the_loss_saturates_are_not_taken_for_the_truth() -> None:
    """Differences that no longer change because the loss is flat far out count as truncation."""
    n, deviation = noisy(np.ones(20), np.full(20, -0.1))
    n[STEPS > 0.015] = 0.0
    found = curve_of(n, deviation, np.ones(20))
    assert 1e-4 < found.best_step < 0.015
    assert found.floor[-1] > 0.3


def test_a_step_at_which_the_loss_overflowed_explains_everything_and_says_nothing() -> None:
    """Differences that are not finite have no discrepancy and the largest floor, and spoil no other step."""
    n, deviation = noisy(np.ones(20), np.ones(20))
    n[-1, 3] = np.nan
    found = curve_of(n, deviation, np.ones(20))
    assert math.isnan(found.discrepancy[-1])
    assert found.floor[-1] == 1
    assert found.floor[found.best] < 1e-3
    assert found.explained


def test_noise_makes_the_floor_fall_and_truncation_makes_it_rise() -> None:
    """The floor is a U whose bottom lies where noise and truncation balance, and a correct gradient lies on it."""
    n, deviation = noisy(np.ones(50), np.ones(50))
    found = curve_of(n, deviation, np.ones(50))
    balance = (SIGMA / math.sqrt(2)) ** (1 / 3)
    assert balance / 2.5 < found.best_step < balance * 2.5
    assert found.discrepancy / found.floor == pytest.approx(np.ones_like(STEPS), abs=0.5)
    assert found.explained


@given(
    bars=st.lists(st.floats(0, 1e300), min_size=1, max_size=20),
    size=st.floats(0, 1e300),
)
def test_a_floor_is_a_discrepancy(bars: list[float], size: float) -> None:
    """Whatever the bars, a floor lies between 0 and 1, and larger bars never lower it."""
    floors = curves.as_discrepancy(np.sort(bars), size)
    assert ((floors >= 0) & (floors <= 1)).all()
    assert (np.diff(floors) >= -1e-12).all()


def test_a_floor_is_what_a_correct_gradient_shows() -> None:
    """The floor of bars of a given norm is the discrepancy of differences that are off by so much."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(100_000)
    for off in (1e-3, 0.1, 1.0, 30.0):
        n = truth + off * rng.standard_normal(truth.size)
        shown = np.linalg.norm(n - truth) / (np.linalg.norm(n) + np.linalg.norm(truth))
        floor = curves.as_discrepancy(np.array([off * math.sqrt(truth.size)]), float(np.linalg.norm(truth)))
        assert floor[0] == pytest.approx(shown, rel=0.02)


@pytest.mark.parametrize(("slope", "distance"), [(1.0, 0.0), (0.1, 0.0), (1.0, 1e-6)])
def test_a_kink_shows_in_how_the_even_part_grows(slope: float, distance: float) -> None:
    """Of a loss that bends at once the difference may be off by half the change of its slope."""
    even = slope * np.maximum(0, STEPS - distance)[:, None]
    bars = curves.kink_error_across_steps(STEPS, even, 2 * STEPS[:, None], SIGMA)
    clear = even[:, 0] > 25 * SIGMA
    assert bars[clear, 0] == pytest.approx(slope / 2, rel=0.2)
    assert not bars[~clear].any()


def test_curvature_is_no_kink() -> None:
    """The even part of a smooth loss grows as the square of the step, and costs nothing."""
    even = np.outer(STEPS**2, [1.0, 30.0, -5.0])
    assert not curves.kink_error_across_steps(STEPS, even, np.outer(2 * STEPS, np.ones(3)), SIGMA).any()
