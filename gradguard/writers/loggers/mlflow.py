"""The writer for MLflow."""

import os
import re
import time
import zlib
from typing import Any

from gradguard.report import Report
from gradguard.writers.loggers.packages import tracker_package

MAX_METRICS = 1000
"""Metrics in a request, of which MLflow takes no more."""
MAX_NAME = 250
"""Characters of a metric's name, of which MLflow takes no more."""


class MLflowWriter:
    """Logs `Report.scalars()` as metrics of a run of MLflow, by the training step.

    A run of yours stays open. A run that the writer creates is not the active run, and is ended by `close`.

    Characters that MLflow refuses in the name of a metric are replaced by their code point, as in `W_5b_0_5d_` for
    "W[0]". A process that was forked or unpickled logs to the same run, and does not end it.

    Args:
        run: What `mlflow.start_run` returned, or the id of a run; by default the active run, and a new one where there
            is none.
        experiment: The name of the experiment of a new run, created if it is missing.

    Raises:
        ImportError: mlflow is not installed.
        TypeError: `run` is no run.
        mlflow.MlflowException: The tracking server does not answer, or has no such run.
    """

    def __init__(self, run: Any = None, *, experiment: str = "gradguard") -> None:
        mlflow = tracker_package("mlflow", "mlflow")
        self._tracking_uri = mlflow.get_tracking_uri()  # the program may set another one later
        client = self._client()
        given = mlflow.active_run() if run is None else run
        if given is None:
            self._run_id = _new_run(client, experiment)
        else:
            self._run_id = client.get_run(_id_of(given)).info.run_id
        self._process = os.getpid() if given is None else None  # which ends the run; None for the user's

    def write(self, report: Report) -> None:
        """Log the numbers of one check.

        Raises:
            Exception: What mlflow raises, for instance where the tracking server does not answer.
        """
        mlflow, now = tracker_package("mlflow", "mlflow"), int(1000 * time.time())
        scalars = report.scalars().items()
        metrics = [mlflow.entities.Metric(_accepted(key), value, now, report.step) for key, value in scalars]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client().log_batch(self._run_id, metrics=metrics[start : start + MAX_METRICS])

    def close(self) -> None:
        """End the run if this writer created it; a second call does nothing."""
        process, self._process = self._process, None
        if process == os.getpid():
            self._client().set_terminated(self._run_id)

    def _client(self) -> Any:
        # Made anew each time, so that the writer can be pickled.
        return tracker_package("mlflow", "mlflow").MlflowClient(self._tracking_uri)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}


def _new_run(client: Any, experiment: str) -> str:
    found = client.get_experiment_by_name(experiment)
    made = client.create_run(found.experiment_id if found is not None else client.create_experiment(experiment))
    return str(made.info.run_id)


def _id_of(run: Any) -> str:
    if isinstance(run, str):
        return run
    if not hasattr(run, "info"):
        raise TypeError(f"run is a {type(run).__name__}; expected what mlflow.start_run returned, or the id of a run")
    return str(run.info.run_id)


def _accepted(key: str) -> str:
    """The key as a name that MLflow takes for a metric."""
    name = "/".join(_accepted_part(part) for part in key.split("/"))
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}_{zlib.crc32(name.encode()):08x}"


def _accepted_part(part: str) -> str:
    # A name is taken for a path, which must be one in its shortest form.
    refused = r"." if part in (".", "..") else r"[^\w.\- :]"
    return re.sub(refused, lambda found: f"_{ord(found[0]):x}_", part) or "_"
