"""What gradguard requires of a writer."""

from typing import Protocol, runtime_checkable

from gradguard.report import Report


@runtime_checkable
class Writer(Protocol):
    """Receives every report of a run, in the order of its checks.

    A writer may raise, such as `OSError` when the disk is full, and stays usable: the guard warns once and hands it the
    next report.
    """

    def write(self, report: Report) -> None:
        """Write the report of one check, so that it survives if the process is killed afterwards."""

    def close(self) -> None:
        """Close files and connections; a second call does nothing."""


@runtime_checkable
class Resumable(Protocol):
    """A writer that expects rising steps and must know when the training goes back."""

    def resume(self) -> None:
        """Accept a report of any step next: the training was set back to an earlier step."""
