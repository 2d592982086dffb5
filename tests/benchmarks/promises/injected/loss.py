"""Faults in the loss function."""

import contextlib
from collections.abc import Iterator

import numpy as np

from benchmarks.promises.injected.training import StoppedError, Training, renewed


@contextlib.contextmanager
def loss_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """Some evaluation raises."""
    with failing(training, rng, StoppedError()):
        yield


@contextlib.contextmanager
def loss_is_nan(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """Some evaluation returns nan."""
    with failing(training, rng, np.float32(np.nan)):
        yield


@contextlib.contextmanager
def ctrl_c(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """Ctrl-C arrives during some evaluation."""
    with failing(training, rng, KeyboardInterrupt()):
        yield


@contextlib.contextmanager
def failing(training: Training, rng: np.random.Generator, outcome: object) -> Iterator[None]:
    """A random evaluation fails, perhaps in the first check of a new guard, which is a deep one."""
    is_new = renewed(training, rng)
    training.fails_at = training.calls + int(rng.integers(1, 400 if is_new else 80))
    training.outcome = outcome
    yield
    training.fails_at = 0
