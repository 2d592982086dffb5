"""Logs read back from a folder: event files, on any path that TensorBoard can read, and files of JSON lines."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing import event_file_loader, io_wrapper
from tensorboard.compat.proto import event_pb2

from gradguard.runs.schema import read_check, read_sweep
from gradguard.writers.jsonl import starts_as_log
from gradguard.writers.record import CHECK_TAG, SWEEP_TAG, Record, unpacked

RECORD_TAGS = (CHECK_TAG, SWEEP_TAG)


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


def read_logs(logdir: str, *, details: bool = True) -> list[Log]:
    """The runs below a folder, or the run in a file, in the order of their names.

    If a run has both event files and JSON lines, the log with more checks is read.

    Args:
        logdir: The folder or file, or a `scheme://` path.
        details: Whether to read blocks and single entries too, which are most of a long log.

    Raises:
        OSError: `logdir` does not exist or cannot be read.
    """
    if "://" not in logdir and not Path(logdir).exists():
        raise FileNotFoundError(f"there is no {logdir}")
    if "://" not in logdir and Path(logdir).is_file():
        return list(filter(_has_content, [_fullest_log([logdir], Path(logdir).name, details)]))
    folders = io_wrapper.ListRecursivelyViaWalking(logdir)
    logs = (_fullest_log(sorted(files), _relative(folder, logdir), details) for folder, files in folders)
    return sorted(filter(_has_content, logs), key=lambda log: log.run)


def _has_content(log: Log) -> bool:
    return bool(log.checks or log.unreadable or log.sweep)


def _relative(folder: str, logdir: str) -> str:
    return folder.removeprefix(logdir).strip("/\\") or "."


def _fullest_log(files: Iterable[str], run: str, details: bool) -> Log:
    paths = list(files)
    events = _log(run, _from_events(path for path in paths if io_wrapper.IsTensorFlowEventsFile(path)), details)
    lines = [_log(run, _from_lines(Path(path)), details) for path in paths if _is_jsonl(path)]
    fullest = max([*lines, events], key=lambda log: len(log.checks))
    return Log(run, fullest.checks, fullest.unreadable, events.sweep)


def _is_jsonl(path: str) -> bool:
    return "://" not in path and path.endswith(".jsonl") and starts_as_log(path)


def _log(run: str, records: Iterable[tuple[str, Record | None]], details: bool) -> Log:
    """A run from its records in the order of writing; a lower step erases the records after it, as in TensorBoard."""
    checks: list[Record] = []
    unreadable, sweep = 0, None
    for tag, content in records:
        check = read_check(content, details=details) if tag == CHECK_TAG else None
        if tag == SWEEP_TAG:
            sweep = read_sweep(content) or sweep
        elif check is None:
            unreadable += 1
        else:
            while checks and checks[-1]["step"] >= check["step"]:
                checks.pop()
            checks.append(check)
    return Log(run, checks, unreadable, sweep)


def _from_lines(path: Path) -> Iterator[tuple[str, Record | None]]:
    *lines, tail = path.read_bytes().split(b"\n")
    yield from ((CHECK_TAG, unpacked(line)) for line in lines)
    last = unpacked(tail)
    if last is not None:  # else the tail is empty, or a line that is being written
        yield CHECK_TAG, last


def _from_events(paths: Iterable[str]) -> Iterator[tuple[str, Record | None]]:
    """The records of event files; events after an incomplete one are lost, as in TensorBoard."""
    for path in paths:
        for data in event_file_loader.RawEventFileLoader(path).Load():
            for value in event_pb2.Event.FromString(data).summary.value:
                if value.tag in RECORD_TAGS:
                    yield value.tag, _content(value)


def _content(value: Any) -> Record | None:
    strings = value.tensor.string_val
    return unpacked(strings[0]) if len(strings) == 1 else None
