"""The error bars of differences, and how far a gradient is from them in standard deviations."""

import math

import numpy as np
import pytest
from four_points import differences, measure, noisy, probes_of, seeds
from hypothesis import given
from hypothesis import strategies as st

from gradguard.arrays.types import Array
from gradguard.loss.objective import Objective
from gradguard.perturbation.directions import EntryProbe, aligned, gaussian
from gradguard.perturbation.spaces import InPlace
from gradguard.statistics.rules import ALARM_Z
from gradguard.testing import LSTM, random_batch


def sine(w: Array) -> float:
    """A smooth loss."""
    return float(np.sum(np.sin(w.astype(np.float64))))


@given(seed=seeds, step=st.floats(1e-3, 0.2))
def test_the_truncation_bar_covers_the_truncation(seed: int, step: float) -> None:
    """Where nothing is rounded, what is wrong with n is the fifth derivative's, and the bar is the third's."""
    weights = np.random.default_rng(seed).uniform(-1.2, 1.2, 5)
    points = differences(weights, sine, np.cos(weights), probes_of((5,), seed), step)
    truth = points.g  # the gradient is in closed form
    assert (np.abs(points.n - truth) <= points.bar(1e-16) + 1e-12).all()


def test_the_bar_of_a_kink_covers_what_backprop_may_return() -> None:
    """At the corner of |x| the third difference vanishes, and the fourth shows that no derivative is meant."""
    points = differences(np.zeros(1), lambda w: float(np.abs(w[0])), np.ones(1), [EntryProbe((0,))], 1e-3)
    assert points.truncation[0] == 0
    assert points.n[0] == 0
    assert points.bar(1e-16)[0] == pytest.approx(1)
    assert abs(points.evidence(1e-16, 0.0)[0]) < ALARM_Z


def test_the_evidence_of_a_correct_gradient_is_about_standard_normal() -> None:
    """Its spread does not exceed 1, its mean is 0, and hardly any is beyond three."""
    z = noisy(0, 20_000, slope=3.0, sigma=1e-6, g=3.0).evidence(1e-6, 0.0)
    assert 0.6 < z.std() <= 1.0
    assert abs(z.mean()) < 0.02
    assert np.mean(np.abs(z) > 3) < 0.003


def test_the_bar_covers_the_noise() -> None:
    """About 95 % of the differences lie within two bars of the truth."""
    points = noisy(1, 20_000, slope=3.0, sigma=1e-6, g=3.0)
    assert 0.94 < np.mean(np.abs(points.n - 3) < 1.96 * points.bar(1e-6)) < 0.995
    assert points.truncation_in_noise(1e-6).std() < 1.1


@given(factor=st.floats(0.5, 2), sigma=st.sampled_from([1e-9, 1e-6]))
def test_the_evidence_has_the_sign_and_the_size_of_the_error(factor: float, sigma: float) -> None:
    """It is positive where n is above g, and counts the error in standard deviations."""
    points = noisy(2, 400, slope=3.0, sigma=sigma, g=3.0 * factor)
    z, expected = points.evidence(sigma, 0.0), 3 * (1 - factor) / (1.1 * sigma * math.sqrt(130) / 12 / 1e-2)
    assert abs(float(np.median(z)) - expected) < 1 + 0.03 * abs(expected)


def test_rounding_of_backprop_and_movement_at_other_steps_lower_the_evidence() -> None:
    """Either explains a difference: the one as noise, the other as something that is no derivative."""
    points = noisy(3, 100, slope=3.0, sigma=1e-9, g=3.01)
    plain = np.abs(points.evidence(1e-9, 0.0))
    assert plain.min() > 1000
    assert np.abs(points.evidence(1e-9, 0.01)).max() < 1
    assert not points.evidence(1e-9, 0.0, 0.02).any()


def test_nothing_in_an_error_bar_depends_on_the_gradient() -> None:
    """A gradient wrong by 39 times leaves n, its bar and the noise as they are (law 2)."""
    model, batch = LSTM(3, 3, 3), random_batch(8, 2, inputs=3, outputs=3)
    _, grads = model.loss_and_grads(batch)
    objective = Objective(lambda: model.loss(batch), InPlace(model.params), None, lambda: None)
    right = grads["Wh"].astype(np.float64)
    probes, steps = probes_of(right.shape, 0), np.full(3, 1e-2)
    one, other = (measure(objective, "Wh", g, probes, steps, objective()) for g in (right, right / -39))
    for name in ("n", "numerical", "truncation", "fourth", "length"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert np.array_equal(one.bar(1e-7), other.bar(1e-7))
    assert np.allclose(one.g, -39 * other.g)


def test_a_step_of_few_roundoffs_an_entry_is_not_taken_for_one_that_is_too_long() -> None:
    """A linear loss has no truncation: what the dtype makes of short steps in so many entries must not look like it."""
    rng = np.random.default_rng(0)
    slopes, weights = rng.standard_normal(2**18), rng.standard_normal(2**18).astype(np.float32)
    exact, step = slopes.astype(np.longdouble), 2.0**-23 * math.sqrt(weights.size)
    sigma = 1e-6 * step * float(np.linalg.norm(slopes))
    points = differences(weights, lambda w: np.float64(exact @ w), slopes, [aligned(slopes, rng)], step)
    assert points.truncation_in_noise(sigma)[0] > 100
    assert points.bend_in_noise(sigma)[0] < 2


def test_a_step_that_is_too_long_is_found_so_along_directions() -> None:
    """Nothing of real truncation is taken off for roundoffs, where the dtype resolves the step."""
    weights, rng = np.full(16, 0.3, np.float32), np.random.default_rng(0)
    points = differences(
        weights, lambda w: np.exp(w.astype(np.float64)).sum(), np.exp(weights), [gaussian(weights, rng)], 0.5
    )
    assert points.bend_in_noise(1e-6) == pytest.approx(points.truncation_in_noise(1e-6), rel=1e-3)
