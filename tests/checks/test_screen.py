"""What routine checks see, that single differences do not."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import GradGuard, Report
from gradguard.checks.effort import Effort
from gradguard.checks.examine import examine
from gradguard.checks.screen import GAUSSIAN_EVERY, probe_tensors
from gradguard.checks.streams import TensorState
from gradguard.measurement.precision import CheckTarget
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot

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


def trained(model: Logistic, checks: int, spoilt: Callable[[int, Grads], Grads]) -> list[Report]:
    """A report for each check of a training, which ends with the first bug."""
    guard, reports = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native"), []
    for step in range(checks):
        grads = model.grads()
        report = guard.after_backward(step, spoilt(step, grads))
        assert report is not None
        reports.append(report)
        if report.verdict.is_bug:
            break
        model.params["w"] -= np.float32(0.05) * grads["w"]
    return reports


@pytest.mark.parametrize(("share", "within"), [(1e-3, 5), (1e-4, 20), (3e-5, 150), (-3e-5, 150)])
def test_a_small_drift_that_sets_in_late_is_told_soon(share: float, within: int) -> None:
    """A scale error far below what a single direction resolves, with its size and the step after which it set in."""
    model, calm = Logistic(0), 20
    reports = trained(
        model, calm + within, lambda step, grads: {"w": np.float32(1 - share * (step >= calm)) * grads["w"]}
    )
    last = reports[-1].tensors["w"]
    assert last.verdict == "scale"
    assert last.ratio == pytest.approx(1 + share, abs=0.3 * abs(share))
    assert len(reports) > calm
    assert last.last_fine is not None
    assert last.last_fine < len(reports)


def test_a_right_gradient_is_told_nothing_of() -> None:
    """In as many checks."""
    reports = trained(Logistic(1), 170, lambda _, grads: grads)
    assert len(reports) == 170
    assert not any(report.verdict.is_bug for report in reports)


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_each_check_of_a_tensor_costs_the_same(entries: int) -> None:
    """Whichever directions are its turn, and however few entries the time is enough for."""
    model, rng = Logistic(2), np.random.default_rng(0)
    subject = CheckTarget(
        model.params, dict(model.params), model.loss, None, Rollback(model.grads(), combined_snapshot(None))
    )
    context = subject.context("native")
    state = TensorState.after(examine(context, ["w"], Effort(entries=10), rng)["w"])
    for turn in range(2 * GAUSSIAN_EVERY):
        before = model.evaluations
        evidence, _ = probe_tensors(context, {"w": state}, entries, rng)["w"]
        assert model.evaluations - before == 4 * (1 + entries)
        both = entries > 0 and turn % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1
        assert (evidence.directions.size, evidence.sampled) == (1 + both, entries - both)
    assert (state.aligned.checks, state.gaussian.checks) == ((8, 2) if entries else (6, 2))
