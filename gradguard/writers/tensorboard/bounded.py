"""The event files of a run, kept below a total size: detail of older checks is dropped, changes are kept."""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from pathlib import Path

from gradguard.writers.files import Written, chosen

FILES = 8  # into which the events of a run are divided: only files that are closed can be thinned
ROOM = 0.75  # of the bound that the files take after a thinning


@dataclass(frozen=True, slots=True)
class ClosedFile:
    """An event file that is complete.

    Attributes:
        path: The file.
        size: In bytes, with the version at its beginning.
        written: Its other events, in order.
    """

    path: Path
    size: int
    written: tuple[Written, ...]

    @property
    def version_size(self) -> int:
        """The size of what precedes the events."""
        return self.size - sum(event.size for event in self.written)


class ClosedFiles:
    """The closed event files that this process has written.

    Args:
        max_bytes: The bound on them and the open file together.
    """

    def __init__(self, max_bytes: float) -> None:
        self.max_bytes = max_bytes
        self._files: list[ClosedFile] = []
        self._pid = os.getpid()

    @property
    def max_file_bytes(self) -> float:
        """The size at which an open file is to be closed."""
        return self.max_bytes / FILES

    def add(self, file: ClosedFile) -> None:
        """Take a file that was closed, and thin the older half of all files where the next one could exceed the bound.

        A file that cannot be rewritten stays as it is until the next one is closed.
        """
        if self._pid != os.getpid():  # a forked child: those before belong to its parent
            self._files, self._pid = [], os.getpid()
        self._files = [known for known in self._files if known.path.exists()]
        self._files.append(file)
        total = sum(known.size for known in self._files)
        if total + self.max_file_bytes > self.max_bytes:
            count = self._older_half(total)
            older = self._files[:count]
            most = ROOM * self.max_bytes - self.max_file_bytes - sum(known.size for known in self._files[count:])
            with contextlib.suppress(OSError):
                self._files[:count] = [_thinned(older, most)]

    def _older_half(self, total: int) -> int:
        """How many files, oldest first, make up half of all bytes."""
        sizes = accumulate(file.size for file in self._files)
        return 1 + sum(size < total / 2 for size in sizes)


def _thinned(files: Sequence[ClosedFile], max_bytes: float) -> ClosedFile:
    """The first file, which replaces all of them and holds the events that are kept.

    Events are copied as they are. A process that is killed in between leaves files whose events are in two of them,
    and none whose events are lost.

    Raises:
        OSError: A file cannot be read or written; all are then as before.
    """
    first = files[0]
    keep = chosen([event for file in files for event in file.written], max_bytes - first.version_size)
    # Without "tfevents" in its name, TensorBoard does not take it for an event file.
    partial = first.path.with_name(f".gradguard.{os.getpid()}.partial")
    try:
        partial.write_bytes(b"".join(_kept_bytes(files, keep)))
        partial.replace(first.path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    for file in files[1:]:
        file.path.unlink(missing_ok=True)
    written = tuple(compress((event for file in files for event in file.written), keep))
    return ClosedFile(first.path, first.version_size + sum(event.size for event in written), written)


def _kept_bytes(files: Sequence[ClosedFile], keep: Sequence[bool]) -> list[bytes]:
    """The version of the first file, and the events of all files that are kept."""
    is_kept = iter(keep)
    parts: list[bytes] = []
    for file in files:
        content = file.path.read_bytes()
        place = file.version_size
        parts += [] if parts else [content[:place]]
        for event in file.written:
            if next(is_kept):
                parts.append(content[place : place + event.size])
            place += event.size
    return parts
