"""Exceptions that come from outside the code that they end: from a signal handler, or from a debugger that quits."""

import bdb
import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from traceback import walk_tb
from types import CodeType


class SignalHandlers:
    """The signal handlers installed when it is created: a handler may uninstall itself when it is called."""

    def __init__(self) -> None:
        installed = map(signal.getsignal, signal.Signals)
        self._codes = {_code(handler) for handler in installed if callable(handler)} - {None}

    def raised(self, error: Exception) -> bool:
        """Whether the exception comes from a signal handler rather than from the code that the signal interrupted."""
        return any(frame.f_code in self._codes for frame, _ in walk_tb(error.__traceback__))


def is_interruption(error: Exception) -> bool:
    """Whether an exception comes from an installed signal handler, or from a debugger that quits."""
    return isinstance(error, bdb.BdbQuit) or SignalHandlers().raised(error)


@contextmanager
def on_exception(undo: Callable[[], object]) -> Iterator[None]:
    """Context that calls `undo` where an exception ends it, an interrupt too, and lets the exception out."""
    try:
        yield
    except BaseException:
        undo()
        raise


def _code(handler: Callable[..., object]) -> CodeType | None:
    """The code that runs when a handler is called; None if the handler is not written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    code = getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
