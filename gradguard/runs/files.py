"""The files of recorded runs: what lies below a folder, and what of it can be read."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """Something that was not read, or not whole.

    Attributes:
        path: Its path.
        reason: Why, in a clause.
        is_loss: Whether checks may be missing because of it.
    """

    path: str
    reason: str
    is_loss: bool = True


Skip: TypeAlias = Callable[[Skipped], object]
"""What is called with everything that is skipped."""


class NotAFileError(OSError):
    """A path is something that is not opened, since a read of it may never end."""


def open_regular(path: str) -> BinaryIO:
    """Open a file for reading, without waiting for anybody.

    Raises:
        NotAFileError: The path is a pipe, a socket, a device or a directory.
        OSError: The file cannot be opened.
    """
    _require_regular(Path(path).stat(), path)
    # A pipe may have taken its place since: to open one waits for a writer, without this flag.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "not a regular file")
        raise NotAFileError(f"{path} is {kind}")


def reason_of(error: OSError) -> str:
    """Why a file could not be read, without its path."""
    return error.strerror or str(error).rpartition(" is ")[2] or type(error).__name__


def walk(top: str, skip: Skip) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `top`, `top` itself included, with the sorted paths of its files.

    Links to folders are followed last, and a folder is listed once, under its own name if it lies below `top`.

    Args:
        top: The folder.
        skip: Called with each folder that cannot be listed, and with each link to one that was listed.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [top]
    for start in waiting:
        for folder, subfolders, files in os.walk(start, onerror=lambda error: _skip_folder(error, skip)):
            key = _identity(folder)
            if key is None or key in visited:
                subfolders.clear()
                if folder == start and key is not None:
                    skip(Skipped(folder, "a link to a folder that was read already", is_loss=False))
                continue
            visited.add(key)
            subfolders.sort()
            waiting += [str(path) for name in subfolders if (path := Path(folder, name)).is_symlink()]
            yield folder, sorted(str(Path(folder, name)) for name in files)


def _identity(folder: str) -> tuple[int, int] | None:
    """Device and inode; None for a folder that has vanished."""
    try:
        status = Path(folder).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _skip_folder(error: OSError, skip: Skip) -> None:
    skip(Skipped(str(error.filename), f"the folder cannot be listed ({reason_of(error)})"))
