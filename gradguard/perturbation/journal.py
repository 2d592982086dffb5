"""The log of open moves and swaps, from which each one can be undone whatever interrupts a check."""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TypeVar

Entered = TypeVar("Entered")


class UndoLog:
    """The moves and swaps that are open, in the order in which they were opened."""

    def __init__(self) -> None:
        self._open: dict[int, AbstractContextManager[object]] = {}  # by identity

    @property
    def is_open(self) -> bool:
        """Whether any move or swap is open."""
        return bool(self._open)

    def recorded(self, change: AbstractContextManager[Entered]) -> AbstractContextManager[Entered]:
        """The same context manager, in the log from before it is entered until after it is left."""
        return change if isinstance(change, nullcontext) else _Recorded(change, self._open)

    def restore(self) -> None:
        """Leave all context managers that are still open, the last first."""
        while self._open:
            last = next(reversed(self._open))
            self._open[last].__exit__(None, None, None)
            del self._open[last]


class _Recorded(AbstractContextManager[Entered]):
    """A context manager that stands in a log from before it is entered until after it is left."""

    def __init__(self, change: AbstractContextManager[Entered], log: dict[int, AbstractContextManager[object]]) -> None:
        self._change = change
        self._log = log

    def __enter__(self) -> Entered:
        self._log[id(self._change)] = self._change
        return self._change.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After UndoLog.restore the training goes on: an exit that comes so late must not undo its updates.
        if id(self._change) in self._log:
            self._change.__exit__(kind, error, trace)
            self._log.pop(id(self._change), None)
