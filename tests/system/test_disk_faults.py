"""Full disks, lost folders and kills: training goes on, and what is lost is told."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradguard import GradGuard, JSONLWriter
from gradguard.writers import read_jsonl


def event_steps(logdir: Path) -> list[int]:
    """The steps of all events of a run, in the order TensorBoard reads them."""
    files = [EventFileLoader(str(path)).Load() for path in sorted(logdir.glob("events*"))]
    return [event.step for file in files for event in file if event.HasField("summary")]


def logged_steps(path: Path) -> list[int]:
    """The steps of all lines of a log."""
    return [report["step"] for report in read_jsonl(path)]


class Training:
    """Gradient descent on a sine, under a guard that logs to a folder and to a file."""

    def __init__(self, logdir: Path) -> None:
        self.params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
        self.logdir = logdir / "run"
        self.log = logdir / "logs" / "log.jsonl"
        self.guard = GradGuard(
            self.params,
            self.loss,
            every_n_steps=1,
            max_overhead=None,
            logdir=self.logdir,
            writers=[JSONLWriter(self.log)],
        )
        self.steps = 0

    def loss(self) -> Any:
        """Of the live parameters."""
        return np.sin(self.params["w"]).sum()

    def run(self, steps: int) -> list[str]:
        """Train on; what was warned of."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(steps):
                grads = {"w": np.cos(self.params["w"])}
                assert self.guard.after_backward(self.steps, grads) is not None
                self.params["w"] -= np.float32(0.01) * grads["w"]
                self.steps += 1
        assert all(Path(warning.filename) == Path(__file__) for warning in told)
        return [str(warning.message) for warning in told]


def undisturbed(steps: int) -> bytes:
    """The parameters after a training without a guard."""
    w = np.array([0.3, 0.7, 1.1], np.float32)
    for _ in range(steps):
        w -= np.float32(0.01) * np.cos(w)
    return w.tobytes()


def block(path: Path) -> None:
    """Put a file where the folder was: nothing can be written there, not even by root."""
    path.rename(path.with_name(f"{path.name} moved"))
    path.write_text("in the way")


def unblock(path: Path) -> None:
    """Put the folder back."""
    path.unlink()
    path.with_name(f"{path.name} moved").rename(path)


def test_a_logdir_that_cannot_be_written_costs_its_records_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It says what is lost and what goes on; the other log has everything; logging resumes, which is told once too."""
    caplog.set_level("INFO", logger="gradguard")
    training = Training(tmp_path)
    assert training.run(2) == []
    block(training.logdir)
    (warning,) = training.run(3)
    assert warning.startswith("TensorBoardWriter failed (NotADirectoryError: ")
    assert "record of step 2 is lost; the training, the checks and other records go on" in warning
    assert "tried again at each check" in warning
    unblock(training.logdir)
    assert training.run(2) == []
    assert [record.getMessage() for record in caplog.records] == [
        "gradguard: step 5: TensorBoardWriter works again; its records of 3 checks are lost"
    ]
    training.guard.close()
    assert event_steps(training.logdir) == [0, 1, 5, 6]
    assert logged_steps(training.log) == list(range(7))
    assert training.params["w"].tobytes() == undisturbed(7)


def test_each_failure_is_told_once_and_again_after_a_recovery(tmp_path: Path) -> None:
    """Both logs fail, one recovers and fails anew: a warning each time, and what could be is on record."""
    training = Training(tmp_path)
    told = []
    for event in (None, (block, training.logdir), (block, training.log.parent), None):
        if event:
            event[0](event[1])
        told.append(training.run(2))
    unblock(training.logdir)
    told.append(training.run(1))
    block(training.logdir)
    told.append(training.run(2))
    assert [[warning.split()[0] for warning in step] for step in told] == [
        [],
        ["TensorBoardWriter"],
        ["JSONLWriter"],
        [],
        [],
        ["TensorBoardWriter"],
    ]
    for path in (training.logdir, training.log.parent):
        unblock(path)
    training.run(1)
    training.guard.close()
    assert event_steps(training.logdir) == [0, 1, 8, 11]
    assert logged_steps(training.log) == [0, 1, 2, 3, 11]
    assert training.params["w"].tobytes() == undisturbed(12)


def test_a_logdir_that_is_deleted_is_begun_anew(tmp_path: Path) -> None:
    """Without a word: nothing of what comes is lost."""
    training = Training(tmp_path)
    training.run(2)
    for file in (*training.logdir.iterdir(), training.log):
        file.unlink()
    training.logdir.rmdir()
    assert training.run(2) == []
    training.guard.close()
    assert event_steps(training.logdir) == logged_steps(training.log) == [2, 3]


def test_a_writer_that_cannot_be_closed_is_told(tmp_path: Path) -> None:
    """Closing the guard does not raise, and the other writers are closed."""

    class Leaky(JSONLWriter):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    guard = GradGuard({"w": np.ones(2)}, writers=[Leaky(tmp_path / "a.jsonl"), JSONLWriter(tmp_path / "b.jsonl")])
    with pytest.warns(
        RuntimeWarning, match=r"Leaky failed .*No space left on device\); what it had not written"
    ) as told:
        guard.close()
    assert [Path(warning.filename) for warning in told] == [Path(__file__)]
    guard.close()


def run(source: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """A script in a process of its own."""
    command = [sys.executable, "-c", f"{TRAINING}{source}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


TRAINING = """
import hashlib, os, resource, signal, sys
from pathlib import Path
import numpy as np
from gradguard import GradGuard, JSONLWriter

params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
logdir, log = Path(sys.argv[1]), Path(sys.argv[1]) / "log.jsonl"

def guard():
    return GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, logdir=logdir,
                     writers=[JSONLWriter(log)])

def train(guard, steps):
    for step in steps:
        grads = {"w": np.cos(params["w"])}
        guard.after_backward(step, grads)
        params["w"] -= np.float32(0.01) * grads["w"]
        yield step
"""

FULL = """
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

guard = guard()
for step in train(guard, range(8)):
    if step == 1:
        limit(min(path.stat().st_size for path in logdir.iterdir()) + int(sys.argv[2]))
    if step == 4:
        limit(resource.RLIM_INFINITY)
guard.close()
print(params["w"].tobytes().hex())
"""


@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_is_survived(tmp_path: Path, room: int) -> None:
    """In the middle of a line and of an event: a warning for each log, training as if nothing were, nothing torn."""
    done = run(FULL, tmp_path, room)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == undisturbed(8).hex()
    assert done.stderr.count("File too large") == done.stderr.count("RuntimeWarning: ") >= 2
    assert done.stderr.count("record of step 2 is lost") == 2
    assert logged_steps(tmp_path / "log.jsonl") == [0, 1, 5, 6, 7]
    # A new event file may hold a small check before it is full as well.
    assert [step for step in event_steps(tmp_path) if step not in range(2, 5)] == [0, 1, 5, 6, 7]


KILLED = """
for step in train(guard(), range(1000)):
    print(step, flush=True)
"""


def test_a_kill_loses_no_finished_check(tmp_path: Path) -> None:
    """SIGKILL at any time: every check that had ended is in both logs, also after a run that goes on after it."""
    finished = []
    for _ in range(4):
        command = [sys.executable, "-c", f"{TRAINING}{KILLED}", tmp_path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            process.kill()
            finished += [int(line) for line in [*lines, *process.stdout] if line.endswith("\n")]
    for steps in (logged_steps(tmp_path / "log.jsonl"), event_steps(tmp_path)):
        for step in set(finished):
            assert steps.count(step) >= finished.count(step)
