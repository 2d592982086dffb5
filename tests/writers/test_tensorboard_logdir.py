"""Where a run is written: folders, names, several runs, other file systems."""

import pickle
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.util.tensor_util import make_ndarray
from tensorboard_runs import charts, event_files, layouts, read_run, steps, write_all

from gradguard import Verdict
from gradguard.writers import TensorBoardWriter


def test_a_step_that_goes_back_is_refused(tmp_path: Path, make_report: MakeReport) -> None:
    """TensorBoard would erase the history, so the error names both steps and nothing is written."""
    writer = TensorBoardWriter(tmp_path)
    writer.write(make_report(20))
    writer.write(make_report(20))
    with pytest.raises(ValueError, match=r"at least 20, .* got 19"):
        writer.write(make_report(19))
    writer.write(make_report(21))
    writer.close()
    assert set(steps(read_run(tmp_path), "gradguard.ratio/W")) == {20, 21}


def test_a_logdir_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The mistake is told when the writer is made, with what was given and what was expected."""
    (tmp_path / "log").write_text("mine")
    for logdir in (tmp_path / "log", str(tmp_path / "log" / "run")):
        with pytest.raises(NotADirectoryError, match=r"expected a directory .* but .*log is a file"):
            TensorBoardWriter(logdir)
    assert (tmp_path / "log").read_text() == "mine"


def test_a_scheme_that_nothing_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown `scheme://` is an error when the writer is made, and never a local folder of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="nosuchscheme"):
        TensorBoardWriter("nosuchscheme://bucket/run")
    assert list(tmp_path.iterdir()) == []


def test_a_relative_logdir_stays_where_it_was_meant(
    tmp_path: Path, make_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training script that changes its directory does not move its run."""
    monkeypatch.chdir(tmp_path)
    writer = TensorBoardWriter("run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.write(make_report(0))
    writer.close()
    assert len(event_files(tmp_path / "run")) == 1


@pytest.mark.parametrize("name", ["../../../etc/W", "/W", "layers/0/W", "", "C:\\W", "W\x00", "é\ud800", "W.*+(["])
def test_a_tensor_may_have_any_name(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, name: str
) -> None:
    """A name only ever becomes part of a tag: all that is written lies in the log directory."""
    logdir = tmp_path / "runs" / "lstm"
    write_all(logdir, make_report(0, make_tensor(name)))
    shown_name = name.encode("utf-8", "backslashreplace").decode()
    assert f"gradguard.discrepancy/{shown_name}" in read_run(logdir)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == event_files(logdir)


def test_the_multiplexer_finds_every_run(tmp_path: Path, make_report: MakeReport) -> None:
    """Runs side by side in one log directory are told apart by their folders."""
    write_all(tmp_path / "right", make_report(0))
    write_all(tmp_path / "wrong", make_report(0, verdict=Verdict.scale))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    verdicts = {
        run: make_ndarray(multiplexer.Tensors(run, "gradguard.check/verdict")[0].tensor_proto).item()
        for run in multiplexer.Runs()
    }
    assert verdicts == {"right": 0, "wrong": 3}


def test_a_logdir_that_is_removed_is_begun_again(tmp_path: Path, make_report: MakeReport) -> None:
    """Clearing the runs while a training writes to them costs no report that comes later, nor the layout."""
    writer = TensorBoardWriter(tmp_path / "run")
    writer.write(make_report(0))
    (tmp_path / "run").rename(tmp_path / "old")
    writer.write(make_report(1))
    writer.close()
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [1]
    assert [charts(layout) for layout in layouts(run)] == [["W", "V"]]


def test_a_remote_logdir_is_written_through_fsspec(tmp_path: Path, make_report: MakeReport) -> None:
    """A `scheme://` path holds each report when `write` returns, also from a pickled copy."""
    pytest.importorskip("fsspec")
    writer = TensorBoardWriter(f"file://{tmp_path}/run")
    for step in range(3):
        writer.write(make_report(step))
        assert steps(read_run(tmp_path / "run"), "gradguard.ratio/W") == list(range(step + 1))
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    writer.close()
    copy.write(make_report(3))
    copy.close()
    run = read_run(tmp_path / "run")
    assert steps(run, "gradguard.ratio/W") == [0, 1, 2, 3]
    assert charts(layouts(run)[-1]) == ["W", "V"]
