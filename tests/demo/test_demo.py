import contextlib
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from gradguard import Report, check
from gradguard.demo.train import Act, run_folders, tensorboard_command, verdict_of_fault, verdict_of_fixed
from gradguard.testing import FAULTS, LSTM, faulty, random_batch
from gradguard.writers import read_jsonl

LSTM_TENSORS = {"Wx", "Wh", "b"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory for the demo."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    """The demo as a user runs it, with fewer steps."""
    command = [sys.executable, "-m", "gradguard", "demo", "--logdir", "runs", "--steps", "200", "--every-n-steps", "40"]
    return subprocess.run(command, cwd=folder, env=importable(), capture_output=True, text=True, check=True)


def importable() -> dict[str, str]:
    """The environment with this Python's import path, so that a process elsewhere finds the same gradguard."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def acts(demo: subprocess.CompletedProcess[str]) -> list[str]:
    """What is printed of each act."""
    return re.split(r"^Act \d, |^To see", demo.stdout, flags=re.MULTILINE)[1:3]


def row(act: str, tensor: str) -> str:
    """The line of the act's table on a tensor."""
    found = re.search(rf"^step \d+ +{tensor} .*$", act, flags=re.MULTILINE)
    assert found, act
    return found[0]


def test_the_fault_is_found_at_the_first_check_and_named(demo: subprocess.CompletedProcess[str]) -> None:
    """At step 0 the LSTM's tensors are wrong by 39, the timesteps, and those of the softmax layer are right."""
    first, _ = acts(demo)
    for tensor in LSTM_TENSORS:
        assert re.search(r"^step 0 .*BUG: scale .*\b(39|39\.\d+|38\.9\d*)\(\d+\).*timesteps", row(first, tensor))
    assert all("BUG" not in row(first, tensor) for tensor in "Vc")
    assert "alarmed at step 0: scale in Wh, Wx, b, exactly the tensors that the fault affects." in first


def test_the_fixed_network_raises_no_alarm(demo: subprocess.CompletedProcess[str]) -> None:
    """The second act says that no tensor is wrong, and what accounts for the differences."""
    _, second = acts(demo)
    assert "BUG" not in second
    assert "The guard raised no alarm in " in second
    assert "rounding and truncation account for all differences" in second


def test_the_network_learns_and_better_without_the_fault(demo: subprocess.CompletedProcess[str]) -> None:
    """The loss on the genome falls below guessing, further in the second act."""
    losses = [re.search(r"200 steps: loss .* ([\d.]+) -> ([\d.]+) nats .*guessing: 1\.386", act) for act in acts(demo)]
    (faulty_start, faulty_end), (start, end) = [tuple(map(float, found.groups())) for found in losses if found]
    assert faulty_start == start
    assert end < faulty_end < start
    assert end < 1.386


def test_without_a_terminal_there_is_no_progress_bar(demo: subprocess.CompletedProcess[str]) -> None:
    """A log file gets the alarm, and none of the many lines that a bar redraws itself with; stdout stays clean."""
    assert "timesteps" in demo.stderr
    assert all(line.startswith("gradguard: ") for line in demo.stderr.splitlines())
    assert demo.stdout.startswith("\nAct 1, ")


def test_the_alarm_is_logged_beside_the_progress_bar(tmp_path: Path) -> None:
    """On a terminal each act has a bar with the latest check, and the alarm stands on a line of its own."""
    main, terminal = pty.openpty()
    command = [sys.executable, "-m", "gradguard", "demo", "--steps", "2", "--every-n-steps", "1"]
    termios.tcsetwinsize(terminal, (50, 150))
    with subprocess.Popen(command, cwd=tmp_path, env=importable(), stdout=subprocess.DEVNULL, stderr=terminal) as demo:
        os.close(terminal)
        lines = re.split(r"[\r\n]+", shown_on(main))
    assert demo.returncode == 0
    assert any(
        re.match(r"1-fault-timesteps: 100%.* 2/2 .*step \d+: BUG in Wx, Wh and b \(scale\)", line) for line in lines
    )
    assert any(re.match(r"2-fixed: 100%.* 2/2 .*step \d+: ok, 5 tensors", line) for line in lines)
    assert any(line.startswith("gradguard: step 0 Wx") for line in lines)


def shown_on(main: int) -> str:
    """What is written to a terminal until its last user is gone, which Linux tells by an error."""
    shown = b""
    with os.fdopen(main, "rb", buffering=0) as stream, contextlib.suppress(OSError):
        while chunk := stream.read(4096):
            shown += chunk
    return shown.decode()


def test_each_act_is_logged_into_its_own_folder(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    """Both folders hold event files and the reports, which say what the table says."""
    assert demo.returncode == 0
    runs = folder / "runs"
    assert sorted(path.name for path in runs.iterdir()) == ["1-fault-timesteps", "2-fixed"]
    first, second = (read_jsonl(runs / name / "reports.jsonl") for name in ("1-fault-timesteps", "2-fixed"))
    assert (first[0]["step"], first[0]["verdict"]) == (0, "scale")
    ratios = {name: tensor["ratio"] for name, tensor in first[0]["tensors"].items() if tensor["verdict"] == "scale"}
    assert ratios == pytest.approx(dict.fromkeys(LSTM_TENSORS, 39), rel=0.01)
    assert {report["verdict"] for report in second} <= {"ok", "float_precision", "inconclusive"}
    assert all(any(path.glob("events.out.tfevents.*")) for path in runs.iterdir())


def test_the_tensorboard_command_can_be_pasted(demo: subprocess.CompletedProcess[str], folder: Path) -> None:
    """The last line starts a program that exists, with the log folder as it was given."""
    program, *options = shlex.split(demo.stdout.splitlines()[-1])
    assert options == ["--logdir", "runs"]
    assert shutil.which(program) or (folder / program).exists()


def executable(folder: Path) -> Path:
    """A program named tensorboard in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "tensorboard"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_tensorboard_is_named_as_one_would_type_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain when this Python's is on PATH, else by its path, which is relative inside the working directory."""
    own, other = executable(tmp_path / ".venv" / "bin"), executable(tmp_path / "other")
    monkeypatch.setattr(sys, "executable", str(own.parent / "python"))
    monkeypatch.chdir(tmp_path)
    for path, said in (
        (own.parent, "tensorboard"),
        (other.parent, ".venv/bin/tensorboard"),
        (tmp_path, ".venv/bin/tensorboard"),
    ):
        monkeypatch.setenv("PATH", str(path))
        assert tensorboard_command(Path("runs")) == f"{said} --logdir runs"
    monkeypatch.chdir(other.parent)
    assert tensorboard_command(Path("my runs")) == f"{own} --logdir 'my runs'"


def test_a_second_run_gets_folders_of_its_own(tmp_path: Path) -> None:
    """Folders that hold something are left alone, and the two acts of a run carry the same number."""
    fault = FAULTS["timesteps"]
    first = run_folders(tmp_path / "runs", fault)
    assert [path.name for path in first] == ["1-fault-timesteps", "2-fixed"]
    assert run_folders(tmp_path / "runs", fault) == first
    (first[1] / "events").write_text("of the first run\n")
    assert [path.name for path in run_folders(tmp_path / "runs", fault)] == ["1-fault-timesteps-2", "2-fixed-2"]


def measured(name: str | None) -> Act:
    """An act of one check, of the fault or of the correct network."""
    model, batch = (faulty(name) if name else LSTM)(), random_batch(5, 2)
    report: Report = check(model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch), precision="native")
    return Act(before=1.5, after=1.4, steps=1, reports=(report,))


def test_the_last_word_tells_what_was_found_beside_what_was_planted() -> None:
    """A fault found, one found in another place, one not found, and a false alarm: each is told as what it is."""
    missing_bias, correct = measured("missing-bias"), measured(None)
    planted, elsewhere = FAULTS["missing-bias"], FAULTS["missing-wh"]
    assert verdict_of_fault(missing_bias, planted).endswith(
        ": missing in b, exactly the tensors that the fault affects."
    )
    assert verdict_of_fault(missing_bias, elsewhere).endswith(": missing in b; the fault affects Wh.")
    assert verdict_of_fault(correct, planted) == "The guard saw no bug in 1 check; the fault affects b."
    assert verdict_of_fixed(missing_bias) == "A false alarm at step 0, in b."
    assert verdict_of_fixed(correct).startswith("The guard raised no alarm in 1 check: ")
