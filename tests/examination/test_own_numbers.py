"""The own numbers of one tensor at a routine check: a direction and a few entries."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.examination.effort import Effort
from gradguard.examination.examine import KnownSteps, examine
from gradguard.examination.own_numbers import GAUSSIAN_EVERY, probe_tensor
from gradguard.examination.tensor_state import TensorState
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.precision import CheckTarget
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot
from gradguard.statistics.rules import ALARM_Z

Grads = dict[str, NDArray[np.float32]]
ROWS, ENTRIES, CONSTANT = 256, 24, 12.0


class Logistic:
    """The mean of logistic losses in float32, beside a constant that makes it as noisy as that of a recurrence."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((ROWS, ENTRIES)).astype(np.float32)
        self.params = {"w": rng.standard_normal(ENTRIES).astype(np.float32)}
        self.y = np.where(rng.random(ROWS) < 0.5, np.float32(1), np.float32(-1))
        self.evaluations = 0

    def loss(self) -> np.float32:
        """Of all rows."""
        self.evaluations += 1
        losses = np.logaddexp(np.float32(0), -self.y * (self.x @ self.params["w"]))
        return np.float32(CONSTANT) + losses.mean()

    def grads(self) -> Grads:
        """By hand."""
        wrong = np.float32(1) / (1 + np.exp(self.y * (self.x @ self.params["w"])))
        return {"w": -(self.y * wrong) @ self.x / np.float32(ROWS)}


def opened(model: Logistic, grads: Grads | None = None) -> MeasurementContext:
    """What a check in native precision measures with."""
    state = Rollback(model.grads() if grads is None else grads, combined_snapshot(None))
    return CheckTarget(model.params, dict(model.params), model.loss, None, state).context("native")


def examined(context: MeasurementContext) -> TensorState:
    """The state after an examination."""
    assert context.near is not None
    effort, rng = Effort(entries=10), np.random.default_rng(0)
    return TensorState.after(examine(context, ["w"], effort, rng, context.near, KnownSteps(), {})["w"])


def started(context: MeasurementContext) -> TensorState:
    """The state of a tensor that was only screened so far."""
    assert context.near is not None
    return TensorState.at_first(TensorUnderTest(context, "w"), 1e-2, context.near)


@pytest.mark.parametrize("state_of", [examined, started])
@pytest.mark.parametrize("entries", [0, 1, 3])
def test_each_check_of_a_tensor_costs_the_same(
    entries: int, state_of: Callable[[MeasurementContext], TensorState]
) -> None:
    """Whichever directions are its turn, however few entries there are, and whether it was examined before."""
    model, rng = Logistic(2), np.random.default_rng(0)
    context = opened(model)
    state = state_of(context)
    for turn in range(2 * GAUSSIAN_EVERY):
        before = model.evaluations
        evidence, _ = probe_tensor(TensorUnderTest(context, "w"), state, entries, rng)
        assert model.evaluations - before == 4 * (1 + entries)
        both = entries > 0 and turn % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1
        assert (evidence.directions.size, evidence.sampled) == (1 + both, entries - both)
    assert (state.aligned.checks, state.gaussian.checks) == ((8, 2) if entries else (6, 2))


@pytest.mark.parametrize("state_of", [examined, started])
def test_a_wrong_gradient_alarms_by_its_own_numbers(state_of: Callable[[MeasurementContext], TensorState]) -> None:
    """Two per cent at the first check, and no right one in forty."""
    model = Logistic(3)
    right, rng = opened(model), np.random.default_rng(1)
    state = state_of(right)
    assert max(probe_tensor(TensorUnderTest(right, "w"), state, 2, rng)[1] for _ in range(40)) < ALARM_Z
    assert state.evidence < 4
    wrong = opened(model, {"w": np.float32(1.02) * model.grads()["w"]})
    assert probe_tensor(TensorUnderTest(wrong, "w"), state, 2, rng)[1] > ALARM_Z


def test_a_small_error_adds_up_in_the_evidence() -> None:
    """A twenty-thousandth of the gradient, which no single probe shows."""
    model, rng = Logistic(4), np.random.default_rng(0)
    context = opened(model, {"w": np.float32(1 - 5e-5) * model.grads()["w"]})
    state = examined(context)
    largest = max(probe_tensor(TensorUnderTest(context, "w"), state, 2, rng)[1] for _ in range(60))
    assert largest < ALARM_Z
    assert state.evidence > 7


def test_a_tensor_that_outgrew_its_step_is_lost() -> None:
    """A step that its dtype rounds away tells nothing, and the state says that it must be searched anew."""
    model, rng = Logistic(5), np.random.default_rng(0)
    state = examined(opened(model))
    assert not state.is_lost
    grads = model.grads()
    model.params["w"][...] *= np.float32(1e6)
    evidence, largest = probe_tensor(TensorUnderTest(opened(model, grads), "w"), state, 2, rng)
    assert state.is_lost
    assert (evidence.directions.size, largest) == (0, 0.0)
