"""The writer for TensorBoard."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2

from gradguard.report import Changes, Report
from gradguard.sweeps import Sweep
from gradguard.writers.files import MAX_MEGABYTES, make_folder, require_megabytes
from gradguard.writers.record import History
from gradguard.writers.tensorboard.bounded import ClosedFiles
from gradguard.writers.tensorboard.curves import summarize
from gradguard.writers.tensorboard.event_file import EventFile, LocalEventFile, is_remote, open_event_file
from gradguard.writers.tensorboard.records import summarize_record, summarize_sweep_record
from gradguard.writers.tensorboard.sweeps import summarize_sweep

CHART_GROWTH = 1.25  # of the number of measured tensors, at which the layout of the charts is written again


@dataclass(slots=True)
class _InFile:
    """What an event file holds already.

    Attributes:
        described: The curves that have a description.
        charted: The tensors that have a band chart.
    """

    described: set[str] = field(default_factory=set)
    charted: tuple[str, ...] = ()


class TensorBoardWriter:
    """Writes reports as TensorBoard events: curves, bands, histograms, alerts, and records for the GradGuard tab.

    Only what a check measured or screened is written, and the files are bounded: where they would exceed
    `max_megabytes`, details of older checks are dropped, evenly over the steps. Alerts and changes between right and
    wrong are kept as long as they fit by themselves. The bound is for each process; remote files have none.

    One check is one event, passed to the operating system before `write` returns. A forked child and an unpickled copy
    write their own files. After a failed write, or if the file is removed, the next report starts a new file.

    Args:
        logdir: The directory of the run, created if it is missing, or a `scheme://` path that fsspec supports.
        max_megabytes: The size of all files of this writer, in units of 10^6 bytes.

    Raises:
        ValueError: `max_megabytes` is no number above 0.
        NotADirectoryError: `logdir` or one of its parents is a file.
        OSError: `logdir` cannot be created.
        ImportError, ValueError: No installed package can write to the `scheme://` path.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str],
        *,
        max_megabytes: float = MAX_MEGABYTES,
    ) -> None:
        self._closed_files = ClosedFiles(require_megabytes("max_megabytes", max_megabytes))
        self.logdir = os.fspath(logdir)
        self._history = History()
        self._file: EventFile | None = None
        self._last_step: int | None = None
        self._changes = Changes()
        self._names: dict[str, None] = {}  # of all tensors so far, in order
        self._measured: set[str] = set()  # of those that have a discrepancy
        self._in_file = _InFile()
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
        charted = self._newly_charted(report)
        summary.MergeFrom(summarize(report, described=self._in_file.described, charted=charted))
        event = event_pb2.Event(wall_time=time.time(), step=report.step, summary=summary)
        self._add(file, event, self._changes.is_change(report))
        self._in_file.charted = charted or self._in_file.charted
        self._last_step = report.step

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
        self._add(self._open(), event_pb2.Event(wall_time=time.time(), step=at, summary=summary), True)
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
            if isinstance(file, LocalEventFile):
                self._closed_files.add(file.closed)
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
        self._in_file = _InFile()
        return self._file

    def _newly_charted(self, report: Report) -> tuple[str, ...]:
        """The tensors of the next layout of the charts, as the model has them; none where the one in the file does."""
        self._names |= dict.fromkeys(report.tensors)
        self._measured |= {name for name, tensor in report.tensors.items() if tensor.measured_at == report.step}
        charted = self._in_file.charted
        is_whole = len(self._measured) == len(self._names) > len(charted)
        # A layout is long: with one at each tensor that is measured first, they would be most of the file.
        is_due = is_whole or len(self._measured) > CHART_GROWTH * len(charted)
        return tuple(name for name in self._names if name in self._measured) if is_due else ()

    def _add(self, file: EventFile, event: event_pb2.Event, is_change: bool) -> None:
        try:
            file.add(event, is_change)
        except BaseException:
            # No reader sees anything after an incomplete event, so this file must not be continued.
            self._file = None
            file.discard_incomplete()
            raise
        if isinstance(file, LocalEventFile) and file.size >= self._closed_files.max_file_bytes:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        # The files stay with the original, as those of a parent do: a copy thins only its own.
        return {**self.__dict__, "_file": None, "_closed_files": ClosedFiles(self._closed_files.max_bytes)}
