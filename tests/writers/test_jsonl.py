import json
import math
import pickle
import signal
from pathlib import Path
from typing import Any

import pytest
from reports import MakeReport, MakeTensor, RunScript

from gradguard import Alert, Report, Verdict
from gradguard.writers import JSONLWriter, Writer, read_jsonl


def _refuse(constant: str) -> None:
    pytest.fail(f"{constant} is not JSON")


def test_every_report_comes_back_complete(tmp_path: Path, make_report: MakeReport) -> None:
    """What is read back is, report by report, what `to_dict` gives."""
    alert = Alert(1, 40, "W", Verdict.scale, "numerical = 39 x backprop\non all é gates")
    reports = [make_report(0), make_report(1, alerts=(alert,)), make_report(1, overhead=None)]
    writer = JSONLWriter(tmp_path / "log.jsonl")
    for report in reports:
        writer.write(report)
    writer.close()
    assert read_jsonl(tmp_path / "log.jsonl") == [report.to_dict() for report in reports]


def test_every_line_is_strict_json(tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Numbers that JSON does not have become null, so that any reader of JSON can read the log."""
    path = tmp_path / "log.jsonl"
    JSONLWriter(path).write(make_report(0, make_tensor(ratio=math.nan, floor=math.inf, ratios=(-math.inf, 1.0))))
    [line] = path.read_text().splitlines()
    tensor = json.loads(line, parse_constant=_refuse)["tensors"]["W"]
    assert (tensor.get("ratio"), tensor.get("floor"), tensor["ratios"]) == (None, None, [None, 1.0])


def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path, make_report: MakeReport) -> None:
    """A report that would make broken JSON is refused whole, and the log stays as it was."""

    class Leaky(Report):
        def to_dict(self) -> dict[str, Any]:
            return {"step": self.step, "loss": math.nan}

    writer = JSONLWriter(tmp_path / "log.jsonl")
    writer.write(make_report(0))
    fields = {name: getattr(make_report(1), name) for name in Report.__dataclass_fields__}
    with pytest.raises(ValueError, match="not JSON compliant"):
        writer.write(Leaky(**fields))
    assert [report["step"] for report in read_jsonl(tmp_path / "log.jsonl")] == [0]


def test_a_later_run_appends(tmp_path: Path, make_report: MakeReport) -> None:
    """A training that is resumed goes on in the same file."""
    path = tmp_path / "log.jsonl"
    for step in range(3):
        JSONLWriter(path).write(make_report(step))
    assert [report["step"] for report in read_jsonl(path)] == [0, 1, 2]


def test_a_torn_last_line_is_left_out(tmp_path: Path, make_report: MakeReport) -> None:
    """Wherever the last line is cut, the reports before it are read."""
    path = tmp_path / "log.jsonl"
    writer = JSONLWriter(path)
    writer.write(make_report(0))
    whole = path.read_bytes()
    writer.write(make_report(1))
    both = path.read_bytes()
    for size in range(len(whole), len(both) - 1):
        path.write_bytes(both[:size])
        assert [report["step"] for report in read_jsonl(path)] == [0]


def test_a_last_line_that_lacks_only_its_end_is_read(tmp_path: Path, make_report: MakeReport) -> None:
    """A whole report counts, with or without a newline behind it."""
    path = tmp_path / "log.jsonl"
    JSONLWriter(path).write(make_report(7))
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    assert read_jsonl(path) == [make_report(7).to_dict()]


@pytest.mark.parametrize("broken", ['{"step": 1, "tens', "[1, 2]", ""])
def test_a_broken_line_elsewhere_is_told_by_its_number(tmp_path: Path, make_report: MakeReport, broken: str) -> None:
    """Damage in the middle of a log is an error that says where, not a report that is missing."""
    path = tmp_path / "log.jsonl"
    line = json.dumps(make_report(0).to_dict())
    path.write_text(f"{line}\n{broken}\n{line}\n")
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2: expected the JSON of a report"):
        read_jsonl(path)


@pytest.mark.parametrize(("lost", "steps"), [(1, [0, 1, 2]), (2, [0, 2]), (300, [0, 2])])
def test_a_run_that_goes_on_after_a_crash_mends_the_log(
    tmp_path: Path, make_report: MakeReport, lost: int, steps: list[int]
) -> None:
    """A line that the crash tore is cut off, one that is whole is kept, and the log stays readable."""
    path = tmp_path / "log.jsonl"
    writer = JSONLWriter(path)
    writer.write(make_report(0))
    writer.write(make_report(1))
    path.write_bytes(path.read_bytes()[:-lost])
    JSONLWriter(path).write(make_report(2))
    assert [report["step"] for report in read_jsonl(path)] == steps


def test_a_file_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    """A wrong path is an error at once: nothing is appended to, or cut off, a file that is not a log of reports."""
    path = tmp_path / "config.json"
    path.write_text('{"batch": 16}')
    with pytest.raises(ValueError, match=r"config\.json, which starts with b'\{\"batch\":"):
        JSONLWriter(path)
    assert path.read_text() == '{"batch": 16}'


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """The message says that a file was expected, and what was given."""
    with pytest.raises(IsADirectoryError, match="expected a file to append reports to, got the directory"):
        JSONLWriter(tmp_path)


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path: Path) -> None:
    """The message tells which part of the path is a file."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(NotADirectoryError, match=r"expected a directory .* but .*runs is a file"):
        JSONLWriter(tmp_path / "runs" / "lstm" / "log.jsonl")


def test_a_log_that_is_moved_away_is_begun_again(tmp_path: Path, make_report: MakeReport) -> None:
    """Rotating the log, or losing its folder, costs no report that comes later."""
    path = tmp_path / "logs" / "log.jsonl"
    writer = JSONLWriter(path)
    writer.write(make_report(0))
    path.parent.rename(tmp_path / "old")
    writer.write(make_report(1))
    assert [report["step"] for report in read_jsonl(path)] == [1]


def test_a_relative_path_stays_where_it_was_meant(
    tmp_path: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training script that changes its directory does not move its log."""
    monkeypatch.chdir(tmp_path)
    writer = JSONLWriter("log.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.write(make_report(0))
    assert len(read_jsonl(tmp_path / "log.jsonl")) == 1


def test_a_pickled_writer_appends_to_the_same_log(tmp_path: Path, make_report: MakeReport) -> None:
    """A guard inside a pickled trainer keeps its log."""
    path = tmp_path / "log.jsonl"
    writer = JSONLWriter(path)
    writer.write(make_report(0))
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    copy.write(make_report(1))
    writer.write(make_report(2))
    assert [report["step"] for report in read_jsonl(path)] == [0, 1, 2]


def test_reports_survive_a_kill(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """A process killed right after `write` loses nothing."""
    path = tmp_path / "log.jsonl"
    reports = [make_report(step) for step in range(20)]
    script = """
import os, signal
from gradguard.writers import JSONLWriter
writer = JSONLWriter(sys.argv[1])
for report in reports:
    writer.write(report)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run_script(script, reports, path).returncode == -signal.SIGKILL
    assert read_jsonl(path) == [report.to_dict() for report in reports]


def test_both_sides_of_a_fork_may_write(tmp_path: Path, make_report: MakeReport, run_script: RunScript) -> None:
    """A forked child appends its reports whole, between the parent's."""
    script = """
import os
from gradguard.writers import JSONLWriter
writer = JSONLWriter(sys.argv[1])
writer.write(reports[0])
child = os.fork()
for report in reports[1:]:
    writer.write(report)
if child == 0:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    finished = run_script(script, [make_report(step) for step in range(50)], tmp_path / "log.jsonl")
    assert finished.returncode == 0, finished.stderr
    steps = sorted(report["step"] for report in read_jsonl(tmp_path / "log.jsonl"))
    assert steps == sorted([*range(50), *range(1, 50)])


def test_a_full_disk_costs_only_the_reports_that_did_not_fit(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript
) -> None:
    """After an OSError in the middle of a line the next report is written, and the log has no torn line."""
    script = """
import os, resource, signal
from gradguard.writers import JSONLWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1]
writer = JSONLWriter(path)
writer.write(reports[0])
for report in reports[1:3]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path) + 50, resource.RLIM_INFINITY))
    try:
        writer.write(report)
    except OSError as error:
        print(error.errno)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.write(reports[3])
"""
    finished = run_script(script, [make_report(step) for step in range(4)], tmp_path / "log.jsonl")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["27", "27"]
    assert [report["step"] for report in read_jsonl(tmp_path / "log.jsonl")] == [0, 3]


def test_it_is_a_writer(tmp_path: Path, make_report: MakeReport) -> None:
    """It satisfies the protocol, and may be closed twice and written to again."""
    writer = JSONLWriter(tmp_path / "log.jsonl")
    assert isinstance(writer, Writer)
    writer.close()
    writer.close()
    writer.write(make_report(0))
    assert len(read_jsonl(writer.path)) == 1


def test_importing_the_writers_does_not_import_tensorboard(run_script: RunScript) -> None:
    """TensorBoard is imported by whoever asks for its writer, and an unknown name is an AttributeError."""
    script = """
import gradguard.writers
assert not any(name.partition(".")[0] == "tensorboard" for name in sys.modules)
assert not hasattr(gradguard.writers, "TensorboardWriter")
assert gradguard.writers.TensorBoardWriter.__name__ == "TensorBoardWriter"
assert "tensorboard" in sys.modules
"""
    finished = run_script(script, [])
    assert finished.returncode == 0, finished.stderr
