"""Reports as JSON lines: one line of strict JSON for each check."""

import contextlib
import dataclasses
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is forked
    fcntl = None  # type: ignore[assignment]

from gradguard.report import Changes, Report, TensorReport
from gradguard.writers.files import MAX_MEGABYTES, Written, chosen, make_folder, require_megabytes
from gradguard.writers.record import Completion, looked_at_anew

LINE_START = b'{"step": '
"""The start of every line; no other file is taken for a log of gradguard."""
ROOM = 0.75  # of the bound that a file takes after a thinning
_HEAD = re.compile(rb'\{"step": (-?\d{1,18}), ("is_change": true)?')


class JSONLWriter:
    """Appends what every check measured or screened to a file of JSON lines.

    A line holds the report of a check: all of the tensors that the check measured, and of the others only the numbers
    of the screen. `read_jsonl` puts complete reports together.

    A run that continues after a crash appends to the same file; an incomplete last line is removed first. The file is
    opened for each report and written at once, so that the writer can be pickled and used on both sides of a fork, and
    a file that is moved away is created again.

    The file is bounded: where it exceeds `max_megabytes`, lines of older checks are dropped, evenly over the steps.
    Lines with alerts or with changes between right and wrong are kept as long as they fit by themselves.

    Args:
        path: The file; it and its folder are created if they are missing.
        max_megabytes: The size of the file, in units of 10^6 bytes.

    Raises:
        IsADirectoryError: `path` is a directory.
        NotADirectoryError: The folder of `path` is a file.
        ValueError: `path` is a file that does not hold reports, or a pipe or a device; or `max_megabytes` is no number
            above 0.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_megabytes: float = MAX_MEGABYTES) -> None:
        self._max_bytes = require_megabytes("max_megabytes", max_megabytes)
        self._thinned_at = self._max_bytes
        self._changes = Changes()
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
        mark = {"is_change": True} if self._changes.is_change(report) else {}
        # The step and the mark come first: a thinning reads no more of a line.
        content = {"step": report.step} | mark | looked_at_anew(report)
        line = json.dumps(content, allow_nan=False).encode() + b"\n"
        make_folder(self.path.parent)
        # Only after a failure of this writer: an incomplete line may be one that a forked process is writing.
        if self._incomplete:
            _repair_end(self.path)
        self._incomplete = True
        with _opened_to_append(self.path) as file:
            _write_whole(file, line)
            size = file.tell()
        self._incomplete = False
        if size > self._thinned_at:
            left = _thin(self.path, size, self._max_bytes)
            # What cannot be made small enough is not tried again at each check.
            self._thinned_at = max(self._max_bytes, left + (1 - ROOM) * self._max_bytes)

    def close(self) -> None:
        """Do nothing: the file is closed after each report."""


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The reports in a file that `JSONLWriter` wrote, oldest first, each as `Report.to_dict` gave it.

    What a tensor's own measurement says comes from the line of the check that made it; where there is no such line, it
    is None or empty. The numbers of screens have 6 digits. An incomplete last line is skipped: the process died, or is
    writing.

    Raises:
        ValueError: Another line is not the JSON of a report; the message says which.
    """
    completion = Completion()
    with Path(path).open("rb") as file:
        return [
            _with_empty_fields(completion.complete(_parse_line(path, number, line)))
            for number, line in enumerate(file, start=1)
            if line.endswith(b"\n") or _is_whole(line)
        ]


def _with_empty_fields(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the fields of tensors that a line leaves out because they are empty."""
    report = {key: value for key, value in report.items() if key != "is_change"}
    tensors = report.get("tensors")
    if not isinstance(tensors, dict):
        return report
    whole = {
        name: {**_empty_tensor(), "name": name, **tensor} if isinstance(tensor, dict) else tensor
        for name, tensor in tensors.items()
    }
    return report | {"tensors": whole}


def _empty_tensor() -> dict[str, Any]:
    lists = {name: list[Any]() for name in ("factors", "worst", "ratios", "entries")}
    mappings = {name: dict[str, Any]() for name in ("blocks", "constants")}
    texts = dict.fromkeys(("cause", "cause_key", "explanation", "faulty_block", "expected"), "")
    return {field.name: None for field in dataclasses.fields(TensorReport)} | {"deep": False} | lists | mappings | texts


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


@contextlib.contextmanager
def _opened_to_append(path: Path) -> Iterator[io.FileIO]:
    """The file, which no other process replaces until it is closed."""
    while True:
        with path.open("ab", buffering=0) as file:
            _lock(file, "LOCK_SH")
            if _is_same(file, path):
                yield file
                return


def _lock(file: io.FileIO, kind: str) -> None:
    # A file system without locks is used without them: then nothing but a thinning in a forked process is in doubt.
    with contextlib.suppress(OSError):
        if fcntl is not None:
            fcntl.flock(file, getattr(fcntl, kind))


def _is_same(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _thin(path: Path, size: int, max_bytes: float) -> int:
    """Drop lines from the older half of a file; its size afterwards, the same if it cannot be rewritten."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with path.open("rb", buffering=0) as locked, path.open("rb") as lines, partial.open("wb") as kept:
            _lock(locked, "LOCK_EX")
            if not _is_same(locked, path):  # another process has thinned it
                return path.stat().st_size
            keep = _kept_lines(lines, size, max_bytes)
            lines.seek(0)
            for number, line in enumerate(lines):
                if number >= len(keep) or keep[number]:
                    kept.write(line)
            left = kept.tell()
            kept.flush()
            partial.replace(path)
    except OSError:
        return size
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return left


def _kept_lines(lines: io.BufferedReader, size: int, max_bytes: float) -> list[bool]:
    """Which lines of the older half of a file to keep; all others are kept."""
    older: list[Written] = []
    place = 0
    for line in lines:
        head = _HEAD.match(line)
        older.append(Written(int(head[1]) if head else 0, len(line), head is None or head[2] is not None))
        place += len(line)
        if place >= size / 2:
            break
    return chosen(older, ROOM * max_bytes - (size - place))
