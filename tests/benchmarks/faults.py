"""Faults injected, and what they cost: is a training ever changed or stopped, or a record lost without a word?

What is measured: gradient descent on a small network under a guard that checks at every step and logs to TensorBoard
and to JSON lines, while something goes wrong at a random moment: in the loss, by signals in the middle of a check, in
the places that reports go to, by SIGKILL. A twin trains along without a guard. Every gradient is correct.

How to read it: "times" is how often the fault was injected. "changed" counts the times after which parameters,
gradients or a random stream were not, bit for bit, those of the twin; "stopped" the times that a training did not go
on (an exception that is the user's own is caught by the training, as the user's would be). "checks" are those that
finished, "read back" those of them that both logs hold, each read by its own reader. "told lost" were lost while a
place could not be written to, and a warning said so; "lost" are all others that are missing. "bugs" are tensors called
wrong. The goals are 0 changed, 0 stopped, 0 lost, 0 bugs.

The second table: what readers and writers of files make of input that is damaged or made up. "crashes" are exceptions
that are no refusal with a message; the goal is 0.

    python tests/benchmarks/faults.py
    python tests/benchmarks/faults.py --times 20 --inputs 1000
"""

import argparse
import contextlib
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from common import table
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from gradguard import GradGuard, JSONLWriter, Report, diagnose
from gradguard.cli.columns import read_columns
from gradguard.cli.output import Failure
from gradguard.logs import read_logs
from gradguard.testing import LSTM, random_batch
from gradguard.writers import read_jsonl

Row = tuple[str, ...]
Params = dict[str, NDArray[Any]]
Fault = Callable[["Training", np.random.Generator], AbstractContextManager[object]]
WATCHED = ("Wh", "V")  # the first check of two tensors is quicker than that of five
LONGEST = 5e-3  # seconds into a check that a signal comes
KILLS = 10  # times of another fault to one that needs a process of its own


class StoppedError(Exception):
    """What a fault raises."""


class Writer(JSONLWriter):
    """JSON lines, or what a fault has in their place."""

    error: Exception | None = None
    is_odd = False

    def write(self, report: Report) -> None:
        """Append a line."""
        if self.error is not None:
            raise self.error
        super().write(replace(report, explanation=object()) if self.is_odd else report)  # type: ignore[arg-type]  # the point


class Training:
    """Gradient descent on a random network, with a guard or without; it draws from every random stream."""

    def __init__(self, folder: Path | None) -> None:
        self.model = LSTM(2, 1, 2)
        self.step = self.calls = self.fails_at = 0
        self.outcome: object = None
        self.folder = folder
        self.grads: Params = {}
        self.finished: list[int] = []
        self.told: list[int] = []
        self.bugs = self.stopped = 0
        self.is_wrong = self.is_checking = False
        self.guard = None if folder is None else self.guarded(folder)

    def guarded(self, folder: Path) -> GradGuard:
        """A guard that logs to a folder."""
        self.writer = Writer(folder / "log" / "log.jsonl")
        options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": "native", "logdir": folder / "run"}
        options |= {"writers": [self.writer], "on_alert": self.alerted}
        params = {name: self.model.params[name] for name in WATCHED}
        return GradGuard(params, self.loss, **options)

    def loss(self) -> Any:
        """The loss of this step's batch, or what a fault has in its place."""
        self.calls += 1
        if self.calls == self.fails_at:
            if isinstance(self.outcome, BaseException):
                raise self.outcome
            return self.outcome
        return self.model.loss(self.batch)

    def alerted(self, _: object) -> None:
        """A user's own function."""
        if self.is_wrong:
            self.finished.append(self.step)
            raise StoppedError

    @property
    def batch(self) -> Any:
        """That of this step."""
        return random_batch(3, 2, inputs=2, outputs=2, seed=self.step)

    def backward(self) -> None:
        """The gradients of this step."""
        self.grads = {name: self.model.loss_and_grads(self.batch)[1][name] for name in WATCHED}

    def check(self, *, is_faulty: bool = False) -> None:
        """What the guard makes of this step; what a fault raises is caught, as a user would."""
        if self.guard is None:
            return
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                self.is_checking = True
                report = self.guard.after_backward(self.step, self.grads)
            except (StoppedError, KeyboardInterrupt, SystemExit):
                self.stopped += not is_faulty
                return
            finally:
                self.is_checking = False
                is_told = any("is lost" in str(warning.message) for warning in told)
        assert report is not None
        self.finished.append(self.step)
        self.bugs += 0 if self.is_wrong else sum(tensor.verdict.is_bug is True for tensor in report.tensors.values())
        if is_told:
            self.told.append(self.step)

    def update(self) -> None:
        """One step of the optimizer."""
        for name, grad in self.grads.items():
            self.model.params[name] -= np.float32(0.05) * grad
        self.step += 1

    def train(self, steps: int) -> None:
        """Some undisturbed steps."""
        for _ in range(steps):
            self.backward()
            self.check()
            self.update()

    def bits(self) -> list[object]:
        """All that training goes on with."""
        arrays = [*self.model.params.values(), *self.grads.values()]
        return [*(array.tobytes() for array in arrays), repr(np.random.get_state()[1:]), random.getstate()]  # noqa: NPY002 - users have it


# In the loss.


@contextlib.contextmanager
def loss_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """At some evaluation."""
    with failing(training, rng, StoppedError()):
        yield


@contextlib.contextmanager
def loss_is_nan(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """At some evaluation."""
    with failing(training, rng, np.float32(np.nan)):
        yield


@contextlib.contextmanager
def ctrl_c(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """In the middle of some evaluation."""
    with failing(training, rng, KeyboardInterrupt()):
        yield


@contextlib.contextmanager
def failing(training: Training, rng: np.random.Generator, outcome: object) -> Iterator[None]:
    """At a random evaluation, perhaps of the first and deep check of a new guard."""
    is_new = renewed(training, rng)
    training.fails_at = training.calls + int(rng.integers(1, 400 if is_new else 80))
    training.outcome = outcome
    yield
    training.fails_at = 0


def renewed(training: Training, rng: np.random.Generator) -> bool:
    """Whether the guard was replaced by a new one, as it is once in ten times."""
    if rng.random() > 0.1:
        return False
    assert training.guard is not None
    assert training.folder is not None
    training.guard.close()
    training.guard = training.guarded(training.folder)
    return True


# By signals.


def signals(number: int, error: type[BaseException], most: int) -> Fault:
    """Up to so many signals in quick succession, whose handler raises."""

    @contextlib.contextmanager
    def fault(training: Training, rng: np.random.Generator) -> Iterator[None]:
        left = int(rng.integers(1, most + 1))

        def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
            nonlocal left
            if left and training.is_checking:
                left -= 1
                raise error

        renewed(training, rng)
        before = {one: signal.signal(one, handler) for one in (number, signal.SIGALRM)}
        own = threading.Timer(rng.uniform(0, LONGEST), lambda: os.kill(os.getpid(), number))
        try:
            own.start()
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, LONGEST), rng.uniform(1e-4, 1e-3))
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            own.join()
            for one, previous in before.items():
                signal.signal(one, previous)

    return fault


# In the places that reports go to.


@contextlib.contextmanager
def disk_full(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """No file may grow by more than a few bytes, in the middle of a record."""
    assert training.folder is not None
    sizes = [path.stat().st_size for path in sorted(training.folder.rglob("*")) if path.is_file()]
    size = int(rng.choice(sizes)) + int(rng.integers(0, 400))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def deleted(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """The folders are removed, with all they hold: what comes after that is to be on record."""
    assert training.folder is not None
    shutil.rmtree(training.folder)
    training.finished.clear()
    yield


@contextlib.contextmanager
def in_the_way(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """A file stands where a folder was, so that not even root can write there."""
    assert training.folder is not None
    folder = training.folder / str(rng.choice(["run", "log"]))
    folder.rename(folder.with_name("moved"))
    folder.write_text("in the way")
    try:
        yield
    finally:
        folder.unlink()
        folder.with_name("moved").rename(folder)


@contextlib.contextmanager
def writer_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """Some exception."""
    errors = [OSError(5, "Input/output error"), ValueError("no"), KeyError("k"), MemoryError(), RecursionError()]
    training.writer.error = errors[rng.integers(len(errors))]
    yield
    training.writer.error = None


@contextlib.contextmanager
def unserialisable(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """A report holds what JSON cannot."""
    training.writer.is_odd = True
    yield
    training.writer.is_odd = False


@contextlib.contextmanager
def alert_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """A user's `on_alert` raises at a gradient that is wrong; the record of that check is on disk by then."""
    right = {name: grad.copy() for name, grad in training.grads.items()}
    training.is_wrong = True
    for grad in training.grads.values():
        grad *= 3
    yield
    training.is_wrong = False
    for name, grad in training.grads.items():
        grad[...] = right[name]


FAULTS: dict[str, Fault] = {
    "the loss raises": loss_raises,
    "the loss returns nan": loss_is_nan,
    "KeyboardInterrupt in the loss": ctrl_c,
    "SIGINT": signals(signal.SIGINT, KeyboardInterrupt, 1),
    "SIGTERM, its handler exits": signals(signal.SIGTERM, SystemExit, 1),
    "an exception from a signal": signals(signal.SIGUSR1, StoppedError, 1),
    "up to six signals at once": signals(signal.SIGUSR1, StoppedError, 6),
    "disk full": disk_full,
    "logs deleted": deleted,
    "a file where a folder was": in_the_way,
    "a writer raises": writer_raises,
    "a line that is no JSON": unserialisable,
    "on_alert raises": alert_raises,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What a fault has cost."""

    times: int
    changed: int
    stopped: int
    checks: int
    told: int
    lost: int
    bugs: int

    @property
    def row(self) -> Row:
        """For the table."""
        read = self.checks - self.told - self.lost
        return tuple(
            map(str, (self.times, self.changed, self.stopped, self.checks, read, self.told, self.lost, self.bugs))
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the two tables."""
    options = parser().parse_args(arguments)
    times, inputs = (2, 20) if options.quick else (options.times, options.inputs)
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    print(
        table(("fault", "times", "changed", "stopped", "checks", "read back", "told lost", "lost", "bugs"), rows(times))
    )
    print()
    print(table(("input", "tried", "read", "refused", "crashes"), inputs_rows(inputs)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--times", type=int, default=300, help="each fault is injected (default: %(default)s)")
    options.add_argument("--inputs", type=int, default=3000, help="of each kind (default: %(default)s)")
    options.add_argument("--quick", action="store_true", help="twice each")
    return options


def rows(times: int) -> Iterator[Row]:
    """A row for each fault."""
    for name, fault in tqdm(FAULTS.items(), desc="faults", leave=False):
        with tempfile.TemporaryDirectory() as folder:
            yield name, *injected(fault, times, Path(folder) / "logs").row
    for name, resumes in (("SIGKILL", False), ("SIGKILL, and a resume", True)):
        with tempfile.TemporaryDirectory() as folder:
            yield name, *killed(max(2, times // KILLS), Path(folder), resumes=resumes).row


def injected(fault: Fault, times: int, folder: Path) -> Cost:
    """Inject a fault over and over into one training."""
    rng = np.random.default_rng(0)
    twin, training = Training(None), Training(folder)
    changed = missing = checks = told = 0
    for _ in range(times):
        for one in (twin, training):
            one.train(1)
            one.backward()
        before = training.bits()
        with fault(training, rng):
            training.check(is_faulty=True)
        changed += (
            training.bits() != before or training.model.params["Wh"].tobytes() != twin.model.params["Wh"].tobytes()
        )
        for one in (twin, training):
            one.update()
        if fault is deleted:
            checks, missing = checks + len(training.finished), missing + len(lost(training))
    if fault is not deleted:
        checks, missing = len(training.finished), len(lost(training))
        told = len(set(training.told) & lost(training))
    assert training.guard is not None
    training.guard.close()
    return Cost(times, changed, training.stopped, checks, told, missing - told, training.bugs)


def lost(training: Training) -> set[int]:
    """Steps whose checks have finished and that one of the two logs has not."""
    assert training.folder is not None
    log = training.folder / "log" / "log.jsonl"
    lines = {report["step"] for report in read_jsonl(log)} if log.exists() else set()
    return set(training.finished) - (lines & event_steps(training.folder / "run"))


def event_steps(logdir: Path) -> set[int]:
    """The steps of all events of a run."""
    files = [EventFileLoader(str(path)).Load() for path in sorted(logdir.glob("events*"))]
    return {event.step for file in files for event in file if event.HasField("summary")}


# SIGKILL.

KILLED = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from faults import Training

folder, resumes = Path(sys.argv[1]), sys.argv[3] == "True"
training, saved = Training(folder), folder / "checkpoint.json"
if resumes and saved.exists():
    state = json.loads(saved.read_text())
    training.guard.load_state_dict(state["guard"])
    training.step = state["step"]
    for name, values in state["params"].items():
        training.model.params[name][...] = values
while True:
    training.train(1)
    if resumes:
        params = {name: param.tolist() for name, param in training.model.params.items()}
        state = {"guard": training.guard.state_dict(), "step": training.step, "params": params}
        saved.with_suffix(".new").write_text(json.dumps(state))
        os.replace(saved.with_suffix(".new"), saved)
    print(training.step - 1, training.bugs, flush=True)
"""


def killed(times: int, folder: Path, *, resumes: bool) -> Cost:
    """Kill a training over and over, at any moment; with a checkpoint after each step, it goes on where it was."""
    finished, rng, bugs, stopped = Counter[int](), np.random.default_rng(0), 0, 0
    for _ in range(times):
        command = [sys.executable, "-c", KILLED, folder, Path(__file__).parent, str(resumes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(int(rng.integers(1, 20)))]
            time.sleep(rng.uniform(0, 0.05))
            stopped += process.poll() is not None
            process.kill()
            lines += process.stdout
        whole = [line.split() for line in lines if line.endswith("\n")]
        finished.update(int(step) for step, _ in whole)
        bugs += int(whole[-1][1]) if whole else 0
    logged = Counter(report["step"] for report in read_jsonl(folder / "log" / "log.jsonl"))
    missing = sum((finished - logged).values()) + len(set(finished) - event_steps(folder / "run"))
    changed = resumes and not same_as_unguarded(folder)
    return Cost(times, int(changed), stopped, sum(finished.values()), 0, missing, bugs)


def same_as_unguarded(folder: Path) -> bool:
    """Whether a training that was killed and resumed all the time is where one without a guard is."""
    state = json.loads((folder / "checkpoint.json").read_text())
    alone = Training(None)
    alone.train(state["step"])
    return all(alone.model.params[name].tolist() == values for name, values in state["params"].items())


# Input from elsewhere.

WORDS = (
    "numeric",
    "analytic",
    "tensor",
    "error",
    "nan",
    "inf",
    "1e999",
    "-0",
    "0x1",
    "<script>",
    "'",
    '"',
    "\0",
    "\ufeff",
)
PIECES = (*WORDS, ",", ";", "\t", "\n", "\r\n", "{", "}", "[" * 50, '{"step":', "null", "true", "1.5", "-3", "9" * 400)


def inputs_rows(count: int) -> Iterator[Row]:
    """A row for each kind of input."""
    readers: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "CSV": (b"tensor,numeric,analytic\nW,1.5,1.25\nV,-2e-3,3\n", lambda path: diagnosed(read_columns(str(path)))),
        "JSON lines": (logged("log/log.jsonl"), read_jsonl),
        "JSON lines, appended to": (logged("log/log.jsonl"), JSONLWriter),
        "a folder of JSON lines": (logged("log/log.jsonl"), lambda path: read_logs(str(path.parent))),
        "event files": (logged("run/events*"), lambda path: read_logs(str(renamed(path)))),
        "pairs": (b"1 2 nan 0 -3 inf 1e-300 1e300", lambda path: diagnosed_pairs(path.read_bytes())),
    }
    for name, (whole, read) in tqdm(readers.items(), desc="inputs", leave=False):
        counts = Counter(attempted(read, content) for content in damaged(whole, count))
        yield name, str(count), *(str(counts[what]) for what in ("read", "refused", "crash"))


def logged(pattern: str) -> bytes:
    """What a training has written."""
    with tempfile.TemporaryDirectory() as folder:
        training = Training(Path(folder))
        training.train(2)
        assert training.guard is not None
        training.guard.close()
        return next(Path(folder).glob(pattern)).read_bytes()


def damaged(whole: bytes, count: int) -> Iterator[bytes]:
    """The content cut off, with bytes flipped, pieces put in, doubled, or something made of pieces alone."""
    rng = np.random.default_rng(0)
    for number in range(count):
        content, place = bytearray(whole), int(rng.integers(len(whole) + 1))
        piece = "".join(PIECES[i] for i in rng.integers(len(PIECES), size=int(rng.integers(1, 8)))).encode()
        kind = number % 5
        if kind == 0:
            del content[place:]
        elif kind == 1:
            for at in rng.integers(len(whole), size=int(rng.integers(1, 6))):
                content[at] = int(rng.integers(256))
        elif kind == 2:
            content[place:place] = piece
        elif kind == 3:
            content[place:] = content[: int(rng.integers(len(whole) + 1))]
        else:
            content[:] = piece
        yield bytes(content)


def attempted(read: Callable[[Path], object], content: bytes) -> str:
    """What a reader makes of a file; a refusal is a message of few characters."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(path)
            except (Failure, ValueError, TypeError) as error:
                return "refused" if len(str(error)) < 1000 else "crash"
            except Exception:  # any other is what is counted
                return "crash"
    return "read"


def renamed(path: Path) -> Path:
    """The folder of an event file."""
    path.rename(path.with_name("events.out.tfevents.0000000000.here.1.000000"))
    return path.parent


def diagnosed(columns: Any) -> str:
    """The verdict on the columns of a file."""
    return str(diagnose({name: (one.analytic, one.numeric) for name, one in columns.items()}))


def diagnosed_pairs(content: bytes) -> str:
    """The verdict on numbers made of bytes, as many g as n or not."""
    half = len(content) // 2
    g, n = (
        np.frombuffer(part.ljust(8 * (len(part) // 8 + 1), b"\1"), np.float64)
        for part in (content[:half], content[half:])
    )
    return str(diagnose({content[:4].decode("latin1"): (g, n)}))


if __name__ == "__main__":
    main()
