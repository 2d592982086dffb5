"""The places that reports go to, each of which may fail without the training noticing."""

import functools
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import CodeType

from gradguard.report.results import Report
from gradguard.writers.protocol import Resumable, Writer

LOG = logging.getLogger("gradguard")
OURS = f"{Path(__file__).parents[1]}{os.sep}"


class Handlers:
    """The handlers of signals that are installed now: one may take itself out when it is called."""

    def __init__(self) -> None:
        installed = map(signal.getsignal, signal.Signals)
        self._codes = {_code(handler) for handler in installed if callable(handler)} - {None}

    def raised(self, error: Exception) -> bool:
        """Whether a handler raised an exception, rather than the code that it came out of."""
        return any(frame.f_code in self._codes for frame, _ in walk_tb(error.__traceback__))


def _code(handler: Callable[..., object]) -> CodeType | None:
    """What runs when a handler is called; None where that is no Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


@dataclass(slots=True)
class _Destination:
    """A writer, and at how many checks in a row it has failed."""

    writer: Writer
    lost: int = 0

    @property
    def name(self) -> str:
        return type(self.writer).__name__


class Dispatcher:
    """Hands every report to all writers; one that fails costs its own records and one warning.

    Args:
        logdir: Where TensorBoard finds this run; None for no event file.
        writers: Further ones.
        settings: What the run is guarded with, by which TensorBoard compares runs.

    Raises:
        TypeError: Something given is no writer.
        OSError: `logdir` cannot be made.
    """

    def __init__(
        self, logdir: str | os.PathLike[str] | None, writers: Iterable[Writer], settings: Mapping[str, float]
    ) -> None:
        self._outlets = [
            _Destination(writer) for writer in (*_tensorboard(logdir, settings), *_require_writers(writers))
        ]

    def write(self, report: Report) -> None:
        """Record a check wherever that is possible."""
        handlers = Handlers()
        for outlet in self._outlets:
            self._write(outlet, report, handlers)

    def resume(self) -> None:
        """Let the next report be of any step, an earlier one too."""
        handlers = Handlers()
        for outlet in self._outlets:
            if isinstance(outlet.writer, Resumable):
                _survived(outlet, outlet.writer.resume, handlers, "the file so far may lack its end")

    def close(self) -> None:
        """Close all writers."""
        handlers = Handlers()
        for outlet in self._outlets:
            costs = "what it had not written yet is lost; all earlier records are safe"
            _survived(outlet, outlet.writer.close, handlers, costs)

    def _write(self, outlet: _Destination, report: Report, handlers: Handlers) -> None:
        costs = (
            f"its record of step {report.step} is lost; the training, the checks and other records go on, and it is "
            "tried again at each check"
        )
        if not _survived(outlet, lambda: outlet.writer.write(report), handlers, costs if not outlet.lost else ""):
            outlet.lost += 1
        elif outlet.lost:
            checks = "1 check is" if outlet.lost == 1 else f"{outlet.lost} checks are"
            LOG.info("step %d: %s works again; its records of %s lost", report.step, outlet.name, checks)
            outlet.lost = 0


def _survived(outlet: _Destination, act: Callable[[], object], handlers: Handlers, costs: str) -> bool:
    """Whether a writer did what it was asked to; if not, and there is something to tell, it is told.

    What the handler of a signal raises in the middle of a writer is no failure of it, and goes on to the user.
    """
    try:
        act()
    except Exception as error:  # whatever a writer raises, the training goes on
        if handlers.raised(error):
            raise
        if costs:
            says = f"{outlet.name} failed ({type(error).__name__}: {error}); {costs}"
            warnings.warn(says, RuntimeWarning, stacklevel=_users_level())
        return False
    return True


def _users_level() -> int:
    """How far up the calls, from the caller's place, the user's own code is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OURS):
        level, frame = level + 1, frame.f_back
    return level


def _tensorboard(logdir: str | os.PathLike[str] | None, settings: Mapping[str, float]) -> list[Writer]:
    if logdir is None:
        return []
    from gradguard.writers.tensorboard import TensorBoardWriter  # it takes tensorboard along, which is not light

    return [TensorBoardWriter(logdir, settings=settings)]


def _require_writers(writers: Iterable[Writer]) -> list[Writer]:
    if not isinstance(writers, Iterable):
        raise TypeError(f"writers is a {type(writers).__name__}; expected several: writers=(writer,)")
    for writer in (several := list(writers)):
        if not isinstance(writer, Writer):
            raise TypeError(f"writers holds a {type(writer).__name__}; expected objects with write(report) and close()")
    return several
