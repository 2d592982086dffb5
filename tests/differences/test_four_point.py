import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.arrays.types import Array, Float64
from gradguard.differences.four_point import FourPoint, concatenate, measuring
from gradguard.loss.interleaving import alone
from gradguard.loss.objective import Objective
from gradguard.loss.signature import Reduction
from gradguard.perturbation.directions import EntryProbe, Probe, aligned, gaussian
from gradguard.perturbation.protocols import Space
from gradguard.perturbation.spaces import Float64Copies, InPlace, NativeCopies
from gradguard.statistics.pairs import ALARM
from gradguard.testing import LSTM, random_batch

Loss = Callable[[Array], object]

seeds = st.integers(0, 2**32 - 1)


def measure(
    objective: Objective, name: str, gradient: Array, probes: list[Probe], steps: Float64, centre: Float64
) -> FourPoint:
    """The four-point differences of one tensor, by themselves."""
    return alone(objective, measuring(objective, name, gradient, probes, steps, centre))


def differences(
    weights: Array,
    loss: Loss,
    gradient: Float64,
    probes: list[Probe],
    step: float,
    reduction: Reduction | None = None,
) -> FourPoint:
    """The four-point differences of one tensor at one step."""
    objective = Objective(lambda: loss(weights), InPlace({"w": weights}), reduction, lambda: None)
    return measure(objective, "w", gradient, probes, np.full(len(probes), step), objective())


def probes_of(shape: tuple[int, ...], seed: int) -> list[Probe]:
    """Some of each kind."""
    rng = np.random.default_rng(seed)
    return [
        EntryProbe(tuple(int(rng.integers(length)) for length in shape)),
        gaussian(np.zeros(shape), rng),
        aligned(rng.standard_normal(shape), rng),
    ]


@given(seed=seeds, power=st.integers(-12, -2), fraction=st.floats(0.5, 1))
def test_a_linear_loss_is_predicted_exactly_whatever_float32_makes_of_the_steps(
    seed: int, power: int, fraction: float
) -> None:
    """Realised steps leave no error: all products and sums are exact here, so numerical equals predicted."""
    rng = np.random.default_rng(seed)
    slopes = rng.integers(-64, 64, (3, 4)) / 8.0
    weights = (rng.choice([-1, 1], (3, 4)) * rng.uniform(1, 4, (3, 4))).astype(np.float32)
    step = fraction * 2.0**power
    points = differences(weights, lambda w: float(np.sum(slopes * w)), slopes, probes_of((3, 4), seed), step)
    assert np.array_equal(points.odd1, points.predicted1)
    assert np.array_equal(points.odd2, points.predicted2)
    assert np.array_equal(points.numerical, points.predicted)
    assert np.array_equal(points.n, points.g)


def test_nominal_steps_would_not_do() -> None:
    """At a step of a few units in the last place, float32 moves a parameter by something else than was asked."""
    weights = np.array([1.0], np.float32)
    points = differences(weights, lambda w: 3.0 * float(w[0]), np.array([3.0]), [EntryProbe((0,))], 1.7 * 2.0**-23)
    assert points.length1[0] != 2 * points.step[0]
    assert points.n[0] == points.g[0] == 3


coefficients = st.lists(st.floats(-10, 10), min_size=5, max_size=5)


@given(coefficients=coefficients, at=st.integers(-64, 64), power=st.integers(-6, 0))
def test_four_points_are_exact_for_cubics_and_quartics(coefficients: list[float], at: int, power: int) -> None:
    """The derivative is right up to rounding at any step, and the indicators are the third and fourth coefficients."""
    centre, step = at / 16, 2.0**power
    polynomial = np.polynomial.Polynomial(coefficients)
    truth = polynomial.deriv()(centre)
    points = differences(
        np.array([centre]), lambda w: float(polynomial(w[0])), np.array([truth]), [EntryProbe((0,))], step
    )
    # Subnormal numbers have fewer digits than others.
    size = 1e-290 + sum(abs(c) * (abs(centre) + 2) ** k for k, c in enumerate(coefficients))
    assert points.n[0] == pytest.approx(truth, abs=1e-14 * size / step)
    cubic, quartic = (float(polynomial.deriv(k)(centre)) / math.factorial(k) for k in (3, 4))
    assert points.truncation[0] == pytest.approx(abs(cubic) * step**3, abs=1e-14 * size)
    assert points.fourth[0] == pytest.approx(24 * quartic * step**4, abs=1e-13 * size)


@given(step=st.floats(2e-7, 1e-5))
def test_asymmetric_points_do_not_pass_for_noise(step: float) -> None:
    """Next to a power of two float32 rounds the points of an entry unevenly: the slope's share is taken out again."""
    points = differences(np.ones(1, np.float32), lambda w: 3.0 * float(w[0]), np.ones(1), [EntryProbe((0,))], step)
    assert abs(points.fourth[0]) < 1e-14
    assert points.truncation[0] < 1e-14


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
    assert abs(points.evidence(1e-16, 0.0)[0]) < ALARM


def noisy(seed: int, count: int, slope: float, sigma: float, g: float, step: float = 1e-2) -> FourPoint:
    """Differences of `count` probes on a linear loss whose evaluations have independent noise."""
    rng = np.random.default_rng(seed)
    losses = {c: slope * c * step + sigma * rng.standard_normal(count) for c in (-2, -1, 1, 2)}
    full = np.ones(count)
    return FourPoint(
        step=step * full,
        odd1=losses[1] - losses[-1],
        odd2=losses[2] - losses[-2],
        even1=losses[1] + losses[-1],
        even2=losses[2] + losses[-2],
        predicted1=2 * step * g * full,
        predicted2=4 * step * g * full,
        length1=2 * step * full,
        length2=4 * step * full,
        skew=0 * full,
    )


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


@pytest.mark.parametrize("name", LSTM().params)
def test_the_differences_of_a_float64_lstm_are_its_complex_step_derivatives(name: str) -> None:
    """On a real network each entry is right to eight digits, in either sum over its losses."""
    model, batch = LSTM(3, 3, 3, dtype=np.float64), random_batch(8, 2, inputs=3, outputs=3)
    weights = model.params[name]
    probes = [EntryProbe(index) for index in np.ndindex(weights.shape)][:6]
    truth = []
    for probe in probes:
        params = {key: param.astype(complex) for key, param in model.params.items()}
        params[name][probe.index] += 1e-30j
        truth.append(model.loss(batch, params).imag / 1e-30)
    space = NativeCopies(model.params)
    for objective in (
        Objective(lambda params: model.loss(batch, params), space, None, lambda: None),
        Objective(lambda params: model.losses(batch, params), space, "mean", lambda: None),
    ):
        points = measure(objective, name, np.zeros(weights.shape), probes, np.full(len(probes), 1e-3), objective())
        assert np.abs(points.n - truth).max() < 1e-8 * np.abs(truth).max()


def spaces(live: dict[str, Array]) -> list[Space]:
    """Every way to move the arrays."""
    return [InPlace(live), NativeCopies(live), Float64Copies(live)]


@pytest.mark.parametrize("fails_at", [None, 1, 2, 4, 5, 9, 12])
def test_a_measurement_leaves_the_parameters_as_they_were(fails_at: int | None) -> None:
    """Four evaluations a probe, and every bit back in its place, also when one of them raises."""
    weights = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32).T
    before = weights.tobytes()
    for space in spaces({"w": weights}):
        handed_out = space.arrays["w"]
        calls: list[int] = []

        def loss(space: Space = space, calls: list[int] = calls) -> float:
            calls.append(1)
            if len(calls) == fails_at:
                raise FloatingPointError
            return float(np.sum(np.sin(space.arrays["w"])))

        objective = Objective(loss, space, None, lambda: None)
        probes, steps = probes_of((4, 3), 0), np.full(3, 1e-2)
        if fails_at is None:
            measure(objective, "w", np.zeros((4, 3)), probes, steps, np.zeros(1))
            assert len(calls) == objective.evaluations == 12
        else:
            with pytest.raises(FloatingPointError):
                measure(objective, "w", np.zeros((4, 3)), probes, steps, np.zeros(1))
        assert weights.tobytes() == before
        assert space.arrays["w"] is handed_out
        assert np.array_equal(space.arrays["w"], weights)


def chosen_fields(points: FourPoint, chosen: NDArray[np.bool_] | slice) -> list[list[float]]:
    """All numbers of some differences."""
    return [getattr(points, field.name)[chosen].tolist() for field in dataclasses.fields(points)]


def test_differences_can_be_chosen_replaced_and_joined() -> None:
    """Each of the three keeps the order and every number of what it was given."""
    points, newer = noisy(4, 5, 1.0, 1e-3, 1.0), noisy(5, 2, 1.0, 1e-3, 1.0)
    redone = np.array([False, True, False, False, True])
    merged = points.where(redone, newer)
    assert chosen_fields(merged, redone) == chosen_fields(newer, slice(None))
    assert chosen_fields(merged, ~redone) == chosen_fields(points, ~redone)
    assert chosen_fields(points.take(redone), slice(None)) == chosen_fields(points, redone)
    joined = concatenate([points, newer])
    assert chosen_fields(joined, slice(0, 5)) == chosen_fields(points, slice(None))
    assert chosen_fields(joined, slice(5, 7)) == chosen_fields(newer, slice(None))
