import dataclasses
import math

import numpy as np
import pytest
from four_points import differences, measure, noisy, probes_of, seeds
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.arrays.types import Array
from gradguard.differences.four_point import FourPoint, concatenate
from gradguard.loss.objective import Objective
from gradguard.perturbation.directions import EntryProbe
from gradguard.perturbation.protocols import Space
from gradguard.perturbation.spaces import Float64Copies, InPlace, NativeCopies
from gradguard.testing import LSTM, random_batch


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
