"""Reports as JSON lines: one line of strict JSON for each check."""

import io
import json
import os
from pathlib import Path
from typing import Any

from gradguard.report import Report
from gradguard.writers.files import make_folder

LINE_START = b'{"step": '
"""The start of every line; no other file is taken for a log of gradguard."""


class JSONLWriter:
    """Appends every report, complete, to a file of JSON lines.

    A run that continues after a crash appends to the same file; an incomplete last line is removed first. The file is
    opened for each report and written at once, so that the writer can be pickled and used on both sides of a fork, and
    a file that is moved away is created again.

    Args:
        path: The file; it and its folder are created if they are missing.

    Raises:
        IsADirectoryError: `path` is a directory.
        NotADirectoryError: The folder of `path` is a file.
        ValueError: `path` is a file that does not hold reports, or a pipe or a device.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        if self.path.is_dir():
            raise IsADirectoryError(f"expected a file to append reports to, got the directory {self.path}")
        make_folder(self.path.parent)
        if self.path.exists():
            if not self.path.is_file():
                raise ValueError(f"expected a file to append reports to, got {self.path}, which is a pipe or a device")
            _check_holds_reports(self.path)
            _repair_end(self.path)
        self._incomplete = False

    def write(self, report: Report) -> None:
        """Append the report as one line.

        Raises:
            OSError: The line is not written, or only in part; the next `write` removes that part.
        """
        line = json.dumps(report.to_dict(), allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        # Only after a failure of this writer: an incomplete line may be one that a forked process is writing.
        if self._incomplete:
            _repair_end(self.path)
        self._incomplete = True
        with self.path.open("ab", buffering=0) as file:
            _write_whole(file, line)
        self._incomplete = False

    def close(self) -> None:
        """Do nothing: the file is closed after each report."""


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The reports in a file that `JSONLWriter` wrote, oldest first, each as `Report.to_dict` gave it.

    An incomplete last line is skipped: the process died, or is writing.

    Raises:
        ValueError: Another line is not the JSON of a report; the message says which.
    """
    with Path(path).open("rb") as file:
        return [
            _parse_line(path, number, line)
            for number, line in enumerate(file, start=1)
            if line.endswith(b"\n") or _is_whole(line)
        ]


def _parse_line(path: str | os.PathLike[str], number: int, line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested lists
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
        start = file.read(len(LINE_START))
    if not LINE_START.startswith(start):
        raise ValueError(
            f"expected a new file, or one that JSONLWriter wrote, got {path}, which starts with {start!r}: "
            "reports are not appended to it; choose another path"
        )


def _repair_end(path: Path) -> None:
    """Make the file end with a newline: an incomplete last line is removed, a complete one gets its newline."""
    with path.open("a+b", buffering=0) as file:
        end = _end_of_lines(file)
        file.seek(end)
        if _is_whole(file.read()):
            _write_whole(file, b"\n")
        else:
            file.truncate(end)


def _end_of_lines(file: io.FileIO) -> int:
    """The offset after the last newline, searched from the end in blocks of doubling size."""
    size = file.seek(0, os.SEEK_END)
    span = 1
    while True:
        start = file.seek(max(0, size - span))
        newline = file.read(size - start).rfind(b"\n")
        if newline >= 0 or start == 0:
            return start + newline + 1
        span *= 2


def _write_whole(file: io.FileIO, data: bytes) -> None:
    # An unbuffered file may write only a part; the next attempt raises the error that stopped it.
    while data:
        data = data[file.write(data) :]
