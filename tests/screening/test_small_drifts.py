"""Errors far below what one screen shows, that set in during a training: many screens together tell them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import GradGuard, Report, Thresholds, Verdict

Grads = dict[str, NDArray[np.float32]]
ROWS, ENTRIES, CONSTANT, CALM = 256, 24, 12.0, 20


class Logistic:
    """The mean of logistic losses in float32, beside a constant that makes it as noisy as that of a recurrence.

    The weights lie in some tensors of equal size.
    """

    def __init__(self, seed: int, tensors: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((ROWS, ENTRIES)).astype(np.float32)
        self.weights = rng.standard_normal(ENTRIES).astype(np.float32)
        self.params = {f"w{i}": part for i, part in enumerate(np.split(self.weights, tensors))}
        self.y = np.where(rng.random(ROWS) < 0.5, np.float32(1), np.float32(-1))

    def loss(self) -> np.float32:
        """Of all rows."""
        losses = np.logaddexp(np.float32(0), -self.y * (self.x @ self.weights))
        return np.float32(CONSTANT) + losses.mean()

    def grads(self) -> Grads:
        """By hand."""
        wrong = np.float32(1) / (1 + np.exp(self.y * (self.x @ self.weights)))
        gradient = -(self.y * wrong) @ self.x / np.float32(ROWS)
        return dict(zip(self.params, np.split(gradient, len(self.params)), strict=True))


USUAL, EVERYTHING = Thresholds(), Thresholds(relevant=0)


def trained(
    model: Logistic, checks: int, spoilt: Callable[[int, Grads], Grads], thresholds: Thresholds = EVERYTHING
) -> list[Report]:
    """A report for each check of a training, which ends with the first bug."""
    options: Any = {
        "every_n_steps": 1,
        "max_overhead": None,
        "precision": "native",
        "thresholds": thresholds,
        "seed": 1,
    }
    guard, reports = GradGuard(model.params, model.loss, **options), []
    for step in range(checks):
        grads = model.grads()
        report = guard.after_backward(step, spoilt(step, grads))
        assert report is not None
        reports.append(report)
        if report.verdict.is_bug:
            break
        for name, grad in grads.items():
            model.params[name] -= np.float32(0.05) * grad
    return reports


@pytest.mark.parametrize(("share", "within"), [(1e-3, 5), (1e-4, 20), (3e-5, 150), (-3e-5, 150)])
def test_a_small_drift_that_sets_in_late_is_told_soon(share: float, within: int) -> None:
    """A scale error far below what a single direction resolves, with its size and the step after which it set in."""
    reports = trained(
        Logistic(0), CALM + within, lambda step, grads: {"w0": np.float32(1 - share * (step >= CALM)) * grads["w0"]}
    )
    last = reports[-1].tensors["w0"]
    assert last.verdict == "scale"
    assert last.ratio == pytest.approx(1 + share, abs=0.3 * abs(share))
    assert len(reports) > CALM
    assert last.last_fine is not None
    assert last.last_fine < len(reports)


def test_a_drift_that_is_not_relevant_is_no_bug() -> None:
    """By default an error of a ten-thousandth of the gradient is found, and not told as one."""
    reports = trained(
        Logistic(0), CALM + 30, lambda step, grads: {"w0": np.float32(1 - 1e-4 * (step >= CALM)) * grads["w0"]}, USUAL
    )
    assert {report.verdict for report in reports} == {Verdict.ok}
    assert "small_error" in {report.tensors["w0"].cause_key for report in reports}


@pytest.mark.parametrize(("share", "within"), [(3e-3, 10), (1e-3, 60)])
def test_a_drift_of_one_of_several_tensors_is_told_of_that_one(share: float, within: int) -> None:
    """All share the probes of the screen, and only the wrong one is named; it need not wait for its turn."""
    reports = trained(
        Logistic(0, 6),
        CALM + within,
        lambda step, grads: grads | {"w4": np.float32(1 - share * (step >= CALM)) * grads["w4"]},
    )
    assert len(reports) > CALM
    assert {name for name, tensor in reports[-1].tensors.items() if tensor.verdict.is_bug} == {"w4"}
    assert reports[-1].tensors["w4"].verdict == "scale"


@pytest.mark.parametrize("tensors", [1, 6])
def test_a_right_gradient_is_told_nothing_of(tensors: int) -> None:
    """In as many checks."""
    reports = trained(Logistic(1, tensors), 170, lambda _, grads: grads)
    assert len(reports) == 170
    assert not any(report.verdict.is_bug for report in reports)
