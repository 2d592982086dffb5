"""The files of a run: closed, copied, killed, forked, and on a full disk."""

import pickle
import signal
from pathlib import Path

import pytest
from reports import MakeReport, RunScript
from tensorboard_runs import LAYOUT, charts, event_files, events_in, layouts, read_run, steps

from gradguard.writers import TensorBoardWriter, Writer


def test_a_writer_may_be_closed_twice_and_written_to_again(tmp_path: Path, make_report: MakeReport) -> None:
    """Closing ends a file, not the writer: the next report begins another."""
    writer = TensorBoardWriter(tmp_path)
    assert isinstance(writer, Writer)
    writer.close()
    for step in range(2):
        writer.write(make_report(step))
        writer.close()
        writer.close()
    assert steps(read_run(tmp_path), "gradguard.ratio/W") == [0, 1]


def test_the_files_of_a_run_are_read_in_order(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """TensorBoard sorts names as text and never goes back, so the tenth file must not sort before the ninth."""
    script = """
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
for report in reports:
    writer.write(report)
    writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(12)], tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    assert len(event_files(tmp_path / "run")) == 12
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(12))


def test_a_pickled_writer_continues_in_a_file_of_its_own(tmp_path: Path, make_report: MakeReport) -> None:
    """A copy keeps the log directory, the last step and the tensors of the layout, and never shares a file."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(make_report(5))
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    writer.close()
    with pytest.raises(ValueError, match=r"at least 5, .* got 4"):
        copy.write(make_report(4))
    copy.write(make_report(6))
    copy.close()
    assert [[event.step for event in events_in(path)[1:]] for path in event_files(tmp_path)] == [[5], [6]]
    assert charts(layouts(read_run(tmp_path))[-1]) == ["W", "V"]


def test_reports_survive_a_kill(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """A process killed right after `write` loses nothing."""
    script = """
import os, signal
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
for report in reports:
    writer.write(report)
os.kill(os.getpid(), signal.SIGKILL)
"""
    finished = run_script(script, [make_report(step) for step in range(50)], tmp_path / "run")
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(50))


def test_a_forked_child_writes_its_own_file(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """Parent and child both go on writing, and neither tears the other's file."""
    script = """
import os
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1])
writer.write(reports[0])
child = os.fork()
for report in reports[1:] if child else reports[-1:]:
    writer.write(report)
writer.close()
if child == 0:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    finished = run_script(script, [make_report(step) for step in range(30)], tmp_path / "run")
    assert finished.returncode == 0, finished.stderr
    written = [[event.step for event in events_in(path)[1:]] for path in event_files(tmp_path / "run")]
    assert sorted(written) == [list(range(30)), [29]]


FULL_DISK = """
import resource, signal
from pathlib import Path
from gradguard.writers import TensorBoardWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
unlimited = resource.RLIM_INFINITY
logdir, room = Path(sys.argv[1]), int(sys.argv[2])
writer = TensorBoardWriter(logdir)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, unlimited))
"""


def test_a_full_disk_costs_only_the_reports_that_did_not_fit(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript
) -> None:
    """After an OSError in the middle of an event the next report begins a file, and no torn event is left."""
    script = f"""{FULL_DISK}
writer.write(reports[0])
writer.write(reports[1])
[first] = logdir.iterdir()
whole = first.stat().st_size
limit(whole + room)
try:
    writer.write(reports[2])
except OSError as error:
    print(error.errno, first.stat().st_size - whole)
limit(unlimited)
writer.write(reports[3])
writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(4)], tmp_path / "run", 100)
    assert finished.returncode == 0, finished.stderr
    assert (finished.stdout, finished.stderr) == ("27 0\n", "")
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [0, 1, 3]
    assert steps(run, LAYOUT) == [0, 3]


@pytest.mark.parametrize("room", [0, 10, 200])
def test_a_disk_that_stays_full_is_not_littered(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript, room: int
) -> None:
    """A file that never held a whole check is removed, however often the writer tries."""
    script = f"""{FULL_DISK}
limit(room)
for report in reports:
    try:
        writer.write(report)
    except OSError:
        print(len(list(logdir.iterdir())))
limit(unlimited)
writer.write(reports[0])
writer.close()
"""
    finished = run_script(script, [make_report(step) for step in range(3)], tmp_path / "run", room)
    assert (finished.stdout, finished.stderr) == ("0\n0\n0\n", "")
    assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == [0]
