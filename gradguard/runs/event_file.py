"""Events read back from one event file, past everything in it that is damaged."""

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2

from gradguard.runs.files import NotAFileError, Skip, Skipped, open_regular, reason_of
from gradguard.writers.tensorboard.checksum import masked_crc32c

MAX_RECORD_BYTES = 2**26
"""Length of a record above which it is taken for damaged: a check of thousands of tensors has a few megabytes."""

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")


class _IncompleteError(Exception):
    """The file ends in the middle of a record."""


class _DamagedError(Exception):
    """Where the next record begins cannot be told."""


def read_events(path: str, skip: Skip) -> Iterator[Any]:
    """The events of an event file, in order.

    A damaged event is left out. Where its end cannot be told either, nothing after it is read.

    Args:
        path: The file, or a `scheme://` path.
        skip: Called once if the file, or a part of it, cannot be read.
    """
    damaged = 0
    try:
        for data in _remote_records(path) if "://" in path else _local_records(path):
            event = None if data is None else _parsed(data)
            if event is None:
                damaged += 1
            else:
                yield event
    except NotAFileError as error:
        skip(Skipped(path, reason_of(error), is_loss=False))
    except OSError as error:
        skip(Skipped(path, f"it cannot be read ({reason_of(error)})"))
    except _IncompleteError:
        skip(Skipped(path, "it ends in the middle of an event, which is left out", is_loss=False))
    except _DamagedError as error:
        skip(Skipped(path, f"it is damaged {error}, and what follows cannot be read"))
    if damaged:
        skip(Skipped(path, f"{damaged} damaged event{'' if damaged == 1 else 's'} in it left out"))


def _parsed(data: bytes) -> Any:
    """The event; None if the data is none."""
    try:
        return event_pb2.Event.FromString(data)
    except DecodeError:
        return None


def _remote_records(path: str) -> Iterator[bytes]:
    """The records of a `scheme://` path, which only TensorBoard can read."""
    try:
        yield from event_file_loader.RawEventFileLoader(path).Load()
    except (MemoryError, OverflowError) as error:
        raise _DamagedError("at a record of an impossible length") from error


def _local_records(path: str) -> Iterator[bytes | None]:
    """The records of a file; None for one whose checksum is wrong."""
    with open_regular(path) as file:
        while header := file.read(_HEADER.size):
            yield _record(file, header)


def _record(file: BinaryIO, header: bytes) -> bytes | None:
    if len(header) < _HEADER.size:
        raise _IncompleteError
    length, checksum = _HEADER.unpack(header)
    where = f"at byte {file.tell() - _HEADER.size}"
    if masked_crc32c(header[:8]) != checksum:
        raise _DamagedError(where)
    if length > MAX_RECORD_BYTES:
        raise _DamagedError(f"{where} (a record of {length} bytes)")
    data = file.read(length + _CHECKSUM.size)
    if len(data) < length + _CHECKSUM.size:
        raise _IncompleteError
    content = data[:length]
    return content if _CHECKSUM.unpack(data[length:]) == (masked_crc32c(content),) else None
