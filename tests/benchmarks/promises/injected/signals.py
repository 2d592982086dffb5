"""Signals during a check, as faults."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import numpy as np

from benchmarks.promises.injected.training import Fault, Training, renewed

LONGEST = 5e-3  # seconds from the start of a check to a signal, at most


def signals(number: int, error: type[BaseException], most: int) -> Fault:
    """Up to `most` signals in quick succession, whose handler raises `error`."""

    @contextlib.contextmanager
    def fault(training: Training, rng: np.random.Generator) -> Iterator[None]:
        left = int(rng.integers(1, most + 1))

        def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
            nonlocal left
            if left and training.is_checking:
                left -= 1
                raise error

        renewed(training, rng)
        before = {one: signal.signal(one, handler) for one in (number, signal.SIGALRM)}
        own = threading.Timer(rng.uniform(0, LONGEST), lambda: os.kill(os.getpid(), number))
        try:
            own.start()
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, LONGEST), rng.uniform(1e-4, 1e-3))
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            own.join()
            for one, previous in before.items():
                signal.signal(one, previous)

    return fault
