"""Runs as TensorBoard's data provider holds them for the tab."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter

from gradguard.runs import read_check, read_sweep
from gradguard.writers.record import ALERT_TAG, CHECK_TAG, PLUGIN, SWEEP_TAG, Completion, Record, unpacked

MAX_CHECKS = 500  # of a run; TensorBoard keeps 100 unless --samples_per_plugin says more


@dataclass(frozen=True, slots=True)
class Run:
    """The records of a run.

    Attributes:
        checks: The checks as `read_check` returns them, with rising steps.
        unreadable: How many other checks could not be read.
        sweep: The last sweep; None if there is none.
    """

    checks: list[Record]
    unreadable: int
    sweep: Record | None


class Runs:
    """The runs of an experiment.

    Args:
        provider: TensorBoard's data provider.
        context: The context of the request.
        experiment: The id of the experiment.
    """

    def __init__(self, provider: Any, context: Any, experiment: str) -> None:
        self._provider = provider
        self._query = {"ctx": context, "experiment_id": experiment, "plugin_name": PLUGIN}

    def names(self) -> list[str]:
        """The names of the runs with data for the tab."""
        return sorted(self._provider.list_tensors(**self._query) or {})

    def read(self, run: str) -> Run:
        """The checks of a run that TensorBoard keeps, without blocks and single entries."""
        return as_run(self._series(run), details=False)

    def check(self, run: str, step: str) -> Record | None:
        """One check with all details; None if TensorBoard no longer keeps it."""
        checks = as_run(self._series(run), details=True).checks
        return next((check for check in checks if str(check["step"]) == step), None)

    def _series(self, run: str) -> Mapping[str, Iterable[Any]]:
        chosen = RunTagFilter(runs=[run], tags=[CHECK_TAG, ALERT_TAG, SWEEP_TAG])
        runs = self._provider.read_tensors(**self._query, run_tag_filter=chosen, downsample=MAX_CHECKS) or {}
        series: Mapping[str, Iterable[Any]] = runs.get(run, {})
        return series


def as_run(series: Mapping[str, Iterable[Any]], *, details: bool) -> Run:
    """The records in a run's time series, by tag; `details` keeps blocks and single entries."""
    data = [datum for tag in (CHECK_TAG, ALERT_TAG) for datum in series.get(tag, ())]
    read: dict[int, Record | None] = {}
    for datum in data:
        read[datum.step] = read.get(datum.step) or _content(datum)
    completion = Completion()
    completed = {step: completion.complete(content) for step, content in sorted(read.items()) if content is not None}
    checks = {step: read_check(content, details=details) for step, content in completed.items()}
    known = [check for check in checks.values() if check is not None]
    sweeps = [sweep for sweep in _sweeps(series.get(SWEEP_TAG, ())) if sweep is not None]
    return Run(known, len(read) - len(known), sweeps[-1] if sweeps else None)


def _sweeps(data: Iterable[Any]) -> Iterator[Record | None]:
    return (read_sweep(_content(datum)) for datum in data)


def _content(datum: Any) -> Record | None:
    value = datum.numpy.item() if datum.numpy.size == 1 else None
    return unpacked(value) if isinstance(value, bytes | str) else None
