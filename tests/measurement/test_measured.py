"""Differences at the steps that were found for them: which count, and which are called a kink."""

from collections.abc import Callable

import numpy as np
import pytest

from gradguard import check
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps
from gradguard.measurement.measured import Measured, ProbePlan
from gradguard.measurement.precision import CheckTarget
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation.directions import EntryProbe
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot

STEP = 0.1


def measured_at_zero(loss: Callable[[float], float], sigma: float = 1e-6) -> Measured:
    """One difference of a function about 0, with a step of STEP and a known noise."""
    params = {"x": np.zeros(1)}
    state = Rollback({"x": np.zeros(1)}, combined_snapshot(None))
    target = CheckTarget(params, dict(params), lambda: loss(float(params["x"][0])), None, state)
    tensor = TensorUnderTest(target.context("native"), "x")
    noise = Noise(sigma, 0.0, np.dtype(np.float64), 0.0)
    plan = ProbePlan(tensor, [EntryProbe((0,))], noise, 0.0, Steps(STEP, STEP, STEP))
    return Measured.first(plan, plan.measure([0], np.array([STEP])), sigma)


@pytest.mark.parametrize("place", [0.0, 0.09, -0.15])
@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_a_corner_within_the_step_is_a_kink(place: float, curvature: float) -> None:
    """Wherever it lies, alone or on a curved loss."""
    found = measured_at_zero(lambda x: abs(x - place) + curvature * x**2)
    assert found.kinked.all()
    assert not found.resolved.any()


def test_a_loss_that_levels_off_within_the_step_is_no_kink() -> None:
    """A step as a whole, longer steps than which see a plateau on both sides: its differences count for nothing."""
    found = measured_at_zero(lambda x: float(np.tanh(60 * x + 0.7)))
    assert not found.resolved.any()
    assert not found.kinked.any()


@pytest.mark.parametrize(
    ("base", "quanta", "at"),
    [(47.4, 257.0, (-1.4021866, -0.5460071, -0.45679003)), (11.8, 479.0, (-0.11537165, -1.8987831, -0.249807))],
)
def test_a_longer_step_that_proves_too_long_is_not_taken(base: float, quanta: float, at: tuple[float, ...]) -> None:
    """Where a smooth loss is flat it is tried further out; what bends there is no kink, and nothing is left out."""
    params, weights = {"w": np.array(at, np.float32)}, np.array([-2, -0.5, 1])
    weights *= quanta * float(np.spacing(np.float32(base)))

    def loss() -> np.float32:
        return np.float32(base + weights @ np.tanh(3 * params["w"].astype(np.float64)))

    gradient = (3 * weights / np.cosh(3 * params["w"].astype(np.float64)) ** 2).astype(np.float32)
    tensor = check(params, {"w": gradient}, loss, precision="native").tensors["w"]
    assert not tensor.verdict.is_bug
    assert tensor.kinks == 0
