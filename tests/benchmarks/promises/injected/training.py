"""The training into which faults are injected, and the cost of a fault."""

import random
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from benchmarks.support.tables import Row
from gradguard import GradGuard, JSONLWriter, Report
from gradguard.testing import LSTM, random_batch
from gradguard.writers import read_jsonl

Params = dict[str, NDArray[Any]]
Fault = Callable[["Training", np.random.Generator], AbstractContextManager[object]]
WATCHED = ("Wh", "V")  # the first check of two tensors is quicker than that of five


class StoppedError(Exception):
    """Raised by a fault."""


class Writer(JSONLWriter):
    """Writes JSON lines, or fails as a fault demands."""

    error: Exception | None = None
    is_odd = False

    def write(self, report: Report) -> None:
        """Append a line."""
        if self.error is not None:
            raise self.error
        super().write(replace(report, explanation=object()) if self.is_odd else report)  # type: ignore[arg-type]  # the point


class Training:
    """Gradient descent on a random network, with or without a guard."""

    def __init__(self, folder: Path | None) -> None:
        self.model = LSTM(2, 1, 2)
        self.step = self.calls = self.fails_at = 0
        self.outcome: object = None
        self.folder = folder
        self.grads: Params = {}
        self.finished: list[int] = []
        self.reported: list[int] = []
        self.bugs = self.stopped = 0
        self.is_wrong = self.is_checking = False
        self.habit: Callable[[Training], object] | None = None
        self.hidden, self.inputs = np.zeros(2, np.float32), np.arange(6, dtype=np.float32)
        self.seen: list[object] = []
        self.own = np.random.default_rng(0)
        self.watched: Params = {name: self.model.params[name] for name in WATCHED}
        self.precision, self.step_bits = "native", self.parameter_bits()
        self.guard = None if folder is None else self.guarded(folder)

    def guarded(self, folder: Path) -> GradGuard:
        """A guard that logs to a folder."""
        self.writer = Writer(folder / "log" / "log.jsonl")
        options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": self.precision, "logdir": folder / "run"}
        options |= {"writers": [self.writer], "on_alert": self.alerted}
        return GradGuard(self.watched, self.loss, **options)

    def renew(self, precision: str) -> None:
        """Replace the guard by a new one."""
        assert self.guard is not None
        assert self.folder is not None
        self.guard.close()
        self.precision = precision
        self.guard = self.guarded(self.folder)

    def parameter_bits(self) -> list[bytes]:
        """The bits of all parameters."""
        return [array.tobytes() for array in self.model.params.values()]

    def loss(self) -> Any:
        """The loss of this step's batch, or the outcome that a fault demands."""
        self.calls += 1
        if self.calls == self.fails_at:
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome
        if self.habit is not None:
            self.habit(self)
        return self.model.loss(self.batch, self.model.params | {name: self.watched[name] for name in WATCHED})

    def alerted(self, _: object) -> None:
        """The user's `on_alert`."""
        if self.is_wrong:
            self.finished.append(self.step)
            raise StoppedError

    @property
    def batch(self) -> Any:
        """The batch of this step."""
        return random_batch(3, 2, inputs=2, outputs=2, seed=self.step)

    def backward(self) -> None:
        """The gradients of this step."""
        self.grads = {name: self.model.loss_and_grads(self.batch)[1][name] for name in WATCHED}
        self.step_bits = self.parameter_bits()

    def check(self, *, is_faulty: bool = False) -> None:
        """Check this step; exceptions of a fault are caught, as a user would do."""
        if self.guard is None:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.is_checking = True
                report = self.guard.after_backward(self.step, self.grads)
            except (StoppedError, KeyboardInterrupt, SystemExit):
                self.stopped += not is_faulty
                return
            finally:
                self.is_checking = False
                is_reported = any("is lost" in str(warning.message) for warning in caught)
        assert report is not None
        self.finished.append(self.step)
        self.bugs += 0 if self.is_wrong else sum(tensor.verdict.is_bug is True for tensor in report.tensors.values())
        if is_reported:
            self.reported.append(self.step)

    def update(self) -> None:
        """One step of the optimizer."""
        for name, grad in self.grads.items():
            self.model.params[name] -= np.float32(0.05) * grad
        self.step += 1

    def train(self, steps: int) -> None:
        """Train for some steps without a fault."""
        for _ in range(steps):
            self.backward()
            self.check()
            self.update()

    def bits(self) -> list[object]:
        """Everything that the rest of the training depends on."""
        held = [dict.__getitem__(self.watched, name) for name in WATCHED]
        assert all(array is self.model.params[name] for name, array in zip(WATCHED, held, strict=True))
        arrays = [*self.model.params.values(), *self.grads.values(), self.hidden, self.inputs]
        state = [self.hidden.dtype, len(self.seen), repr(self.own.bit_generator.state)]
        return [*state, *(array.tobytes() for array in arrays), repr(np.random.get_state()[1:]), random.getstate()]  # noqa: NPY002 - users have it


def renewed(training: Training, rng: np.random.Generator) -> bool:
    """Replace the guard by a new one, in one of ten cases; True if it was replaced."""
    if rng.random() > 0.1:
        return False
    training.renew(training.precision)
    return True


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a fault: counts, as the docstring of `faults` defines them."""

    times: int
    changed: int
    stopped: int
    checks: int
    reported: int
    lost: int
    bugs: int

    @property
    def row(self) -> Row:
        """For the table."""
        read = self.checks - self.reported - self.lost
        return tuple(
            map(str, (self.times, self.changed, self.stopped, self.checks, read, self.reported, self.lost, self.bugs))
        )


def lost(training: Training) -> set[int]:
    """Steps whose checks finished and that are missing in one of the two logs."""
    assert training.folder is not None
    log = training.folder / "log" / "log.jsonl"
    lines = {report["step"] for report in read_jsonl(log)} if log.exists() else set()
    return set(training.finished) - (lines & event_steps(training.folder / "run"))


def event_steps(logdir: Path) -> set[int]:
    """The steps of all events of a run."""
    files = [EventFileLoader(str(path)).Load() for path in sorted(logdir.glob("events*"))]
    return {event.step for file in files for event in file if event.HasField("summary")}
