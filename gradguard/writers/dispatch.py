"""Dispatch of reports to all writers, where the failure of one stops neither the training nor the other writers."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from gradguard.environment import SignalHandlers
from gradguard.report import Report, log_message
from gradguard.writers.files import require_megabytes
from gradguard.writers.protocol import Resumable, Writer
from gradguard.writers.registry import LOGDIR_WRITER, load_writer

LOG = logging.getLogger("gradguard")
PACKAGE_FOLDER = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass(slots=True)
class _Destination:
    """A writer, and the number of checks in a row that it failed to write."""

    writer: Writer
    failed_checks: int = 0

    @property
    def name(self) -> str:
        return type(self.writer).__name__


class Dispatcher:
    """Hands every report to all writers; a writer that fails loses its own records and causes one warning.

    Args:
        logdir: The folder of this run for TensorBoard; None for no event file.
        writers: Further writers.
        max_log_megabytes: The bound on the event files.

    Raises:
        TypeError: `writers` is not iterable, or holds something that is not a writer.
        ValueError: `max_log_megabytes` is no number above 0.
        OSError: `logdir` cannot be created.
    """

    def __init__(
        self,
        logdir: str | os.PathLike[str] | None,
        writers: Iterable[Writer],
        max_log_megabytes: float,
    ) -> None:
        require_megabytes("max_log_megabytes", max_log_megabytes)
        several = _require_writers(writers)
        if logdir is not None:
            make = load_writer(LOGDIR_WRITER)
            several.insert(0, make(logdir, max_megabytes=max_log_megabytes))
        self._destinations = [_Destination(writer) for writer in several]

    def write(self, report: Report) -> None:
        """Hand the report of a check to every writer."""
        handlers = SignalHandlers()
        for destination in self._destinations:
            _write(destination, report, handlers)

    def resume(self) -> None:
        """Let the next report have any step, also an earlier one."""
        handlers = SignalHandlers()
        for destination in self._destinations:
            if isinstance(destination.writer, Resumable):
                _succeeds(destination, destination.writer.resume, handlers, "the file so far may lack its end")

    def close(self) -> None:
        """Close all writers."""
        handlers = SignalHandlers()
        for destination in self._destinations:
            consequence = "what it had not written yet is lost; all earlier records are safe"
            _succeeds(destination, destination.writer.close, handlers, consequence)


def _write(destination: _Destination, report: Report, handlers: SignalHandlers) -> None:
    consequence = (
        f"its record of step {report.step} is lost; the training, the checks and other records go on, and it is "
        "tried again at each check"
    )
    is_first_failure = not destination.failed_checks
    write = functools.partial(destination.writer.write, report)
    if not _succeeds(destination, write, handlers, consequence if is_first_failure else ""):
        destination.failed_checks += 1
    elif destination.failed_checks:
        checks = "1 check is" if destination.failed_checks == 1 else f"{destination.failed_checks} checks are"
        told = f"step {report.step}: {destination.name} works again; its records of {checks} lost"
        LOG.warning("%s", log_message(told))  # as visible as the warning that it failed
        destination.failed_checks = 0


def _succeeds(
    destination: _Destination, action: Callable[[], object], handlers: SignalHandlers, consequence: str
) -> bool:
    """Run an action of a writer; False if it fails, with a warning unless `consequence` is empty.

    An exception that a signal handler raises during the action is not a failure of the writer: it reaches the user.
    """
    try:
        action()
    except Exception as error:  # whatever a writer raises, the training goes on
        if handlers.raised(error):
            raise
        if consequence:
            message = f"{destination.name} failed ({type(error).__name__}: {error}); {consequence}"
            _warn(message)
        return False
    return True


def _warn(message: str) -> None:
    """Warn; where the user's filters make errors of warnings, log the message instead: the training goes on."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=_stacklevel_of_user())
    except RuntimeWarning:
        LOG.warning("%s", message)


def _stacklevel_of_user() -> int:
    """The stack level, counted from the caller, of the first frame outside gradguard."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE_FOLDER):
        level, frame = level + 1, frame.f_back
    return level


def _require_writers(writers: Iterable[Writer]) -> list[Writer]:
    if not isinstance(writers, Iterable):
        raise TypeError(f"writers is a {type(writers).__name__}; expected several: writers=(writer,)")
    for writer in (several := list(writers)):
        if not isinstance(writer, Writer):
            raise TypeError(f"writers holds a {type(writer).__name__}; expected objects with write(report) and close()")
    return several
