import json
from pathlib import Path

import numpy as np
import pytest
from reports import MakeReport, MakeTensor
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.util.tensor_util import make_tensor_proto

from gradguard import Report, Verdict, sweep
from gradguard.runs.logs import read_logs
from gradguard.writers import JSONLWriter, TensorBoardWriter
from gradguard.writers.record import CHECK_TAG
from gradguard.writers.tensorboard.event_file import LocalEventFile


def write_events(folder: Path, *reports: Report) -> Path:
    """Write reports as event files, and return the last of them."""
    writer = TensorBoardWriter(folder)
    for report in reports:
        writer.write(report)
    writer.close()
    return max(folder.glob("events*"))


def write_lines(path: Path, *reports: Report) -> None:
    """Write reports as JSON lines."""
    writer = JSONLWriter(path)
    for report in reports:
        writer.write(report)


def test_runs_are_found_below_a_folder(tmp_path: Path, make_report: MakeReport) -> None:
    """Event files and JSON lines, each run by its folder; other files are left alone."""
    write_events(tmp_path, make_report(1))
    write_events(tmp_path / "a" / "b", make_report(2), make_report(3))
    write_lines(tmp_path / "c" / "log.jsonl", make_report(4))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "other.jsonl").write_text('{"text": "of somebody else"}\n')
    (tmp_path / "d" / "events.out.tfevents.0").write_bytes(b"no event at all")
    assert {log.run: [check["step"] for check in log.checks] for log in read_logs(str(tmp_path))} == {
        ".": [1],
        "a/b": [2, 3],
        "c": [4],
    }


def test_both_kinds_of_logs_tell_the_same(tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """A check read back from event files has the numbers that its line has."""
    reports = [make_report(step, make_tensor("W", verdict=Verdict.scale), make_tensor("V")) for step in (0, 10)]
    write_events(tmp_path / "events", *reports)
    write_lines(tmp_path / "lines" / "log.jsonl", *reports)
    events, lines = read_logs(str(tmp_path))
    for ours, theirs in zip(events.checks, lines.checks, strict=True):
        for name in ("W", "V"):
            assert ours["tensors"][name] == theirs["tensors"][name] | {"worst": ours["tensors"][name]["worst"]}


def test_logs_of_versions_that_wrote_whole_reports_are_read(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Lines and uncompressed records with all numbers of every tensor, also where a later version continues them."""
    late = make_tensor("V", measured_at=0, screened_at=10, discrepancy=0.25)
    reports = [make_report(0), make_report(10, make_tensor("W"), late)]
    path = tmp_path / "lines" / "log.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(report.to_dict())}\n" for report in reports))
    file = LocalEventFile(tmp_path / "events")
    for report in reports:
        content = make_tensor_proto(json.dumps(report.to_dict()).encode())
        summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=CHECK_TAG, tensor=content)])
        file.add(event_pb2.Event(step=report.step, summary=summary))
    file.close()
    write_lines(path, make_report(20))
    events, lines = read_logs(str(tmp_path))
    assert [check["step"] for check in lines.checks] == [0, 10, 20]
    assert events.checks == lines.checks[:2]
    assert [check["tensors"]["V"]["discrepancy"] for check in lines.checks] == [2.8e-5, 0.25, 2.8e-5]


def test_the_fuller_log_of_a_run_is_read(tmp_path: Path, make_report: MakeReport) -> None:
    """Where one of two logs was begun later, or lost, the other tells the story."""
    write_events(tmp_path, make_report(0), make_report(1))
    write_lines(tmp_path / "log.jsonl", make_report(1))
    (log,) = read_logs(str(tmp_path))
    assert [check["step"] for check in log.checks] == [0, 1]


def test_a_run_that_goes_back_erases_what_follows(tmp_path: Path, make_report: MakeReport) -> None:
    """As TensorBoard sees it: a training resumed from step 10 takes back the checks behind that."""
    write_lines(tmp_path / "log.jsonl", *map(make_report, (0, 10, 20, 30, 10, 15)))
    (log,) = read_logs(str(tmp_path / "log.jsonl"))
    assert [check["step"] for check in log.checks] == [0, 10, 15]


def test_torn_logs_are_read_as_far_as_they_go(tmp_path: Path, make_report: MakeReport) -> None:
    """A process that was killed in the middle of a check costs that check."""
    path = write_events(tmp_path / "events", make_report(0), make_report(1))
    path.write_bytes(path.read_bytes()[:-100])
    write_lines(tmp_path / "lines" / "log.jsonl", make_report(0), make_report(1))
    lines = tmp_path / "lines" / "log.jsonl"
    lines.write_bytes(lines.read_bytes()[:-100])
    for log in read_logs(str(tmp_path)):
        assert [check["step"] for check in log.checks] == [0]
        assert log.unreadable == 0


def test_what_cannot_be_read_is_counted(tmp_path: Path, make_report: MakeReport) -> None:
    """A broken line in the middle is no reason to hide the rest, and is told."""
    path = tmp_path / "log.jsonl"
    write_lines(path, make_report(0))
    path.write_text(f'{path.read_text()}{{"step": 1, "tens\n[]\n{path.read_text()}')
    (log,) = read_logs(str(path))
    assert (len(log.checks), log.unreadable) == (1, 2)


def test_the_last_sweep_comes_along(tmp_path: Path) -> None:
    """A sweep that was written beside the checks, or by itself."""
    x = {"x": np.ones(3, np.float32)}
    writer = TensorBoardWriter(tmp_path)
    swept = sweep(x, x, lambda: np.float32(x["x"].sum()), steps=[1e-3, 1e-2])
    writer.write_sweep(swept)
    writer.close()
    (log,) = read_logs(str(tmp_path))
    assert log.checks == []
    assert log.sweep is not None
    assert log.sweep["steps"] == [1e-3, 1e-2]
    assert log.sweep["tensors"]["x"]["discrepancy"] == swept.to_dict()["discrepancy"]


@pytest.mark.filterwarnings("ignore")  # of what fsspec leaves open
def test_remote_logs_are_read_as_they_are_written(make_report: MakeReport) -> None:
    """Whatever path fsspec understands, as TensorBoard does."""
    pytest.importorskip("fsspec")
    writer = TensorBoardWriter("memory://logs/run")
    writer.write(make_report(3))
    writer.close()
    (log,) = read_logs("memory://logs")
    assert [check["step"] for check in log.checks] == [3]


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nothing to read is not the same as nothing wrong."""
    with pytest.raises(FileNotFoundError, match="there is no"):
        read_logs(str(tmp_path / "missing"))
    assert read_logs(str(tmp_path)) == []
