"""The writer for TensorBoard."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.hparams.summary_v2 import hparams_pb

from gradguard.report import Report
from gradguard.sweeps import Sweep
from gradguard.writers.files import make_folder
from gradguard.writers.record import History
from gradguard.writers.tensorboard.curves import summarize
from gradguard.writers.tensorboard.event_file import EventFile, is_remote, open_event_file
from gradguard.writers.tensorboard.records import summarize_record, summarize_sweep_record
from gradguard.writers.tensorboard.sweeps import summarize_sweep

Settings: TypeAlias = Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class KnownTensors:
    """The tensors of a run so far.

    Attributes:
        names: The names of all.
        measured: The names of those that were measured at some check: they have a discrepancy.
    """

    names: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()

    def with_those_of(self, report: Report) -> "KnownTensors":
        """These and the tensors of a report."""
        measured = [name for name, tensor in report.tensors.items() if tensor.measured_at == report.step]
        return KnownTensors(
            tuple(dict.fromkeys([*self.names, *report.tensors])), tuple(dict.fromkeys([*self.measured, *measured]))
        )


class TensorBoardWriter:
    """Writes reports as TensorBoard events: curves, bands, histograms, alerts, and records for the GradGuard tab.

    One check is one event, passed to the operating system before `write` returns. A forked child and an unpickled copy
    write their own files. After a failed write, or if the file is removed, the next report starts a new file.

    Args:
        logdir: The directory of the run, created if it is missing, or a `scheme://` path that fsspec supports.
        settings: The settings of the guard, such as its seed; TensorBoard's HParams tab compares runs by them.

    Raises:
        NotADirectoryError: `logdir` or one of its parents is a file.
        OSError: `logdir` cannot be created.
        ImportError, ValueError: No installed package can write to the `scheme://` path.
    """

    def __init__(self, logdir: str | os.PathLike[str], *, settings: Settings | None = None) -> None:
        self.logdir = os.fspath(logdir)
        self._settings = dict(settings or {})
        self._history = History()
        self._file: EventFile | None = None
        self._last_step: int | None = None
        self._known = KnownTensors()
        self._described: KnownTensors | None = None  # in this file; None before its first report
        if is_remote(self.logdir):
            self._file = open_event_file(self.logdir)
        else:
            # A training script may change its working directory later.
            self.logdir = str(Path(self.logdir).absolute())
            make_folder(Path(self.logdir))

    def write(self, report: Report) -> None:
        """Write the report of one check as one event.

        Raises:
            ValueError: The step of the report is lower than that of the last report written.
            OSError: The event is not written; earlier events are safe, and `write` may be called again.
        """
        self._check_step(report.step)
        file = self._open()
        summary = summarize_record(self._history.record(report))
        known = self._known.with_those_of(report)
        summary.MergeFrom(summarize(report, charted=None if known == self._described else known.measured))
        if self._settings and self._described is None:
            summary.MergeFrom(hparams_pb(self._settings | {"precision": report.precision}))
        self._add(file, event_pb2.Event(wall_time=time.time(), step=report.step, summary=summary))
        self._last_step, self._known, self._described = report.step, known, known

    def write_sweep(self, sweep: Sweep, step: int | None = None) -> None:
        """Write a sweep over step sizes as one event: explanation and tables as text, and the curves as a picture.

        The horizontal axis of TensorBoard's charts counts training steps, so they cannot show a curve over step sizes:
        the scalars are the best step and the discrepancy and floor there. The picture needs matplotlib.

        Args:
            sweep: The sweep.
            step: The training step of the sweep; by default that of the last report written, or 0.

        Raises:
            ValueError: The step is lower than that of the last report written.
            OSError: The event is not written.
        """
        at = (self._last_step or 0) if step is None else step
        self._check_step(at)
        summary = summarize_sweep(sweep)
        summary.MergeFrom(summarize_sweep_record(sweep))
        self._add(self._open(), event_pb2.Event(wall_time=time.time(), step=at, summary=summary))
        self._last_step = at

    def resume(self) -> None:
        """Accept a report of any step next: the training was set back to an earlier step.

        TensorBoard then erases the points of the curves after that step, also if they are in another file.
        """
        self.close()
        self._last_step = None

    def close(self) -> None:
        """Finish the file; a later `write` starts a new one."""
        file, self._file = self._file, None
        if file is not None and file.can_continue():
            file.close()
        elif file is not None:
            file.abandon()

    def _check_step(self, step: int) -> None:
        if self._last_step is not None and step < self._last_step:
            raise ValueError(
                f"expected a step of at least {self._last_step}, the last one written to {self.logdir}, got {step}: "
                "TensorBoard erases the points that follow a step that goes back; give each run its own logdir"
            )

    def _open(self) -> EventFile:
        if self._file is not None and self._file.can_continue():
            return self._file
        self.close()
        self._file = open_event_file(self.logdir)
        self._described = None
        return self._file

    def _add(self, file: EventFile, event: event_pb2.Event) -> None:
        try:
            file.add(event)
        except BaseException:
            # No reader sees anything after an incomplete event, so this file must not be continued.
            self._file = None
            file.discard_incomplete()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}
