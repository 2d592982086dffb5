"""Logs read back from a folder: event files, on any path that TensorBoard can read, and files of JSON lines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tensorboard.backend.event_processing import io_wrapper

from gradguard.runs.event_file import MAX_RECORD_BYTES, read_events
from gradguard.runs.files import NotAFileError, Skip, Skipped, open_regular, reason_of, walk
from gradguard.runs.schema import read_check, read_sweep
from gradguard.writers.jsonl import LINE_START
from gradguard.writers.record import CHECK_TAG, SWEEP_TAG, Completion, Record, unpacked

RECORD_TAGS = (CHECK_TAG, SWEEP_TAG)
MAX_LINE_BYTES = MAX_RECORD_BYTES


@dataclass(frozen=True, slots=True)
class Log:
    """The log of a run.

    Attributes:
        run: The folder of the run relative to the folder that was read; "." for the latter itself.
        checks: The checks as `read_check` returns them, with rising steps.
        unreadable: How many other checks could not be read.
        sweep: The last sweep; None if there is none.
    """

    run: str
    checks: list[Record]
    unreadable: int = 0
    sweep: Record | None = None


def read_logs(logdir: str, *, details: bool = True, skip: Skip = lambda _: None) -> list[Log]:
    """The runs below a folder, or the run in a file, in the order of their names.

    If a run has both event files and JSON lines, the log with more checks is read. What cannot be read is left out.

    Args:
        logdir: The folder or file, or a `scheme://` path.
        details: Whether to read blocks and single entries too, which are most of a long log.
        skip: Called with each file that cannot be read, or not whole, and with each folder that is skipped.

    Raises:
        OSError: `logdir` does not exist, is neither a folder nor a file, or cannot be read.
    """
    if "://" in logdir:
        folders = io_wrapper.ListRecursivelyViaWalking(logdir)
        logs = [_fullest_log(sorted(files), _relative(folder, logdir), details, skip) for folder, files in folders]
    elif Path(logdir).is_dir():
        next(Path(logdir).iterdir(), None)  # raises if the folder cannot be listed
        logs = [_fullest_log(files, _relative(folder, logdir), details, skip) for folder, files in walk(logdir, skip)]
    elif not Path(logdir).exists():
        raise FileNotFoundError(f"there is no {logdir}")
    else:
        open_regular(logdir).close()
        logs = [_fullest_log([logdir], Path(logdir).name, details, skip)]
    return sorted(filter(_has_content, logs), key=lambda log: log.run)


def _has_content(log: Log) -> bool:
    return bool(log.checks or log.unreadable or log.sweep)


def _relative(folder: str, logdir: str) -> str:
    return folder.removeprefix(logdir).strip("/\\") or "."


def _fullest_log(paths: Iterable[str], run: str, details: bool, skip: Skip) -> Log:
    of_events, of_lines = [], []
    for path in paths:
        if io_wrapper.IsTensorFlowEventsFile(path):
            of_events.append(path)
        elif path.endswith(".jsonl") and "://" not in path:
            of_lines.append(path)
    events = _log(run, _from_events(of_events, skip), details)
    lines = [_log(run, _from_lines(path, skip), details) for path in of_lines]
    fullest = max([*lines, events], key=lambda log: len(log.checks))
    return Log(run, fullest.checks, fullest.unreadable, events.sweep)


def _log(run: str, records: Iterable[tuple[str, Record | None]], details: bool) -> Log:
    """A run from its records in the order of writing; a lower step erases the records after it, as in TensorBoard."""
    checks: list[Record] = []
    unreadable, sweep, completion = 0, None, Completion()
    for tag, content in records:
        whole = completion.complete(content) if tag == CHECK_TAG and content is not None else None
        check = read_check(whole, details=details)
        if tag == SWEEP_TAG:
            sweep = read_sweep(content) or sweep
        elif check is None:
            unreadable += 1
        else:
            while checks and checks[-1]["step"] >= check["step"]:
                checks.pop()
            checks.append(check)
    return Log(run, checks, unreadable, sweep)


def _from_lines(path: str, skip: Skip) -> Iterator[tuple[str, Record | None]]:
    """The records of a file of JSON lines; none if it was not written by gradguard."""
    try:
        with open_regular(path) as file:
            if file.read(len(LINE_START)) == LINE_START:
                file.seek(0)
                yield from _records_of_lines(file)
    except NotAFileError as error:
        skip(Skipped(path, reason_of(error), is_loss=False))
    except OSError as error:
        skip(Skipped(path, f"it cannot be read ({reason_of(error)})"))


def _records_of_lines(file: BinaryIO) -> Iterator[tuple[str, Record | None]]:
    while line := file.readline(MAX_LINE_BYTES):
        is_whole = line.endswith(b"\n")
        record = unpacked(line) if is_whole or len(line) < MAX_LINE_BYTES else None
        if not is_whole and len(line) < MAX_LINE_BYTES and record is None:
            return  # a line that is being written
        while not is_whole and (rest := file.readline(MAX_LINE_BYTES)):
            is_whole = rest.endswith(b"\n")
        yield CHECK_TAG, record


def _from_events(paths: Iterable[str], skip: Skip) -> Iterator[tuple[str, Record | None]]:
    for path in paths:
        for event in read_events(path, skip):
            for value in event.summary.value:
                if value.tag in RECORD_TAGS:
                    yield value.tag, _content(value)


def _content(value: Any) -> Record | None:
    strings = value.tensor.string_val
    return unpacked(strings[0]) if len(strings) == 1 else None
