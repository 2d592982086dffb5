"""Differences at the steps that were found for them: which count, and which are called a kink."""

from collections.abc import Callable

import numpy as np
import pytest

from gradguard import check
from gradguard.differences.four_point import FourPoint
from gradguard.measurement.measured import Measured

STEP = 0.1


def settled_along(loss: Callable[[float], float], sigma: float = 1e-6) -> Measured:
    """One difference of a function about 0."""
    along = np.array([loss(c * STEP) for c in (-2, -1, 0, 1, 2)])
    odd1, odd2 = along[3] - along[1], along[4] - along[0]
    even1, even2 = along[3] - 2 * along[2] + along[1], along[4] - 2 * along[2] + along[0]
    columns = (STEP, odd1, odd2, even1, even2, 0.0, 0.0, 2 * STEP, 4 * STEP, 0.0)
    points = FourPoint(*(np.array([float(value)]) for value in columns))
    return Measured(points, sigma, 0.0, np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1) > 0)


@pytest.mark.parametrize("place", [0.0, 0.09, -0.15])
@pytest.mark.parametrize("curvature", [0.0, 1.0])
def test_a_corner_within_the_step_is_a_kink(place: float, curvature: float) -> None:
    """Wherever it lies, alone or on a curved loss."""
    found = settled_along(lambda x: abs(x - place) + curvature * x**2)
    assert found.kinked.all()
    assert not found.resolved.any()


def test_a_loss_that_levels_off_within_the_step_is_no_kink() -> None:
    """A step as a whole, longer steps than which see a plateau on both sides: its differences count for nothing."""
    found = settled_along(lambda x: float(np.tanh(60 * x + 0.7)))
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
    assert (tensor.kinks, tensor.unresolved) == (0, 0)
