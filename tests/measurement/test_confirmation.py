"""Disagreements measured again at shorter steps: what a bug keeps, and what truncation and kinks do not."""

from collections.abc import Callable

import numpy as np
import pytest

from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps
from gradguard.measurement.confirmation import is_confirmed, remeasure_suspects
from gradguard.measurement.measured import Measured, ProbePlan
from gradguard.measurement.precision import CheckTarget
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation.directions import EntryProbe
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot

STEP = 0.1
NOISE = 1e-6


def measured_at_zero(loss: Callable[[float], float], gradient: float) -> Measured:
    """One difference of a function about 0 against a gradient, with a step of STEP and a known noise."""
    params, grads = {"x": np.zeros(1)}, {"x": np.full(1, gradient)}
    state = Rollback(grads, combined_snapshot(None))
    target = CheckTarget(params, dict(params), lambda: loss(float(params["x"][0])), None, state)
    plan = ProbePlan(
        TensorUnderTest(target.context("native"), "x"),
        [EntryProbe((0,))],
        Noise(NOISE, 0.0, np.dtype(np.float64), 0.0),
        0.0,
        Steps(STEP, STEP / 1000, STEP),
    )
    return Measured.first(plan, plan.measure([0], np.array([STEP])), NOISE)


@pytest.mark.parametrize("gradient", [0.0, 0.9, -1.0, 1.0001])
def test_a_bug_keeps_its_disagreement_at_shorter_steps(gradient: float) -> None:
    """The loss is not to blame, and the disagreement is confirmed."""
    again, moves = remeasure_suspects(measured_at_zero(lambda x: x + 0.1 * x**2, gradient))
    assert not moves
    assert again.moved == pytest.approx([0.0], abs=1e-4)
    if abs(gradient - 1) > 0.01:
        assert again.confirmed.all()
        assert is_confirmed(again)


@pytest.mark.parametrize("loss", [lambda x: np.sin(25 * x) / 25, lambda x: max(x, 1.5 * x - 0.03), lambda x: x + x**5])
def test_truncation_and_kinks_move_a_difference(loss: Callable[[float], float]) -> None:
    """Its error bar then covers what it is off by, though the gradient is right."""
    before = measured_at_zero(loss, 1.0)
    off = abs(float(before.points.n[0]) - 1)
    assert off > 5 * NOISE / STEP
    again, moves = remeasure_suspects(before)
    assert moves
    assert again.moved[0] > 0.5 * off
    assert not is_confirmed(again)
