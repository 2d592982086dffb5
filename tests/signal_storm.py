"""Real signals in quick succession, whose handler raises."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType


class StopError(Exception):
    """What a signal's handler raises."""


class Storm:
    """Signals in quick succession, whose handler raises."""

    def __init__(self) -> None:
        self.left = self.raised = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signals call it
        """Handle one."""
        if self.left:
            self.left -= 1
            self.raised += 1
            raise StopError

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """While they are handled; what they raise where an object is let go, Python itself ignores."""
        before, hook = signal.signal(signal.SIGALRM, self), sys.unraisablehook
        sys.unraisablehook = lambda _: None  # pytest's own would be interrupted in its turn, and fail
        try:
            yield
        finally:
            sys.unraisablehook = hook
            signal.signal(signal.SIGALRM, before)

    def run(self, act: Callable[[], object], count: int, after: float, every: float = 0.0) -> None:
        """So many signals while something is done; those that come late are forgotten."""
        try:
            self.left = count
            signal.setitimer(signal.ITIMER_REAL, after, every)
            act()
        except StopError:
            pass
        finally:
            self.left = 0
            signal.setitimer(signal.ITIMER_REAL, 0)
