"""The files of writers: their folders, and which of their records are dropped where they grow too large."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

MAX_MEGABYTES = 100.0
"""Of the files that a writer writes, unless the user says otherwise."""
BYTES_PER_MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Written:
    """A record in a file.

    Attributes:
        step: The training step.
        size: In bytes.
        is_change: Whether it has alerts, or a change between right and wrong: it is dropped last.
    """

    step: int
    size: int
    is_change: bool


def chosen(records: Sequence[Written], max_bytes: float) -> list[bool]:
    """Which records to keep: all changes, and of the others as many as fit, about as many steps from each other.

    If the changes alone do not fit, they are thinned too.
    """
    if sum(record.size for record in records if record.is_change) > max_bytes:
        records = [replace(record, is_change=False) for record in records]
    keep = _evenly(records, max_bytes)
    if _kept_size(records, keep) > max_bytes:  # a training that was set back again and again
        keep = _evenly([replace(record, step=place) for place, record in enumerate(records)], max_bytes)
    return keep


def _evenly(records: Sequence[Written], max_bytes: float) -> list[bool]:
    """All changes, and others so many steps apart that all fit, if there is such a distance."""
    steps = [record.step for record in records]
    gap = 1
    while True:
        keep = _at_least_apart(records, gap)
        if _kept_size(records, keep) <= max_bytes or gap > max(steps) - min(steps):
            return keep
        gap *= 2


def _kept_size(records: Sequence[Written], keep: Sequence[bool]) -> int:
    return sum(record.size for record, is_kept in zip(records, keep, strict=True) if is_kept)


def _at_least_apart(records: Sequence[Written], gap: int) -> list[bool]:
    """Which records to keep so that those without a change are so many steps apart."""
    keep: list[bool] = []
    last: int | None = None
    for record in records:
        # A step before the last one: the training was set back.
        is_due = last is None or record.step < last or record.step >= last + gap
        if is_due:
            last = record.step
        keep.append(is_due or record.is_change)
    return keep


def require_megabytes(name: str, megabytes: float) -> float:
    """The option as a number of bytes.

    Raises:
        ValueError: It is no number above 0.
    """
    if isinstance(megabytes, bool) or not isinstance(megabytes, int | float) or not megabytes > 0:
        raise ValueError(f"{name} is {megabytes!r}; expected a number above 0, or math.inf for no bound")
    return BYTES_PER_MEGABYTE * megabytes


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if they are missing.

    Raises:
        NotADirectoryError: `folder` or one of its parents is a file.
        OSError: The folder cannot be created.
    """
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"expected a directory to write reports into, got {folder}, but {path} is a file")
    folder.mkdir(parents=True, exist_ok=True)
