"""Tracebacks that show the user's lines, and of gradguard's own only where it is entered and where it ends."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
OWN_FOLDER = f"{Path(__file__).parents[1]}{os.sep}"


def with_short_traceback(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A public function; what restores a training whatever happens is dozens of frames, which help nobody."""

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            rest = error.__traceback__.tb_next if error.__traceback__ is not None else None
            raise error.with_traceback(shortened(rest))  # noqa: B904 - the same exception

    return call


def shortened(trace: TracebackType | None) -> TracebackType | None:
    """A traceback that leaves out the frames of gradguard between the first and the last one in a row."""
    entries: list[TracebackType] = []
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    own = [entry.tb_frame.f_code.co_filename.startswith(OWN_FOLDER) for entry in entries]
    kept: TracebackType | None = None
    for index in reversed(range(len(entries))):
        is_inner = own[index] and all(own[max(0, index - 1) : index + 2]) and 0 < index < len(entries) - 1
        if not is_inner:
            entries[index].tb_next = kept  # a new entry would need a line number, and a signal may have none
            kept = entries[index]
    return kept
