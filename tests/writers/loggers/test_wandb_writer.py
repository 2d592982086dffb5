"""Reports in a run of Weights & Biases: the real package, offline."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from guarded_sine import sine
from reports import MakeReport
from wandb_runs import axes, rows

from gradguard import Verdict, WandbWriter

wandb = pytest.importorskip("wandb")


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing leaves this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(tmp_path_factory.mktemp("wandb")))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield
        wandb.teardown()


def of_gradguard(row: dict[str, Any]) -> dict[str, float]:
    """What a row says of a check, its step left out."""
    return {key: value for key, value in row.items() if key.startswith("gradguard/") and key != "gradguard/step"}


def test_a_run_of_the_writer_has_a_row_for_each_check_and_ends_with_the_guard() -> None:
    """Over the training step; the run of the program is another one, and there still is none."""
    writer = WandbWriter(project="sine")
    params, guard = sine(writers=[writer], on_alert=lambda _: None)
    reports = [guard.check_now(step, {"w": np.cos(params["w"]) / factor}) for step, factor in ((0, 1), (7, 1), (9, 39))]
    assert wandb.run is None
    guard.close()
    run = writer._run
    assert run.project == "sine"
    found = rows(run)
    assert [row["gradguard/step"] for row in found] == [0, 7, 9]
    for row, report in zip(found, reports, strict=True):
        assert of_gradguard(row) == pytest.approx(report.scalars())
    assert [row["gradguard/check/verdict"] for row in found] == [Verdict.ok.level] * 2 + [Verdict.scale.level]
    assert axes(run) == {"gradguard/*": "gradguard/step"}
    with pytest.raises(wandb.errors.UsageError):
        run.log({"loss": 1})


@pytest.mark.parametrize("handed_over", [True, False])
def test_the_rows_of_a_run_of_the_user_are_those_without_a_writer(handed_over: bool, make_report: MakeReport) -> None:
    """A check goes into the row that is open, with step numbers of the user or without; the run stays open."""

    def logged(with_writer: bool) -> list[dict[str, Any]]:
        with wandb.init() as run:
            writer = WandbWriter(run if handed_over else None) if with_writer else None
            for step in range(6):
                if writer is not None and step in (1, 2, 4):
                    writer.write(make_report(step))
                if step < 3:
                    run.log({"loss": step})
                elif step != 4:
                    run.log({"loss": step}, step=step)
            if writer is not None:
                writer.close()
            run.log({"last": 1})
        return rows(run)

    without, found = logged(False), logged(True)
    assert [{key: value for key, value in row.items() if not key.startswith("gradguard/")} for row in found] == without
    assert [row.get("gradguard/step") for row in found] == [None, 1, 2, 4, None]
    assert of_gradguard(found[1]) == pytest.approx(make_report(1).scalars())


def test_a_writer_of_a_finished_run_stops_no_training() -> None:
    """The record is lost with a warning, and the guard goes on."""
    with wandb.init() as run:
        params, guard = sine(writers=[WandbWriter(run)])
    with pytest.warns(RuntimeWarning, match="WandbWriter failed .*finished"):
        report = guard.check_now(0, {"w": np.cos(params["w"])})
    assert report.verdict is Verdict.ok
    guard.close()
    assert len(guard.history) == 1


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, which other tests in this process import
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_forked_process_writes_to_the_run_and_leaves_it_open(make_report: MakeReport) -> None:
    """A guard may be closed on both sides of a fork; the parent's records after that are complete."""
    writer = WandbWriter()
    writer.write(make_report(0))
    child = os.fork()
    if child == 0:
        failed = 1
        signal.alarm(30)  # a child that waits for a thread of its parent would wait forever
        try:
            writer.write(make_report(1))
            writer.close()
            failed = 0
        finally:
            os._exit(failed)
    assert os.waitpid(child, 0)[1] == 0
    writer.write(make_report(2))
    writer.close()
    writer.close()
    assert {row["gradguard/step"] for row in rows(writer._run)} >= {0, 2}


def test_arguments_that_would_have_no_effect_are_refused() -> None:
    """Settings of a new run where there is one already, and something that is no run."""
    with wandb.init(name="mine") as run:
        with pytest.raises(ValueError, match="project: arguments of a new run, but the run 'mine' is open already"):
            WandbWriter(project="lstm")
        with pytest.raises(ValueError, match="mode"):
            WandbWriter(run, mode="offline")
    with pytest.raises(TypeError, match=r"run is a str; expected what wandb\.init returned"):
        WandbWriter("lstm")
