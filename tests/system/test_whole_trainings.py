"""Whole trainings with everything that goes on from step to step, under guard and alone, with faults in between."""

import functools
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recorder import Recorder
from signal_storm import StopError, Storm

from gradguard import Alert, GradGuard, JSONLWriter, Verdict, batched, snapshot_attributes, snapshot_rng
from gradguard.writers import read_jsonl

Params = Mapping[str, NDArray[Any]]
STEPS = 8
EVALUATIONS = 60  # about those of a routine check of all four tensors


class Training:
    """Momentum on a recurrent cell with dropout, whose loss draws from every stream and carries its hidden state on.

    Its tensors are a view, a transposed one, a number and none at all.
    """

    def __init__(self, form: str) -> None:
        base = np.linspace(-0.6, 0.9, 12, dtype=np.float32)
        self.params: dict[str, NDArray[Any]] = {
            "w": base[::4],
            "u": base.copy().reshape(3, 4)[:, :2].T,
            "s": np.array(0.7, np.float32),
            "none": np.zeros((0, 3), np.float32),
        }
        self.objects = dict(self.params)
        self.momentum = {name: np.zeros_like(param) for name, param in self.params.items()}
        self.hidden = np.zeros(3, np.float32)
        self.rng = np.random.default_rng(3)
        self.grads: dict[str, NDArray[Any]] = {}
        self.form = form
        self.calls, self.fails_at = Recorder(), 0
        self.outcome: Any = None
        np.random.seed(7)  # noqa: NPY002 - users have it
        random.seed(7)

    def loss_at(self, params: Params) -> Any:
        """Of one copy of the parameters, or of many on a leading axis; it fails where it is to."""
        self.calls.append()
        if len(self.calls) == self.fails_at:
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return np.full(params["s"].shape, self.outcome, np.float32)
        mask = self.rng.random(3) < 0.8
        scale = np.float32(1 + np.random.random() + random.random())  # noqa: NPY002, S311 - the point
        hidden = np.tanh(params["w"] * scale + np.float32(0.5) * self.hidden) * mask
        self.hidden = hidden if hidden.ndim == 1 else hidden[0]
        self.partial = mask, scale
        return (hidden * params["u"].sum(axis=-2)).sum(axis=-1) + params["s"] ** 2

    def loss(self) -> Any:
        """Of the live parameters."""
        return self.loss_at(self.params)

    def backward(self) -> None:
        """The gradients of this step, with all streams and states as they were."""
        restores = [take() for take in self.snapshots()]
        self.loss()
        mask, scale = self.partial
        slope = (1 - self.hidden**2) * self.params["u"].sum(axis=0) * mask * scale
        self.grads = {
            "w": slope,
            "u": np.tile(self.hidden, (2, 1)),
            "s": 2 * self.params["s"],
            "none": np.zeros((0, 3), np.float32),
        }
        for restore in restores:
            restore()

    def snapshots(self) -> list[Any]:
        """Of all that the loss disturbs."""
        return [snapshot_attributes(self, "hidden", "rng"), snapshot_rng(np.random), snapshot_rng(random)]

    def guard(self, **options: Any) -> GradGuard:
        """One that checks at every step."""
        loss: Callable[..., object] = self.loss_at if "loss(params)" in self.form else self.loss
        loss = batched(self.loss_at) if "batched" in self.form else loss
        precision = "float64" if "float64" in self.form else "native"
        given: Any = {"every_n_steps": 1, "max_overhead": None, "precision": precision, "snapshot": self.snapshots()}
        return GradGuard(self.params, loss, **given | options)

    def update(self) -> None:
        """The forward pass for good, and one step of the optimizer."""
        self.loss()
        rate = np.float32(0.05 * random.random() * np.random.random())  # noqa: NPY002, S311 - the point
        for name, grad in self.grads.items():
            self.momentum[name] *= np.float32(0.9)
            self.momentum[name] += grad
            self.params[name][...] -= rate * self.momentum[name]

    def bits(self) -> list[object]:
        """All that goes on."""
        assert all(self.params[name] is array for name, array in self.objects.items())
        arrays = [*self.params.values(), *self.grads.values(), *self.momentum.values(), self.hidden]
        _, key, *place = np.random.get_state()  # noqa: NPY002 - users have it
        streams = [self.rng.bit_generator.state, key.tobytes(), place, random.getstate()]
        return [*(array.tobytes() for array in arrays), *streams]


def trained(training: Training, check: Callable[[int], object] | None = None) -> list[list[object]]:
    """All that goes on, after each step."""
    trace = []
    for step in range(STEPS):
        training.backward()
        if check is not None:
            check(step)
        trace.append(training.bits())
        training.update()
    return trace


FORMS = ["native", "native, loss(params)", "native, batched", "float64", "float64, loss(params)", "float64, batched"]


@functools.cache
def trained_alone(form: str) -> list[list[object]]:
    """All that goes on, after each step, without a guard."""
    return trained(Training(form))


@functools.cache
def calls_of_a_first_check(form: str) -> int:
    """How often a first check calls the loss."""
    training = Training(form)
    guard = training.guard()
    training.backward()
    before = len(training.calls)
    guard.after_backward(0, training.grads)
    return len(training.calls) - before


@pytest.mark.parametrize("form", FORMS)
def test_a_whole_training_goes_on_bit_for_bit_as_without_a_guard(form: str) -> None:
    """Parameters, gradients, momentum, hidden state and all streams, after each step; and the checks find nothing."""
    alone = trained_alone(form)
    training = Training(form)
    guard = training.guard()
    assert trained(training, lambda step: guard.after_backward(step, training.grads)) == alone
    assert [row.verdict for row in guard.history] == [Verdict.ok] * STEPS
    assert guard.report is not None
    assert guard.report.precision == form.partition(",")[0]


@pytest.mark.parametrize("outcome", [StopError(), KeyboardInterrupt(), np.nan])
@pytest.mark.parametrize("form", FORMS)
def test_a_loss_that_fails_at_any_evaluation_changes_nothing(form: str, outcome: Any) -> None:
    """Whether it raises, is interrupted or is not finite there, in the first check or a later one; nor is it a bug."""
    rng = np.random.default_rng(FORMS.index(form))
    alone, first = trained_alone(form), calls_of_a_first_check(form)
    for failing in range(3):
        training, bugs = Training(form), []
        guard = training.guard()

        def check(step: int, training: Training = training, guard: GradGuard = guard, failing: int = failing) -> None:
            if step == failing:
                most = first if step == 0 else EVALUATIONS // (4 if "batched" in form else 1)
                training.fails_at = len(training.calls) + int(rng.integers(1, most))
                training.outcome = outcome
            try:
                report = guard.after_backward(step, training.grads)
            except (StopError, KeyboardInterrupt):
                assert step == failing
            else:
                assert report is not None
                bugs.append(report.verdict.is_bug)  # noqa: B023 - called before the next turn
            training.fails_at = 0

        assert trained(training, check) == alone
        assert not any(bugs)
        assert len(bugs) >= STEPS - 1


@pytest.mark.parametrize("form", FORMS)
def test_real_signals_in_the_middle_of_checks_change_nothing(form: str) -> None:
    """A timer's handler that raises, at a random moment of each check, of batched ones too."""
    rng, storm = np.random.default_rng(0), Storm()
    alone = trained_alone(form)
    with storm.handled():
        for _ in range(3):
            training = Training(form)
            guard = training.guard()

            def check(step: int, training: Training = training, guard: GradGuard = guard) -> None:
                after = rng.uniform(1e-4, 5e-3 if guard.history else 0.2)
                storm.run(lambda: guard.after_backward(step, training.grads), 1, after)

            assert trained(training, check) == alone
    assert storm.raised > 2


@pytest.mark.parametrize("form", ["native", "float64, batched"])
def test_what_on_alert_raises_comes_out_with_everything_in_place_and_on_record(form: str, tmp_path: Path) -> None:
    """Whoever catches it finds the training as it would be alone, and the check in the log."""

    def tell(alert: Alert) -> None:
        raise StopError(alert.message)

    alone = trained_alone(form)
    training, raised = Training(form), []
    guard = training.guard(on_alert=tell, writers=[JSONLWriter(tmp_path / "log.jsonl")])

    def check(step: int) -> None:
        wrong = training.grads | {"w": 3 * training.grads["w"]} if step == 4 else training.grads
        try:
            guard.after_backward(step, wrong)
        except StopError:
            raised.append(step)
            assert read_jsonl(tmp_path / "log.jsonl")[-1]["step"] == step

    assert trained(training, check) == alone
    assert raised[0] == 4
    assert [report["step"] for report in read_jsonl(tmp_path / "log.jsonl")] == list(range(STEPS))
