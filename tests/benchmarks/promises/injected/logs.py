"""Faults in the places where reports are written."""

import contextlib
import resource
import shutil
from collections.abc import Iterator

import numpy as np

from benchmarks.promises.injected.training import Training


@contextlib.contextmanager
def disk_full(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """No file can grow by more than a few bytes, so that a record is cut off."""
    assert training.folder is not None
    sizes = [path.stat().st_size for path in sorted(training.folder.rglob("*")) if path.is_file()]
    size = int(rng.choice(sizes)) + int(rng.integers(0, 400))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextlib.contextmanager
def deleted(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """The folders of the logs are removed; later checks must be logged."""
    assert training.folder is not None
    shutil.rmtree(training.folder)
    training.finished.clear()
    yield


@contextlib.contextmanager
def in_the_way(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """A file takes the place of a folder, so that not even root can write there."""
    assert training.folder is not None
    folder = training.folder / str(rng.choice(["run", "log"]))
    folder.rename(folder.with_name("moved"))
    folder.write_text("in the way")
    try:
        yield
    finally:
        folder.unlink()
        folder.with_name("moved").rename(folder)


@contextlib.contextmanager
def writer_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """A writer raises some exception."""
    errors = [OSError(5, "Input/output error"), ValueError("no"), KeyError("k"), MemoryError(), RecursionError()]
    training.writer.error = errors[rng.integers(len(errors))]
    yield
    training.writer.error = None


@contextlib.contextmanager
def unserialisable(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """A report holds an object that JSON cannot represent."""
    training.writer.is_odd = True
    yield
    training.writer.is_odd = False


@contextlib.contextmanager
def alert_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:  # noqa: ARG001 - a `Fault`
    """The user's `on_alert` raises at a wrong gradient; the record of that check must be on disk by then."""
    right = {name: grad.copy() for name, grad in training.grads.items()}
    training.is_wrong = True
    for grad in training.grads.values():
        grad *= 3
    yield
    training.is_wrong = False
    for name, grad in training.grads.items():
        grad[...] = right[name]
