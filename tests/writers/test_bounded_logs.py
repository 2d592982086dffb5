"""Logs of long runs: they stay below their bound, and what changed is still there."""

import logging
import os
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from reports import MakeReport, MakeTensor, RunScript
from tensorboard_runs import event_files, read_run, steps

from gradguard import Alert, JSONLWriter, Report, TensorBoardWriter, Verdict, Writer
from gradguard.runs import read_logs, story_of
from gradguard.writers.files import Written, chosen
from gradguard.writers.tensorboard.bounded import FILES

BOUND = 400_000
CHECKS = 1500
WRONG = range(300, 310)

Make = Callable[[Path], Writer]


def events(folder: Path) -> Writer:
    """A bounded writer of event files."""
    return TensorBoardWriter(folder, max_megabytes=BOUND / 1e6)


def lines(folder: Path) -> Writer:
    """A bounded writer of JSON lines."""
    return JSONLWriter(folder / "log.jsonl", max_megabytes=BOUND / 1e6)


def size_of(folder: Path) -> int:
    """The bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture
def reports(make_report: MakeReport, make_tensor: MakeTensor) -> Callable[[int], Iterator[Report]]:
    """A long run with a bug in a few early checks."""

    def run(checks: int) -> Iterator[Report]:
        for step in range(checks):
            verdict = Verdict.scale if step in WRONG else Verdict.ok
            alerts = (Alert(step, logging.ERROR, "W", verdict, "BUG"),) if step == WRONG.start else ()
            yield make_report(step, make_tensor("W", verdict=verdict), make_tensor("V"), verdict=verdict, alerts=alerts)

    return run


@pytest.mark.parametrize("make", [events, lines])
def test_a_long_run_stays_below_its_bound_and_keeps_its_changes(
    tmp_path: Path, make: Make, reports: Callable[[int], Iterator[Report]]
) -> None:
    """At each check; old checks are there at about even distances, the latest ones all, and the story is whole."""
    folder = tmp_path / "run"
    folder.mkdir()
    writer = make(folder)
    for report in reports(CHECKS):
        writer.write(report)
        assert size_of(folder) <= BOUND
    writer.close()
    (log,) = read_logs(str(folder))
    found = [check["step"] for check in log.checks]
    assert {0, WRONG.start, WRONG.stop, CHECKS - 1} <= set(found)
    assert found == sorted(set(found))
    assert found[-20:] == list(range(CHECKS - 20, CHECKS))
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert 1 < max(gaps) < 200
    assert [alert["step"] for check in log.checks for alert in check["alerts"]] == [WRONG.start]
    assert f"from step {WRONG.start}, right again at step {WRONG.stop}" in story_of(log.checks).headline
    assert log.unreadable == 0


def test_the_thinned_files_are_event_files_of_tensorboard(
    tmp_path: Path, reports: Callable[[int], Iterator[Report]]
) -> None:
    """Few, in the order of the steps, and TensorBoard reads a curve through all of them."""
    writer = events(tmp_path)
    for report in reports(CHECKS):
        writer.write(report)
    writer.close()
    assert 2 <= len(event_files(tmp_path)) <= FILES
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in event_files(tmp_path)}
    curve = steps(read_run(tmp_path), "gradguard.discrepancy/W")
    assert curve == sorted(set(curve))
    assert {0, WRONG.start, CHECKS - 1} <= set(curve)


def test_other_files_in_the_folder_are_not_touched(tmp_path: Path, reports: Callable[[int], Iterator[Report]]) -> None:
    """Neither those of another writer of TensorBoard, nor those of a run before."""
    before = events(tmp_path)
    for report in reports(50):
        before.write(report)
    before.close()
    (tmp_path / "events.out.tfevents.1.other").write_bytes(b"mine")
    content = {path: path.read_bytes() for path in tmp_path.iterdir()}
    writer = events(tmp_path)
    for report in reports(CHECKS):
        writer.write(report)
    writer.close()
    assert {path: path.read_bytes() for path in content} == content


def test_a_copy_of_a_writer_thins_its_own_files_only(
    tmp_path: Path, reports: Callable[[int], Iterator[Report]]
) -> None:
    """A pickled guard beside the one that it was made of."""
    writer = events(tmp_path)
    several = list(reports(400))
    for report in several:
        writer.write(report)
    writer.close()
    content = {path: path.read_bytes() for path in event_files(tmp_path)}
    copy = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
    for step, report in enumerate(several):
        copy.write(
            Report(**{name: getattr(report, name) for name in Report.__dataclass_fields__} | {"step": 400 + step})
        )
    copy.close()
    assert {path: path.read_bytes() for path in content} == content


@pytest.mark.parametrize("make", ["TensorBoardWriter", "JSONLWriter"])
def test_both_sides_of_a_fork_thin_without_a_loss(
    tmp_path: Path, make: str, make_report: MakeReport, run_script: RunScript
) -> None:
    """Files stay readable, and each side's last checks are there."""
    script = f"""
import os, pathlib
from gradguard.writers import {make}
path = pathlib.Path(sys.argv[1])
writer = {make}(path if {make!r} == "TensorBoardWriter" else path / "log.jsonl", max_megabytes=0.2)
for report in reports[:300]:
    writer.write(report)
child = os.fork()
for report in reports[300:]:
    writer.write(report)
if child == 0:
    os._exit(0)
sys.exit(os.waitpid(child, 0)[1])
"""
    finished = run_script(script, [make_report(step) for step in range(600)], tmp_path)
    assert finished.returncode == 0, finished.stderr
    skipped: list[object] = []
    (log,) = read_logs(str(tmp_path), skip=skipped.append)
    assert log.unreadable == 0
    assert skipped == []
    assert log.checks[-1]["step"] == 599
    assert not list(tmp_path.glob(".*"))


def test_a_killed_process_leaves_logs_below_the_bound(
    tmp_path: Path, make_report: MakeReport, run_script: RunScript
) -> None:
    """And the last check."""
    script = """
import os, signal
from gradguard.writers import TensorBoardWriter
writer = TensorBoardWriter(sys.argv[1], max_megabytes=0.2)
for report in reports:
    writer.write(report)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_script(script, [make_report(step) for step in range(500)], tmp_path)
    (log,) = read_logs(str(tmp_path))
    assert log.checks[-1]["step"] == 499
    assert sum(path.stat().st_size for path in event_files(tmp_path)) <= 200_000


def test_a_log_that_cannot_be_rewritten_is_continued(
    tmp_path: Path, reports: Callable[[int], Iterator[Report]]
) -> None:
    """Where a folder stands in the way of the rewriting, checks are written all the same."""
    (tmp_path / f".log.jsonl.{os.getpid()}.partial").mkdir()
    writer = lines(tmp_path)
    for report in reports(CHECKS):
        writer.write(report)
    (log,) = read_logs(str(tmp_path / "log.jsonl"))
    assert [check["step"] for check in log.checks] == list(range(CHECKS))


def test_changes_are_dropped_last() -> None:
    """All of them stay while they fit; if they alone are too many, they are thinned like the rest."""
    written = [Written(step, 10, step % 10 == 3) for step in range(100)]
    kept = [record.step for record, keep in zip(written, chosen(written, 300), strict=True) if keep]
    assert set(range(3, 100, 10)) <= set(kept)
    assert 100 < 10 * len(kept) <= 300
    assert 10 * sum(chosen([Written(step, 10, True) for step in range(100)], 300)) <= 300


def test_a_training_that_is_set_back_again_and_again_is_bounded_too() -> None:
    """Each time it begins at the same step, so that no distance of steps makes the records few enough."""
    written = [Written(step, 10, False) for _ in range(100) for step in range(2)]
    assert 0 < 10 * sum(chosen(written, 300)) <= 300


@pytest.mark.parametrize("megabytes", [0, -1, float("nan"), "100", True, None])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, megabytes: object) -> None:
    """The message names the option."""
    for make in (
        lambda: TensorBoardWriter(tmp_path, max_megabytes=megabytes),  # type: ignore[arg-type]
        lambda: JSONLWriter(tmp_path / "log.jsonl", max_megabytes=megabytes),
    ):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"max_megabytes is .*; expected a number above 0"):
            make()
