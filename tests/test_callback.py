import gc
import logging
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import (
    Alert,
    GradGuard,
    GradientError,
    JSONLWriter,
    Report,
    Thresholds,
    Verdict,
    gates,
    snapshot_attributes,
    snapshot_rng,
)
from gradguard.testing import LSTM, Batch, random_batch
from gradguard.writers import read_jsonl

Params = dict[str, NDArray[Any]]
Break = Callable[[int, Params], Params]

TIMESTEPS = 5
WATCHED = ("Wh", "b", "V")


def batch_of(seed: int, timesteps: int = TIMESTEPS) -> Batch:
    """A small batch."""
    return random_batch(timesteps, 4, inputs=3, outputs=3, seed=seed)


def right(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """Nothing is broken."""
    return grads


def averaged(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """The bug of the question."""
    return {name: grad / np.float32(TIMESTEPS) if name in ("Wh", "b") else grad for name, grad in grads.items()}


def clipped(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """All gradients together are clipped to a norm of a hundredth."""
    norm = np.sqrt(sum(float(np.sum(grad.astype(np.float64) ** 2)) for grad in grads.values()))
    return {name: np.float32(min(1, 0.01 / norm)) * grad for name, grad in grads.items()}


def sgd(params: Params, grads: Params, rate: float = 0.1) -> None:
    """One step of the optimizer, in place."""
    for name, grad in grads.items():
        params[name] -= np.float32(rate) * grad


@dataclass
class Training:
    """A training of a real LSTM, a guard beside it, and what came of both."""

    model: LSTM = field(default_factory=lambda: LSTM(3, 2, 3))
    batch: Batch = field(default_factory=lambda: batch_of(0))
    reports: list[Report | None] = field(default_factory=list)

    def loss(self) -> Any:
        """On the batch of the step."""
        return self.model.loss(self.batch)

    def loss_at(self, params: Params) -> Any:
        """The same at other parameters."""
        return self.model.loss(self.batch, self.model.params | params)

    @property
    def watched(self) -> Params:
        """Some of the tensors: three are cheaper to check than all five."""
        return {name: self.model.params[name] for name in WATCHED}

    def grads(self) -> Params:
        """Of the watched tensors."""
        _, grads = self.model.loss_and_grads(self.batch)
        return {name: grads[name] for name in WATCHED}

    def run(self, guard: GradGuard, steps: range, broken: Break = right) -> list[Report]:
        """Train with a guard; the reports of the checks that were made."""
        for step in steps:
            self.batch = batch_of(step)
            grads = broken(step, self.grads())
            self.reports.append(guard.after_backward(step, grads))
            sgd(self.model.params, grads)
        return [report for report in self.reports if report is not None]


def guard_of(training: Training, **options: Any) -> GradGuard:
    """A guard that checks at every step, whatever it costs: live arrays in native precision, copies in float64."""
    options = {"every_n_steps": 1, "max_overhead": None, "precision": "native"} | options
    loss = training.loss if options["precision"] == "native" else training.loss_at
    return GradGuard(training.watched, loss, **options)


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is logged is captured."""
    caplog.set_level(logging.INFO, logger="gradguard")


# Law 1: training is never changed.

FORMS: dict[str, dict[str, Any]] = {
    "native": {"precision": "native"},
    "native, unreduced": {"precision": "native", "reduction": "mean"},
    "native, loss(params)": {"precision": "native", "takes": True},
    "float64 by swap": {"precision": "float64"},
    "float64 by swap, unreduced": {"precision": "float64", "reduction": "mean"},
    "float64, loss(params)": {"precision": "float64", "takes": True},
}


class StopError(Exception):
    """Something goes wrong inside the loss."""


class Dice:
    """A training that hangs on three random streams, and on which every disturbance would leave its mark."""

    def __init__(self, takes: bool = False, reduction: str | None = None) -> None:
        self.model = LSTM(2, 1, 2)
        self.objects = dict(self.model.params)
        self.own = np.random.default_rng(5)
        self.batch = random_batch(2, 1, inputs=2, outputs=2)
        self.trace: list[bytes] = []
        self.calls = self.fails_at = 0
        self.error: BaseException | None = None
        self.evaluate: Any = self.model.losses if reduction else self.model.loss
        self.loss: Callable[..., object] = self.at if takes else lambda: self.at(self.model.params)
        np.random.seed(5)  # noqa: NPY002 - users have it
        random.seed(5)

    def at(self, params: Params) -> object:
        """The loss, unless it is to fail here."""
        self.calls += 1
        if self.error is not None and self.calls == self.fails_at:
            raise self.error
        return self.evaluate(self.batch, params)

    def run(self, guard: GradGuard | None, steps: int = 7) -> list[bytes]:
        """Train; every bit of parameters, gradients and streams on the way."""
        for step in range(steps):
            self.batch = random_batch(2, 1, inputs=2, outputs=2, seed=int(self.own.integers(1000)))
            _, grads = self.model.loss_and_grads(self.batch)
            before = [grad.tobytes() for grad in grads.values()]
            if guard is not None:
                try:
                    guard.after_backward(step, grads, self.loss)
                except (StopError, KeyboardInterrupt):
                    self.trace.append(b"stopped")
            assert before == [grad.tobytes() for grad in grads.values()]
            assert all(self.model.params[name] is array for name, array in self.objects.items())
            assert list(self.model.params) == list(self.objects)
            sgd(self.model.params, grads, 0.1 * random.random() * np.random.random())  # noqa: NPY002, S311 - the point
            self.trace += [array.tobytes() for array in self.objects.values()]
        self.trace += [self.own.bytes(8), np.random.bytes(8), random.randbytes(8)]  # noqa: NPY002, S311 - the point
        return self.trace


@pytest.mark.parametrize("form", FORMS)
def test_training_is_bit_for_bit_the_same_with_and_without_a_guard(form: str) -> None:
    """Parameters, gradients and the streams of NumPy, `random` and the training's own generator."""
    options = dict(FORMS[form])
    takes = options.pop("takes", False)
    reduction = options.get("reduction")
    alone = Dice(takes, reduction).run(None)
    guarded = Dice(takes, reduction)
    guard = GradGuard(guarded.model.params, every_n_steps=2, max_overhead=None, **options)
    assert guarded.run(guard) == alone
    assert [row.step for row in guard.history] == [0, 2, 4, 6]
    assert guard.report is not None
    assert guard.report.precision == options["precision"]
    assert guard.report.verdict.is_bug is False


@pytest.mark.parametrize("form", ["native", "float64 by swap", "float64, loss(params)"])
def test_training_is_the_same_when_the_loss_raises_in_the_middle_of_a_check(form: str) -> None:
    """An error, or Ctrl-C, at any evaluation of the first check or of a later one comes out and leaves no trace."""
    options = dict(FORMS[form])
    takes = options.pop("takes", False)
    alone = Dice(takes).run(None, steps=3)
    calm = Dice(takes)
    guard = GradGuard(calm.model.params, every_n_steps=1, max_overhead=None, **options)
    calm.run(guard, steps=3)
    first, total = guard.history[0].evaluations, calm.calls
    assert total == sum(row.evaluations for row in guard.history)
    places = [1, first // 3, first - 1, first, first + 1, first + 2, first + 30, total]
    for index, place in enumerate(places):
        error = StopError() if index % 2 else KeyboardInterrupt()
        shaken = Dice(takes)
        shaken.fails_at, shaken.error = place, error
        guard = GradGuard(shaken.model.params, every_n_steps=1, max_overhead=None, **options)
        trace = shaken.run(guard, steps=3)
        assert trace.count(b"stopped") == 1
        assert [bits for bits in trace if bits != b"stopped"] == alone
        assert len(guard.history) == 2


def test_a_guard_goes_on_after_a_loss_that_raised() -> None:
    """Whoever catches the error keeps a guard that still finds bugs."""
    training, fail = Training(), [True]

    def loss() -> object:
        if fail.pop() if fail else False:
            raise StopError
        return training.loss()

    guard = GradGuard(training.watched, loss, every_n_steps=1, max_overhead=None)
    grads = training.grads()
    with pytest.raises(StopError):
        guard.after_backward(0, grads)
    assert guard.report is None
    report = guard.after_backward(0, averaged(0, grads))
    assert report is not None
    assert report.verdict is Verdict.scale


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_an_array_that_is_rebound_between_steps_is_followed(precision: str) -> None:
    """`params[name] = new` instead of an update in place: the new arrays are checked, and are there afterwards."""
    training = Training()
    guard = GradGuard(training.model.params, training.loss, every_n_steps=1, max_overhead=None, precision=precision)
    for step in range(4):
        _, grads = training.model.loss_and_grads(training.batch)
        if step == 3:
            grads["Wh"] = 3 * grads["Wh"]
        objects = dict(training.model.params)
        report = guard.after_backward(step, grads)
        assert report is not None
        assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == (
            {"Wh"} if step == 3 else set()
        )
        assert all(training.model.params[name] is array for name, array in objects.items())
        for name, grad in grads.items():
            training.model.params[name] = training.model.params[name] - np.float32(0.1) * grad


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_loss_given_for_one_step_is_let_go(precision: str) -> None:
    """A closure over a batch, and all that hangs on it, is not kept for the rest of the training."""
    training = Training()
    guard = GradGuard(training.model.params, every_n_steps=1, max_overhead=None, precision=precision)
    batch = batch_of(1)
    gone = weakref.ref(batch.x)
    guard.after_backward(0, training.model.loss_and_grads(batch)[1], lambda batch=batch: training.model.loss(batch))
    del batch
    gc.collect()
    assert gone() is None


# When a check is made, and what is kept of it.


def test_checks_come_on_schedule_and_every_one_is_a_row_of_history() -> None:
    """From the start step on; at other steps `after_backward` returns None and changes nothing."""
    training = Training()
    guard = guard_of(training, every_n_steps=3, start_step=2)
    assert guard.report is None
    training.run(guard, range(12))
    assert [step for step, report in enumerate(training.reports) if report is not None] == [2, 5, 8, 11]
    assert [row.step for row in guard.history] == [2, 5, 8, 11]
    assert guard.report is training.reports[11]
    for row in guard.history:
        report = training.reports[row.step]
        assert report is not None
        assert (row.verdict, row.evaluations, row.seconds) == (report.verdict, report.evaluations, report.seconds)
        assert row.verdicts == {name: tensor.verdict for name, tensor in report.tensors.items()}
        assert row.ratios == {name: tensor.ratio for name, tensor in report.tensors.items()}
        assert row.alarms == ()


def test_the_first_check_is_deep_and_later_ones_are_cheap() -> None:
    """A routine check measures a few probes of each tensor; without a bound it is every tensor's turn."""
    training = Training()
    guard = guard_of(training)
    first, *later = training.run(guard, range(4))
    assert all(tensor.deep for tensor in first.tensors.values())
    for report in later:
        assert not any(tensor.deep for tensor in report.tensors.values())
        assert report.evaluations == 2 + len(WATCHED) * 4 * (1 + 3)
    assert first.evaluations > 5 * later[0].evaluations


def test_a_schedule_may_be_a_rule() -> None:
    """Any callable from a step to a bool."""
    training = Training()
    guard = guard_of(training, every_n_steps=lambda step: step in (1, 2, 4))
    training.run(guard, range(6))
    assert [row.step for row in guard.history] == [1, 2, 4]


def test_a_tight_budget_skips_checks() -> None:
    """After the first, which is free, a share of a billionth leaves no time for any."""
    training = Training()
    guard = guard_of(training, max_overhead=1e-9)
    training.run(guard, range(5))
    assert [row.step for row in guard.history] == [0]
    assert guard.report is not None
    assert guard.report.overhead is None


def test_the_share_of_time_that_checks_took_is_told() -> None:
    """From the second check on, it is a share."""
    training = Training()
    _, *later = training.run(guard_of(training), range(4))
    shares = [report.overhead for report in later]
    assert shares[0] == 0
    assert all(share is not None and 0 < share < 1 for share in shares[1:])


def test_the_same_seed_makes_the_same_checks() -> None:
    """And another seed other probes."""

    def ratios(seed: int) -> list[dict[str, float]]:
        training = Training()
        guard = guard_of(training, seed=seed)
        training.run(guard, range(3))
        return [dict(row.ratios) for row in guard.history]

    assert ratios(1) == ratios(1) != ratios(2)


# Bugs.


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_bug_that_comes_and_goes_is_told_once_each_time(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    """At the first check it is there, by name, at ERROR; not again while it lasts; its end at INFO."""
    training = Training()
    guard = guard_of(training, precision=precision, constants={"timesteps": TIMESTEPS, "batch": 4})
    reports = training.run(guard, range(9), lambda step, grads: averaged(step, grads) if 3 <= step < 6 else grads)
    assert [report.verdict for report in reports[:3]] == [Verdict.ok] * 3
    assert [report.verdict for report in reports[3:6]] == [Verdict.scale] * 3
    assert not any(report.verdict.is_bug for report in reports[6:])
    assert set(guard.history[3].alarms) == {"Wh", "b"}
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "gradguard"]
    errors = [message for level, message in told if level == "ERROR"]
    assert [message.split(":")[0] for message in errors] == ["step 3 Wh", "step 3 b"]
    assert all("`timesteps`" in message and "number of timesteps" in message for message in errors)
    endings = [message for level, message in told if level == "INFO"]
    assert {message.split(":")[0] for message in endings} == {"step 6 Wh", "step 6 b"}
    assert all("recovered" in message for message in endings)
    assert len(told) == 4
    assert [len(report.alerts) for report in reports] == [0, 0, 0, 2, 0, 0, 2, 0, 0]


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_factor_that_has_no_name_is_told_once_too(precision: str, caplog: pytest.LogCaptureFixture) -> None:
    """A gradient 1.37 times too large is news once."""
    training = Training()
    training.run(
        guard_of(training, precision=precision),
        range(5),
        lambda _, grads: grads | {"Wh": np.float32(1.37) * grads["Wh"]},
    )
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_clipped_training_is_told_once() -> None:
    """One tensor that is lost in the noise at one check does not set off news about all the others."""
    training = Training()
    reports = training.run(guard_of(training), range(7), clipped)
    for name in training.model.params:
        assert sum(alert.tensor == name for report in reports for alert in report.alerts) <= 1
    assert "norm of 0.01" in reports[0].explanation


def test_a_correct_training_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """Not a word in forty checks, and no alarm that a deep check would have had to clear."""
    training = Training()
    guard = guard_of(training)
    reports = training.run(guard, range(40))
    assert not any(report.verdict.is_bug for report in reports)
    assert [record.getMessage() for record in caplog.records] == []
    assert sum(len(row.alarms) for row in guard.history) <= 1


def test_a_small_error_is_found_by_the_evidence_of_several_checks() -> None:
    """Half a per cent in the native precision of a float32 LSTM, which no single entry need show."""
    training = Training()
    guard = guard_of(training)
    reports = training.run(
        guard, range(14), lambda step, grads: grads | {"V": np.float32(1.005) * grads["V"]} if step > 1 else grads
    )
    found = [report.step for report in reports if report.tensors["V"].verdict.is_bug]
    assert found
    assert found[0] > 1
    assert all(
        not tensor.verdict.is_bug for report in reports for name, tensor in report.tensors.items() if name != "V"
    )
    wrong = reports[found[0]].tensors["V"]
    assert wrong.ratio == pytest.approx(1 / 1.005, abs=1e-3)
    assert wrong.last_fine is not None
    assert 0 < wrong.last_fine < found[0]
    assert any(f"it set in after step {wrong.last_fine}" in alert.message for alert in reports[found[0]].alerts)


def test_the_constants_of_a_step_name_its_ratio() -> None:
    """With sequences of changing length the ratio follows the timesteps, not the batch that it equals at first."""
    model = LSTM(3, 2, 3)
    guard = GradGuard(model.params, every_n_steps=1, max_overhead=None, precision="float64", constants={"batch": 4})
    for step, timesteps in enumerate((4, 6)):
        batch = batch_of(step, timesteps)
        grads = {name: grad / np.float32(timesteps) for name, grad in model.loss_and_grads(batch)[1].items()}
        loss = lambda batch=batch: model.loss(batch)  # noqa: E731 - as users write it
        report = guard.after_backward(step, grads, loss, constants={"timesteps": timesteps})
        assert report is not None
        for tensor in report.tensors.values():
            assert tensor.verdict is Verdict.scale
            assert f"; {timesteps} is " in tensor.explanation
            assert "`timesteps`" in tensor.explanation
            assert ("`batch`" in tensor.explanation) == (step == 0)


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_named_blocks_are_reported(precision: str) -> None:
    """The sentence says which gate is wrong: one of little weight, soon after it goes wrong."""
    training = Training()
    guard = guard_of(training, precision=precision, blocks={"Wh": gates("ifog", axis=1)})

    def forget_gate(step: int, grads: Params) -> Params:
        broken = grads["Wh"].copy()
        broken[:, 2:4] *= -1 if step >= 2 else 1
        return grads | {"Wh": broken}

    reports = training.run(guard, range(6), forget_gate)
    assert list(reports[0].tensors["Wh"].blocks) == [*"ifog"]
    wrong = reports[-1].tensors["Wh"]
    assert wrong.verdict.is_bug
    assert {name for name, block in wrong.blocks.items() if block.verdict.is_bug} == {"f"}
    assert "wrong on f" in wrong.explanation


def test_a_gradient_that_is_not_finite_is_told_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """With a finite loss it is a bug, and when it is over that is told."""
    training = Training()

    def overflow(step: int, grads: Params) -> Params:
        return grads | {"V": grads["V"] + np.float32(np.inf if step == 1 else 0)}

    reports = []
    guard = guard_of(training)
    for step in range(4):
        grads = overflow(step, training.grads())
        reports.append(guard.after_backward(step, grads))
    assert [str(report.tensors["V"].verdict) for report in reports if report] == ["ok", "nonfinite", "ok", "ok"]
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    assert "nan or inf" in caplog.records[0].getMessage()


@pytest.mark.parametrize("when", [0, 1])
def test_a_loss_that_is_nan_is_no_bug_of_the_gradients(when: int, caplog: pytest.LogCaptureFixture) -> None:
    """At the first check or a later one it is a warning to look at the training, and afterwards checks go on."""
    training = Training()
    verdicts = []
    guard = guard_of(training)
    for step in range(3):
        grads = training.grads()
        value = np.float32(np.nan if step == when else 0)
        report = guard.after_backward(step, grads, lambda value=value: training.loss() + value)
        assert report is not None
        verdicts.append(report.verdict)
    assert [verdict.is_bug for verdict in verdicts] == [None if step == when else False for step in range(3)]
    assert {record.levelname for record in caplog.records} == {"WARNING", "INFO"}
    assert "diverged" in caplog.records[0].getMessage()


def test_arrays_that_the_loss_does_not_read_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The message explains what was attached wrongly, once, and no bug is claimed."""
    training = Training()
    copies = {name: param.copy() for name, param in training.watched.items()}
    guard = GradGuard(copies, training.loss, every_n_steps=1, max_overhead=None, precision="native")
    reports = training.run(guard, range(2))
    assert not any(report.verdict.is_bug for report in reports)
    assert reports[0].verdict is Verdict.inconclusive
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert len(caplog.records) == 3
    assert "not the ones that the loss reads" in caplog.records[0].getMessage()


def test_a_gradient_without_an_effect_stays_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    """The other tensors still move the loss at later checks, though only this one is measured deeply."""
    training = Training()
    training.model.params["spare"] = np.ones(3, np.float32)
    params = training.watched | {"spare": training.model.params["spare"]}
    guard = GradGuard(params, training.loss, every_n_steps=1, max_overhead=None, precision="native")
    reports = training.run(guard, range(3), lambda _, grads: grads | {"spare": np.full(3, 0.1, np.float32)})
    assert [report.tensors["spare"].verdict for report in reports] == [Verdict.spurious] * 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_loss_that_becomes_much_sharper_is_found_a_step_for() -> None:
    """After a change of the landscape the guard is not blind for good: a bug is still found."""
    params, sharpness = {"w": np.array([0.3, 0.7, 1.1])}, [1.0]
    guard = GradGuard(
        params, lambda: float(np.sin(sharpness[0] * params["w"]).sum()), every_n_steps=1, max_overhead=None
    )
    verdicts = []
    for step in range(12):
        sharpness[0] = 1.0 if step == 0 else 1e4
        grads = {"w": (2.0 if step else 1.0) * sharpness[0] * np.cos(sharpness[0] * params["w"])}
        report = guard.after_backward(step, grads)
        assert report is not None
        verdicts.append(report.verdict)
    assert Verdict.scale in verdicts


def test_the_worst_entries_of_a_routine_check_are_at_their_places() -> None:
    """What is shown at an index is the derivative of that entry, where a neighbour could not be measured too."""
    params = {"w": np.array([0.3, 0.7, 1.1, -0.5])}
    sharpness = np.ones(4)
    guard = GradGuard(params, lambda: float(np.sin(sharpness * params["w"]).sum()), every_n_steps=1, max_overhead=None)
    for step in range(6):
        if step:
            sharpness[1] = 3e3
        grads = {"w": sharpness * np.cos(sharpness * params["w"])}
        report = guard.after_backward(step, grads)
        assert report is not None
        for entry in report.tensors["w"].worst:
            assert entry.analytic == pytest.approx(grads["w"][entry.index], rel=1e-9)


# State.


def test_a_loss_with_a_state_needs_a_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    """Without one it is not said to be a bug but what it is; with it the state is as if no check had been made."""
    params = {"w": np.array([0.3, -0.7])}
    rng, layer = np.random.default_rng(0), SimpleNamespace(mean=np.zeros(2), calls=0)

    def loss() -> float:
        layer.calls += 1
        layer.mean = 0.9 * layer.mean + 0.1 * params["w"]
        return float(np.sin(params["w"] * (1 + layer.mean) + rng.random()).sum())

    def true_gradient() -> Params:
        later = np.random.default_rng()
        later.bit_generator.state = rng.bit_generator.state
        w, mean = params["w"], 0.9 * layer.mean + 0.1 * params["w"]
        return {"w": np.cos(w * (1 + mean) + later.random()) * (1 + mean + 0.1 * w)}

    stateless = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    report = stateless.after_backward(0, true_gradient())
    assert report is not None
    assert report.verdict is Verdict.nondeterministic
    assert report.verdict.is_bug is None
    assert "snapshot=" in caplog.records[0].getMessage()
    snapshots = [snapshot_attributes(layer, "mean", "calls"), snapshot_rng(rng)]
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, snapshot=snapshots)
    for step in range(3):
        state, mean, calls = rng.bit_generator.state, layer.mean.tolist(), layer.calls
        report = guard.after_backward(step, true_gradient())
        assert report is not None
        assert report.verdict is Verdict.ok
        assert (rng.bit_generator.state, layer.mean.tolist(), layer.calls) == (state, mean, calls)
        loss()  # training goes on


# Who is told, and where it is written.


class Failing:
    """A writer on a disk that is full for a while."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.written = failing, list[int]()
        self.closed = 0

    def write(self, report: Report) -> None:
        """Record the step, or fail."""
        if report.step in self.failing:
            raise OSError(28, "No space left on device")
        self.written.append(report.step)

    def close(self) -> None:
        """Count."""
        self.closed += 1


def test_a_bug_raises_where_that_is_asked_for_and_is_on_record(tmp_path: Path) -> None:
    """The file and the history have the check, the parameters are untouched, and the guard can go on."""
    training, path = Training(), tmp_path / "checks.jsonl"
    guard = guard_of(
        training,
        on_alert="raise",
        precision="float64",
        writers=[JSONLWriter(path)],
        constants={"timesteps": TIMESTEPS},
    )
    before = {name: param.tobytes() for name, param in training.model.params.items()}
    grads = averaged(0, training.grads())
    with pytest.raises(GradientError, match=r"step 0 Wh: BUG, scale.*`timesteps`") as raised:
        guard.after_backward(0, grads)
    assert before == {name: param.tobytes() for name, param in training.model.params.items()}
    assert raised.value.report is guard.report
    assert raised.value.alert in raised.value.report.alerts
    assert [row.step for row in guard.history] == [0]
    (written,) = read_jsonl(path)
    assert written["verdict"] == "scale"
    assert written["alerts"]
    assert guard.after_backward(1, grads) is not None
    assert len(read_jsonl(path)) == 2


def test_warnings_do_not_raise() -> None:
    """A check that cannot tell ends no training."""
    training = Training()
    guard = guard_of(training, on_alert="raise")
    grads = training.grads()
    report = guard.after_backward(0, grads, lambda: float("nan"))
    assert report is not None
    assert report.alerts


def test_a_callable_is_handed_every_alert() -> None:
    """Bugs and recoveries, in the order of the reports; and what it raises comes out, after the record."""
    training, alerts = Training(), list[Alert]()
    guard = guard_of(training, on_alert=alerts.append)
    reports = training.run(guard, range(3), lambda step, grads: averaged(step, grads) if step == 1 else grads)
    assert alerts == [alert for report in reports for alert in report.alerts]
    assert [alert.level for alert in alerts] == [logging.ERROR] * 2 + [logging.INFO] * 2

    def refuse(alert: Alert) -> None:
        raise StopError(alert.message)

    guard = guard_of(training, on_alert=refuse)
    with pytest.raises(StopError):
        guard.after_backward(0, averaged(0, training.grads()))
    assert len(guard.history) == 1


def test_a_writer_that_fails_costs_one_warning_and_goes_on_when_it_can() -> None:
    """Training and the other writers do not notice; a second failure after a recovery is told again."""
    training, failing, other = Training(), Failing(1, 2, 3, 5), Failing()
    guard = guard_of(training, writers=[failing, other])
    with pytest.warns(RuntimeWarning, match="Failing failed .*No space left on device") as told:
        training.run(guard, range(7))
    assert len(told) == 2
    assert Path(told[0].filename) == Path(__file__)
    assert failing.written == [0, 4, 6]
    assert other.written == list(range(7))
    assert [row.step for row in guard.history] == list(range(7))


def test_closing_closes_the_writers_once() -> None:
    """Also by the end of a `with`, whatever ended it; a closed guard checks no more."""
    training, writer = Training(), Failing()
    with pytest.raises(StopError), guard_of(training, writers=[writer]) as guard:
        raise StopError
    guard.close()
    assert writer.closed == 1
    with pytest.raises(ValueError, match="guard is closed"):
        guard.after_backward(0, {})


def test_a_log_folder_gets_an_event_file(tmp_path: Path) -> None:
    """TensorBoard finds the run in the folder it was promised."""
    training = Training()
    with guard_of(training, logdir=tmp_path / "runs" / "lstm") as guard:
        training.run(guard, range(2))
    (events,) = (tmp_path / "runs" / "lstm").iterdir()
    assert "tfevents" in events.name
    assert events.stat().st_size > 1000


# Mistakes are errors at once, and change nothing.


def in_the_way(folder: Path) -> Path:
    """A file where a folder should be."""
    path = folder / "runs"
    path.write_text("a file\n")
    return path


OPTIONS: list[Any] = [
    ({"every_n_steps": 0}, ValueError, ["every_n_steps", "0", "at least 1"]),
    ({"every_n_steps": 1.5}, TypeError, ["every_n_steps", "1.5", "callable"]),
    ({"start_step": -1}, ValueError, ["start_step", "-1"]),
    ({"max_overhead": 0}, ValueError, ["max_overhead", "0", "None"]),
    ({"max_overhead": 5}, ValueError, ["max_overhead", "5", "None"]),
    ({"precision": "float16"}, ValueError, ["'float16'", "'native', 'float64' or 'auto'"]),
    ({"reduction": "none"}, ValueError, ["'none'", "'sum', 'mean' or None"]),
    ({"on_alert": "crash"}, ValueError, ["'crash'", "'log', 'raise' or a callable"]),
    ({"constants": {"timesteps": -3}}, ValueError, ["'timesteps'", "-3", "positive"]),
    ({"blocks": {"w": gates("ifog", axis=0)}}, ValueError, ["'w'", "(2,)", "4 gates"]),
    ({"blocks": {"u": gates("if", axis=0)}}, ValueError, ["'u'", "expected one of w"]),
    ({"snapshot": [7]}, TypeError, ["snapshot", "int", "callable"]),
    ({"loss": 0.25}, TypeError, ["float", "callable", "loss()"]),
    ({"loss": lambda params, batch: (params, batch)}, TypeError, ["params, batch", "loss(params)"]),
    ({"params": [np.ones(2)]}, TypeError, ["params", "list", "mapping"]),
    ({"params": {"w": np.ones(2, int)}}, TypeError, ["'w'", "int64", "float32"]),
    ({"params": {"w": np.broadcast_to(np.ones(1), 2)}}, ValueError, ["'w'", "read-only", "loss(params)"]),
    (
        {"params": {"w": np.lib.stride_tricks.as_strided(np.ones(1), (2,), (0,))}},
        ValueError,
        ["'w'", "(2,)", "strides (0,)"],
    ),
    pytest.param({"thresholds": 0.1}, TypeError, ["thresholds", "float", "Thresholds"]),
    pytest.param({"writers": [None]}, TypeError, ["writers", "NoneType", "write"]),
    pytest.param({"writers": Failing()}, TypeError, ["writers", "Failing"]),
]


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS, ids=lambda value: str(value)[:40])
def test_an_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    """When the guard is made, with what was given and what was expected."""
    weights = np.array([0.3, 0.7])
    arguments: dict[str, Any] = {"params": {"w": weights}, "loss": lambda: weights.sum()}
    arguments |= options
    with pytest.raises(error) as raised:
        GradGuard(arguments.pop("params"), arguments.pop("loss"), **arguments)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_two_names_for_one_memory_are_refused_when_the_guard_is_made() -> None:
    """Tied weights belong under one name, unless the loss takes the parameters."""
    shared = np.ones((2, 2))
    params = {"encoder": shared, "decoder": shared.T}
    with pytest.raises(ValueError, match="share memory") as raised:
        GradGuard(params, lambda: 0.0)
    assert "'encoder'" in str(raised.value)
    assert "'decoder'" in str(raised.value)
    GradGuard(params, lambda given: float(given["encoder"].sum()))


def test_a_log_folder_that_is_a_file_is_refused_when_the_guard_is_made(tmp_path: Path) -> None:
    """Not at the first check, hours later."""
    path = in_the_way(tmp_path)
    with pytest.raises(NotADirectoryError, match="runs"):
        GradGuard({"w": np.ones(2)}, logdir=path)
    assert path.read_text() == "a file\n"


WEIGHTS = np.array([0.3, 0.7])
GRADS = {"w": np.cos(WEIGHTS)}
AT_A_STEP: list[Any] = [
    ((0, {}, None), ValueError, ["'w'", "given: none", "expected: w"]),
    ((0, GRADS | {"u": WEIGHTS}, None), ValueError, ["'u'", "expected: w"]),
    ((0, {"w": np.ones(3)}, None), ValueError, ["'w'", "(3,)", "(2,)"]),
    ((0, {"w": None}, None), TypeError, ["'w'", "NoneType"]),
    ((0, lambda: 0.0, None), TypeError, ["grads", "function"]),
    ((0.5, GRADS, None), TypeError, ["step", "0.5"]),
    ((None, GRADS, None), TypeError, ["step", "None"]),
    ((0, GRADS, 0.25), TypeError, ["float", "callable"]),
    ((0, GRADS, lambda: None), TypeError, ["NoneType", "expected a number"]),
    ((0, GRADS, lambda: np.ones(3)), ValueError, ["(3,)", "reduction='sum'"]),
]


@pytest.mark.parametrize(("given", "error", "words"), AT_A_STEP, ids=lambda value: str(value)[:40])
def test_a_mistake_at_a_step_is_told_and_costs_nothing(given: Any, error: type[Exception], words: list[str]) -> None:
    """The message names it; parameters and history are as before, and the same step may be tried again."""
    params = {"w": WEIGHTS.copy()}
    weights = params["w"]
    guard = GradGuard(params, lambda: float(np.sin(params["w"]).sum()), every_n_steps=1, max_overhead=None)
    with pytest.raises(error) as raised:
        guard.after_backward(*given)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert params["w"] is weights
    assert weights.tolist() == [0.3, 0.7]
    assert guard.report is None
    assert not guard.history
    report = guard.after_backward(0, {"w": np.cos(weights)})
    assert report is not None
    assert report.verdict is Verdict.ok


def test_a_guard_without_a_loss_says_so() -> None:
    """At the first step, whether or not a check is due."""
    guard = GradGuard({"w": np.ones(2)}, start_step=100)
    with pytest.raises(ValueError, match="there is no loss; pass loss="):
        guard.after_backward(0, {"w": np.ones(2)})


def test_steps_do_not_go_backwards() -> None:
    """A step counted anew in each epoch is an error that says what to do; the same step twice is none."""
    training = Training()
    guard = guard_of(training)
    grads = training.grads()
    assert guard.after_backward(5, grads) is not None
    assert guard.after_backward(5, grads) is not None
    with pytest.raises(ValueError, match=r"step 4 comes after step 5.*epochs"):
        guard.after_backward(4, grads)
    assert [row.step for row in guard.history] == [5, 5]


def test_a_tensor_that_is_added_during_training_is_checked() -> None:
    """A model that grows has its new tensor looked at deeply when it first appears."""
    params = {"w": np.array([0.3, 0.7])}

    def loss() -> float:
        return sum(float(np.sin(weights).sum()) for weights in params.values())

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    guard.after_backward(0, {"w": np.cos(params["w"])})
    params["new"] = np.array([1.1])
    report = guard.after_backward(1, {"w": np.cos(params["w"]), "new": 2 * np.cos(params["new"])})
    assert report is not None
    assert report.tensors["new"].verdict is Verdict.scale


def test_a_tensor_with_blocks_that_changes_its_shape_is_told() -> None:
    """A vocabulary that grows: the message names the tensor, or the blocks are found anew."""
    params = {"w": np.array([0.3, 0.7])}
    guard = GradGuard(
        params,
        lambda: float(np.sin(params["w"]).sum()),
        every_n_steps=1,
        max_overhead=None,
        blocks={"w": {"all": np.s_[:]}},
    )
    guard.after_backward(0, {"w": np.cos(params["w"])})
    params["w"] = np.array([0.3, 0.7, 1.1])
    try:
        guard.after_backward(1, {"w": 2 * np.cos(params["w"])})
    except ValueError as error:
        assert "'w'" in str(error)  # noqa: PT017 - either outcome will do


def test_thresholds_are_those_of_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    """With a looser one float precision is `ok`, with a tighter one it is `float_precision`, which is silent."""
    training = Training()
    (report,) = training.run(guard_of(training), range(1))
    assert report.verdict is Verdict.ok
    tighter = Thresholds(discrepancy=0.9 * max(tensor.discrepancy for tensor in report.tensors.values()))
    training = Training()
    (report,) = training.run(guard_of(training, thresholds=tighter), range(1))
    assert report.verdict is Verdict.float_precision
    assert report.verdict.is_bug is False
    assert not caplog.records
