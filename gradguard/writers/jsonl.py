"""The full history of a run: one line of strict JSON a check."""

import io
import json
import os
from pathlib import Path
from typing import Any

from gradguard.report.results import Report
from gradguard.writers.files import make_folder

# What every line starts with: how a log of ours is told from any other file.
_LINE_START = b'{"step": '


class JSONLWriter:
    """Appends every report, complete, to a file of JSON lines.

    A run that goes on after a crash appends to the same file; a line that the crash tore is cut off first. The file is
    opened anew for each report and takes it in one piece, so that the writer can be pickled and used on both sides of a
    fork, and a file that somebody moves away is begun again.

    Args:
        path: The file; it is created, with its folder, when it is missing.

    Raises:
        IsADirectoryError: `path` is a directory.
        NotADirectoryError: A file stands where the folder of `path` should be.
        ValueError: `path` is a file that holds something other than reports.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        if self.path.is_dir():
            raise IsADirectoryError(f"expected a file to append reports to, got the directory {self.path}")
        make_folder(self.path.parent)
        if self.path.exists():
            _check_holds_reports(self.path)
            _mend(self.path)
        self._torn = False

    def write(self, report: Report) -> None:
        """Append the report as one line.

        Raises:
            OSError: The line could not be written whole; the next `write` cuts off what there is of it.
        """
        line = json.dumps(report.to_dict(), allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        # Only after a failure of our own: otherwise a torn line may be one that a forked process is writing.
        if self._torn:
            _mend(self.path)
        self._torn = True
        with self.path.open("ab", buffering=0) as file:
            _write_whole(file, line)
        self._torn = False

    def close(self) -> None:
        """Nothing is held open between two reports, so there is nothing to do."""


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The reports in a file that `JSONLWriter` wrote, oldest first, each as `Report.to_dict` gave it.

    A last line that was torn (the process died, or is still writing) is left out.

    Raises:
        ValueError: Another line is not the JSON of a report; the message tells which.
    """
    with Path(path).open("rb") as file:
        return [
            _parse_line(path, number, line)
            for number, line in enumerate(file, start=1)
            if line.endswith(b"\n") or _is_whole(line)
        ]


def starts_as_log(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as one that `JSONLWriter` wrote.

    Raises:
        OSError: It cannot be read.
    """
    with Path(path).open("rb") as file:
        return file.read(len(_LINE_START)) == _LINE_START


def _parse_line(path: str | os.PathLike[str], number: int, line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # RecursionError: lists in lists in lists
        raise ValueError(f"{os.fspath(path)}, line {number}: expected the JSON of a report ({error})") from error
    if not isinstance(report, dict):
        raise ValueError(f"{os.fspath(path)}, line {number}: expected the JSON of a report, got {line[:40]!r}")  # noqa: TRY004 - the content is wrong, not the caller's type
    return report


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_whole(line: bytes) -> bool:
    try:
        _parse_line("", 0, line)
    except ValueError:
        return False
    return True


def _check_holds_reports(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(len(_LINE_START))
    if not _LINE_START.startswith(start):
        raise ValueError(
            f"expected a new file, or one that JSONLWriter wrote, got {path}, which starts with {start!r}: "
            "reports are not appended to it; choose another path"
        )


def _mend(path: Path) -> None:
    """Make the file end with a newline: a torn last line goes, a whole one that lacks only its end stays."""
    with path.open("a+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.seek(end)
        if _is_whole(file.read()):
            _write_whole(file, b"\n")
        else:
            file.truncate(end)


def _end_of_lines(file: io.FileIO) -> int:
    """The offset just behind the last newline, found from the end in ever larger steps."""
    size = file.seek(0, os.SEEK_END)
    span = 1
    while True:
        start = file.seek(max(0, size - span))
        newline = file.read(size - start).rfind(b"\n")
        if newline >= 0 or start == 0:
            return start + newline + 1
        span *= 2


def _write_whole(file: io.FileIO, data: bytes) -> None:
    # An unbuffered file may take a part only; the error that stopped it comes with the next attempt.
    while data:
        data = data[file.write(data) :]
