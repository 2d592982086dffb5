"""Exceptions that the handler of a signal raises in the middle of whatever runs."""

import functools
import signal
from collections.abc import Callable
from traceback import walk_tb
from types import CodeType


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
