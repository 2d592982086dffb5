"""Files of TensorBoard events that lose no written event if the process is killed."""

import contextlib
import io
import itertools
import os
import socket
import struct
import time
from pathlib import Path
from typing import Protocol

from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from gradguard.writers.files import Written, make_folder
from gradguard.writers.tensorboard.bounded import ClosedFile
from gradguard.writers.tensorboard.checksum import masked_crc32c

_counter = itertools.count()


class EventFile(Protocol):
    """An open event file."""

    def can_continue(self) -> bool:
        """Whether this process opened the file and it still exists."""

    def add(self, event: event_pb2.Event, is_change: bool = False) -> None:
        """Append one event and pass it to the operating system; `is_change`: as in `Written`."""

    def close(self) -> None:
        """Finish the file."""

    def discard_incomplete(self) -> None:
        """Close the file after a failed `add`; its complete events stay."""

    def abandon(self) -> None:
        """Close the file without writing, because another process continues it or it no longer exists."""


class LocalEventFile:
    """An event file on a mounted file system.

    TensorBoard's own `EventFileWriter` writes from a thread: it loses its queue if the process is killed, cannot be
    pickled, and blocks forever in a forked child.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._file = _create(folder)
        self._path = Path(self._file.name)
        self._pid = os.getpid()
        self._complete_bytes = 0
        self._written: list[Written] = []
        # Stays in the buffer until the first event, so that no file is left without an event.
        self._file.write(as_record(_version().SerializeToString()))

    def can_continue(self) -> bool:
        """Whether this process opened the file and it still exists."""
        return self._pid == os.getpid() and self._path.exists()

    @property
    def size(self) -> int:
        """Of the complete events, in bytes."""
        return self._complete_bytes

    @property
    def closed(self) -> "ClosedFile":
        """What the file holds, once it is closed."""
        return ClosedFile(self._path, self._complete_bytes, tuple(self._written))

    def add(self, event: event_pb2.Event, is_change: bool = False) -> None:
        """Append one event and pass it to the operating system.

        Raises:
            OSError: The event may be incomplete. No reader sees anything after it, so the file must not be continued.
        """
        record = as_record(event.SerializeToString())
        self._file.write(record)
        self._file.flush()
        self._complete_bytes = self._file.tell()
        self._written.append(Written(event.step, len(record), is_change))

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def discard_incomplete(self) -> None:
        """Remove the incomplete event, or the file if it holds nothing else."""
        with contextlib.suppress(OSError):
            self._file.raw.truncate(self._complete_bytes)
        self.abandon()
        if not self._complete_bytes:
            self._path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Close the file without writing its buffer."""
        with contextlib.suppress(OSError):
            self._file.raw.close()


class RemoteEventFile:
    """An event file on a `scheme://` path, which only TensorBoard's own writer can write to, through fsspec."""

    def __init__(self, logdir: str) -> None:
        self._writer = EventFileWriter(logdir)
        self._pid = os.getpid()

    def can_continue(self) -> bool:
        """Whether this process opened the file: the writer's thread does not exist in a forked process."""
        return self._pid == os.getpid()

    def add(self, event: event_pb2.Event, is_change: bool = False) -> None:  # noqa: ARG002 - none is ever dropped
        """Append one event and send it."""
        self._writer.add_event(event)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()

    def discard_incomplete(self) -> None:
        """Do nothing: a remote file cannot be shortened."""

    def abandon(self) -> None:
        """Do nothing: closing would wait for a thread that this process may not have."""


def is_remote(logdir: str) -> bool:
    """Whether a log directory is a `scheme://` path."""
    return "://" in logdir


def open_event_file(logdir: str) -> EventFile:
    """Create a new event file in a log directory."""
    return RemoteEventFile(logdir) if is_remote(logdir) else LocalEventFile(Path(logdir))


def as_record(data: bytes) -> bytes:
    """The data as event files hold it: between its length and its checksum, the length with a checksum of its own."""
    length = struct.pack("<Q", len(data))
    return b"".join((length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))))


def _create(folder: Path) -> io.BufferedWriter:
    # Containers may share host name, process id and clock: then the next number is tried.
    while True:
        with contextlib.suppress(FileExistsError):
            return (folder / _file_name()).open("xb")


def _file_name() -> str:
    # TensorBoard reads the files of a run in the order of their names, so numbers are padded with zeros.
    return f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_counter):06d}"


def _version() -> event_pb2.Event:
    return event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2")
