"""Disks that are full or read-only, and processes that share them: the faults themselves, not what stands for them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from gradguard.writers import read_jsonl

CONTAINED = ["unshare", "--user", "--map-root-user", "--mount"]  # so that a disk may be mounted


def event_steps(logdir: Path) -> list[int]:
    """The steps of all events of a run."""
    files = [EventFileLoader(str(path)).Load() for path in sorted(logdir.glob("events*"))]
    return sorted(event.step for file in files for event in file if event.HasField("summary"))


def can_mount() -> bool:
    """Whether this system lets its users have disks of their own."""
    try:
        return subprocess.run([*CONTAINED, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


TRAINING = """
import hashlib, json, os, subprocess, sys, warnings
from pathlib import Path
import numpy as np
from gradguard import GradGuard, JSONLWriter
from gradguard.writers import read_jsonl

params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}

def guard_in(folder):
    return GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None,
                     logdir=folder / "run", writers=[JSONLWriter(folder / "log.jsonl")])

def step(guard, number):
    grads = {"w": np.cos(params["w"])}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        guard.after_backward(number, grads)
    params["w"] -= np.float32(0.01) * grads["w"]
    return [str(warning.message) for warning in told]
"""

DISK = """
disk = Path(sys.argv[1])
disk.mkdir()

def system(*command):
    subprocess.run(command, check=True)

def filled():
    with (disk / "rest").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(512))
        except OSError as error:
            assert error.errno == 28, error

system("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk)
guard, told = guard_in(disk), []
for number in range(12):
    if number == 2:
        filled()
    if number == 5:
        (disk / "rest").unlink()
    if number == 8:
        system("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", disk)
    if number == 10:
        system("umount", disk)
    told += [(number, message) for message in step(guard, number)]
guard.close()
for file in disk.rglob("*"):
    if file.is_file():
        (Path(sys.argv[2]) / file.name).write_bytes(file.read_bytes())
print(json.dumps({"told": told, "w": params["w"].tobytes().hex()}))
"""

ALONE = """
for number in range(12):
    params["w"] -= np.float32(0.01) * np.cos(params["w"])
print(json.dumps(params["w"].tobytes().hex()))
"""


def outcome_of(command: list[object]) -> Any:
    """What a process prints as JSON."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not can_mount(), reason="a disk that is really full needs user namespaces, or root")
def test_a_disk_that_is_full_and_then_read_only_stops_nothing(tmp_path: Path) -> None:
    """A warning for each log at each fault, with what is lost; training as if nothing were; logging resumes."""
    (saved := tmp_path / "saved").mkdir()
    told = outcome_of([*CONTAINED, sys.executable, "-c", f"{TRAINING}{DISK}", tmp_path / "disk", saved])
    assert told["w"] == outcome_of([sys.executable, "-c", f"{TRAINING}{ALONE}"])
    faults = {2: "No space left on device", 8: "Read-only file system"}
    full = range(2, 5)  # short records may still fit into the last block of a file
    assert [2 if number in full else number for number, _ in told["told"]] == [2, 2, 8, 8]
    for number, message in told["told"]:
        assert faults[2 if number in full else number] in message
        assert f"its record of step {number} is lost; the training, the checks and other records go on" in message
    kept = [0, 1, 5, 6, 7, 10, 11]
    assert [report["step"] for report in read_jsonl(saved / "log.jsonl") if report["step"] not in full] == kept
    assert [number for number in event_steps(saved) if number not in full] == kept


TOGETHER = """
folder = Path(sys.argv[1])
guard = guard_in(folder)
print(flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 40):
    assert step(guard, number) == []
guard.close()
"""


def test_two_runs_in_one_logdir_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two processes that write to the same log and the same folder: every line and every event is whole and there."""
    command = [sys.executable, "-c", f"{TRAINING}{TOGETHER}", str(tmp_path)]
    runs = [
        subprocess.Popen([*command, first], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for first in ("0", "100")
    ]
    for run in runs:
        assert run.stdout is not None
        run.stdout.readline()
    for run in runs:
        assert run.stdin is not None
        run.stdin.write(b"\n")
        run.stdin.flush()
    for run in runs:
        run.communicate()
        assert run.returncode == 0
    steps = [*range(40), *range(100, 140)]
    assert sorted(report["step"] for report in read_jsonl(tmp_path / "log.jsonl")) == steps
    assert event_steps(tmp_path / "run") == steps


UNSERIALISABLE = """
import dataclasses

class Odd(JSONLWriter):
    def write(self, report):
        odd = object() if report.step in (1, 2) else report.explanation
        super().write(dataclasses.replace(report, explanation=odd))

folder = Path(sys.argv[1])
guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None,
                  logdir=folder / "run", writers=[Odd(folder / "log.jsonl")])
print(json.dumps([step(guard, number) for number in range(12)] + [params["w"].tobytes().hex()]))
"""


def test_a_line_that_cannot_be_serialised_costs_itself_and_a_warning(tmp_path: Path) -> None:
    """No half of it is written, the events have the check, and the next line is on record."""
    *told, w = outcome_of([sys.executable, "-c", f"{TRAINING}{UNSERIALISABLE}", tmp_path])
    assert w == outcome_of([sys.executable, "-c", f"{TRAINING}{ALONE}"])
    assert [len(each) for each in told] == [0, 1, *[0] * 10]
    assert "Odd failed (TypeError: " in told[1][0]
    assert "its record of step 1 is lost" in told[1][0]
    assert [report["step"] for report in read_jsonl(tmp_path / "log.jsonl")] == [0, *range(3, 12)]
    assert event_steps(tmp_path / "run") == list(range(12))
