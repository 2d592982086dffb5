"""Runs as TensorBoard's data provider holds them for the tab."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorboard.data.provider import RunTagFilter

from gradguard.runs import read_check, read_sweep
from gradguard.runs.overview import summary, worst_first
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
        latest: The run that was read last, which is kept here from request to request: reading one takes most of the
            time of a request.
    """

    def __init__(self, provider: Any, context: Any, experiment: str, latest: dict[object, Run]) -> None:
        self._provider = provider
        self._query = {"ctx": context, "experiment_id": experiment, "plugin_name": PLUGIN}
        self._latest = latest

    def summaries(self) -> list[dict[str, Any]]:
        """Each run with data for the tab, as `summary` makes it of its last check, the worst first."""
        names = sorted(self._provider.list_tensors(**self._query) or {})
        last = self._series(names, downsample=1)
        return worst_first({"name": name} | summary(as_run(last.get(name, {})).checks) for name in names)

    def read(self, run: str) -> Run:
        """The checks of a run that TensorBoard keeps."""
        series = self._series([run], downsample=MAX_CHECKS).get(run, {})
        key = (
            self._query["experiment_id"],
            run,
            tuple((tag, datum.step, datum.wall_time) for tag, data in series.items() for datum in data),
        )
        read = self._latest.get(key)
        if read is None:
            read = as_run(series)
            self._latest.clear()
            self._latest[key] = read
        return read

    def _series(self, runs: list[str], downsample: int) -> Mapping[str, Mapping[str, Iterable[Any]]]:
        chosen = RunTagFilter(runs=runs, tags=[CHECK_TAG, ALERT_TAG, SWEEP_TAG])
        return self._provider.read_tensors(**self._query, run_tag_filter=chosen, downsample=downsample) or {}


def as_run(series: Mapping[str, Iterable[Any]]) -> Run:
    """The records in a run's time series, by tag."""
    data = [datum for tag in (CHECK_TAG, ALERT_TAG) for datum in series.get(tag, ())]
    read: dict[int, Record | None] = {}
    for datum in data:
        read[datum.step] = read.get(datum.step) or _content(datum)
    completion = Completion()
    completed = [completion.complete(content) for _, content in sorted(read.items()) if content is not None]
    checks = [check for check in map(read_check, completed) if check is not None]
    sweeps = [sweep for sweep in _sweeps(series.get(SWEEP_TAG, ())) if sweep is not None]
    return Run(checks, len(read) - len(checks), sweeps[-1] if sweeps else None)


def _sweeps(data: Iterable[Any]) -> Iterator[Record | None]:
    return (read_sweep(_content(datum)) for datum in data)


def _content(datum: Any) -> Record | None:
    value = datum.numpy.item() if datum.numpy.size == 1 else None
    return unpacked(value) if isinstance(value, bytes | str) else None
