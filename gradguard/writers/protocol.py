"""What gradguard asks of a place that reports go to."""

from typing import Protocol, runtime_checkable

from gradguard.report.results import Report


@runtime_checkable
class Writer(Protocol):
    """Takes every report of a run, in the order of its checks.

    A writer lets its `OSError` out and stays usable: the guard turns it into one warning, and writes the next report.
    """

    def write(self, report: Report) -> None:
        """Record what one check found; what was written survives the process being killed."""

    def close(self) -> None:
        """Let go of what the writer holds open; closing twice does nothing."""


@runtime_checkable
class Resumable(Protocol):
    """A writer that cares about the order of steps."""

    def resume(self) -> None:
        """Take a report of any step next, an earlier one too: the training was set back."""
