"""Files of TensorBoard events, of which a killed process loses nothing that was written."""

import contextlib
import io
import itertools
import os
import socket
import time
from pathlib import Path
from typing import Protocol

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.summary.writer.record_writer import RecordWriter

from gradguard.writers.files import make_folder

_counter = itertools.count()


class EventFile(Protocol):
    """An event file that is being written."""

    def is_ours(self) -> bool:
        """Whether this process may go on writing to it, and it is still there."""

    def add(self, event: event_pb2.Event) -> None:
        """Append one event, and hand it to the operating system."""

    def close(self) -> None:
        """Finish the file."""

    def discard_torn(self) -> None:
        """Give the file up after a failed `add`, with whatever whole events it holds."""

    def abandon(self) -> None:
        """Give the file up untouched, because another process goes on with it or it is gone."""


class LocalEventFile:
    """An event file on a mounted file system.

    TensorBoard's own `EventFileWriter` writes from a thread: it loses its queue when the process is killed, cannot be
    pickled, and blocks for ever in a forked child.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._file = _create(folder)
        self._path = Path(self._file.name)
        self._pid = os.getpid()
        self._whole = 0
        self._records = RecordWriter(self._file)
        # Waits in the buffer for the first event, so that a file is never left with nothing in it.
        self._records.write(_version().SerializeToString())

    def is_ours(self) -> bool:
        """Whether this process opened it, and nobody has removed it since."""
        return self._pid == os.getpid() and self._path.exists()

    def add(self, event: event_pb2.Event) -> None:
        """Append one event, and hand it to the operating system.

        Raises:
            OSError: The event may be torn: no reader sees anything behind it, so the file must be given up.
        """
        self._records.write(event.SerializeToString())
        self._records.flush()
        self._whole = self._file.tell()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def discard_torn(self) -> None:
        """Cut the torn event off, or remove the file if nothing else is in it."""
        with contextlib.suppress(OSError):
            self._file.raw.truncate(self._whole)
        self.abandon()
        if not self._whole:
            self._path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close this process's handle without writing what its buffer still holds."""
        with contextlib.suppress(OSError):
            self._file.raw.close()


class RemoteEventFile:
    """An event file on a `scheme://` path, which only TensorBoard's own writer can reach (through fsspec)."""

    def __init__(self, logdir: str) -> None:
        self._writer = EventFileWriter(logdir)
        self._pid = os.getpid()

    def is_ours(self) -> bool:
        """Whether this process opened it: the writer's thread does not follow a fork."""
        return self._pid == os.getpid()

    def add(self, event: event_pb2.Event) -> None:
        """Append one event, and send it."""
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def discard_torn(self) -> None:
        """Nothing can be cut off a remote file: leave it."""

    def abandon(self) -> None:
        """Leave it: closing it would wait for a thread that this process may not have."""


def is_remote(logdir: str) -> bool:
    """Whether a log directory is a `scheme://` path."""
    return "://" in logdir


def open_event_file(logdir: str) -> EventFile:
    """Begin a new event file in a log directory."""
    return RemoteEventFile(logdir) if is_remote(logdir) else LocalEventFile(Path(logdir))


def _create(folder: Path) -> io.BufferedWriter:
    # Containers may share a host name, process ids and a clock: then the next number is free.
    while True:
        with contextlib.suppress(FileExistsError):
            return (folder / _file_name()).open("xb")


def _file_name() -> str:
    # TensorBoard reads the files of a run in the order of their names, so the numbers must sort as text.
    return f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter):06d}"


def _version() -> event_pb2.Event:
    return event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
