"""Reports in a run of MLflow: the real package, with a database in a folder."""

import os
import pickle
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guarded_sine import sine
from reports import MakeReport, MakeTensor

from gradguard import MLflowWriter, Verdict

mlflow = pytest.importorskip("mlflow")

# MLflow uses what SQLAlchemy is about to remove.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of a database that the tests share: to create one takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(f"sqlite:///{folder}/runs.db")
        yield mlflow.MlflowClient()
        mlflow.set_tracking_uri(before)


def steps_and_values(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    """The points of a metric."""
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


def test_a_run_of_the_writer_has_a_point_for_each_check_and_ends_with_the_guard(client: Any) -> None:
    """It is not the active run of the program."""
    writer = MLflowWriter(experiment="sine")
    params, guard = sine(writers=[writer], on_alert=lambda _: None)
    reports = [guard.check_now(step, {"w": np.cos(params["w"]) / factor}) for step, factor in ((0, 1), (7, 1), (9, 39))]
    assert mlflow.active_run() is None
    (run,) = client.search_runs([client.get_experiment_by_name("sine").experiment_id])
    assert run.info.status == "RUNNING"
    guard.close()
    run = client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert set(run.data.metrics) == {key for report in reports for key in report.scalars()}
    for key in ("gradguard/check/verdict", "gradguard/discrepancy/w", "gradguard/ratio/w"):
        points = [(report.step, report.scalars()[key]) for report in reports if key in report.scalars()]
        assert steps_and_values(client, run.info.run_id, key) == points
    assert run.data.metrics["gradguard/check/verdict"] == Verdict.scale.level


@pytest.mark.parametrize("given", [lambda run: run, lambda run: run.info.run_id, lambda _: None])
def test_a_run_of_the_user_stays_open(given: Any, client: Any, make_report: MakeReport) -> None:
    """As it was handed over, by its id, or as the active run."""
    with mlflow.start_run() as run:
        writer = MLflowWriter(given(run))
        writer.write(make_report(3))
        writer.close()
        assert mlflow.active_run().info.run_id == run.info.run_id
        assert client.get_run(run.info.run_id).info.status == "RUNNING"
    assert client.get_run(run.info.run_id).data.metrics == make_report(3).scalars()


def test_tensors_of_any_name_and_number_are_taken(
    client: Any, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """MLflow refuses most signs and long names, takes a name for a path, and limits a request."""
    names = ["layers[0].W", "layers(0).W", "/a//b/", "..", "a/../b", "dense/kernel:0", "\x1b[0m", "ü", "x" * 400, ""]
    tensors = [*map(make_tensor, names), *(make_tensor(f"t{i}") for i in range(150))]
    report = make_report(0, *tensors)
    writer = MLflowWriter()
    writer.write(report)
    writer.close()
    run = client.get_run(writer._run_id)
    assert len(run.data.metrics) == len(report.scalars()) > 1000
    assert {"gradguard/ratio/layers_5b_0_5d_.W", "gradguard/ratio/dense/kernel:0"} <= run.data.metrics.keys()


def test_a_database_that_is_gone_stops_no_training(tmp_path: Path, client: Any) -> None:  # noqa: ARG001
    """The record is lost with a warning, and the guard goes on."""
    writer = MLflowWriter()
    params, guard = sine(writers=[writer])
    client.delete_run(writer._run_id)
    with pytest.warns(RuntimeWarning, match="MLflowWriter failed .*active"):
        report = guard.check_now(0, {"w": np.cos(params["w"])})
    assert report.verdict is Verdict.ok
    client.restore_run(writer._run_id)
    assert guard.check_now(1, {"w": np.cos(params["w"])}).verdict is Verdict.ok
    guard.close()
    assert [step for step, _ in steps_and_values(client, writer._run_id, "gradguard/check/loss")] == [1]


@pytest.mark.filterwarnings("ignore:os.fork")  # of JAX, which other tests in this process import
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_forked_process_writes_to_the_run_and_leaves_it_open(client: Any, make_report: MakeReport) -> None:
    """Both sides may write and close; only the process that created the run ends it."""
    writer = MLflowWriter()
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
    writer.write(make_report(2))
    assert os.waitpid(child, 0)[1] == 0
    assert client.get_run(writer._run_id).info.status == "RUNNING"
    writer.close()
    assert client.get_run(writer._run_id).info.status == "FINISHED"
    assert {step for step, _ in steps_and_values(client, writer._run_id, "gradguard/ratio/W")} == {0, 1, 2}


def test_a_copy_writes_to_the_run_and_leaves_it_open(client: Any, make_report: MakeReport) -> None:
    """A guard that was pickled takes its writer along, also where another tracking server is set by then."""
    writer = MLflowWriter()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    try:
        copied = pickle.loads(pickle.dumps(writer))  # noqa: S301 - our own bytes
        copied.write(make_report(4))
        copied.close()
    finally:
        mlflow.set_tracking_uri(before)
    assert client.get_run(writer._run_id).info.status == "RUNNING"
    assert client.get_run(writer._run_id).data.metrics == make_report(4).scalars()
    writer.close()


def test_what_is_no_run_is_refused() -> None:
    """At once, when the writer is made."""
    with pytest.raises(TypeError, match=r"run is a int; expected what mlflow\.start_run returned, or the id of a run"):
        MLflowWriter(3)
    with pytest.raises(mlflow.MlflowException, match="0123"):
        MLflowWriter("0123")
