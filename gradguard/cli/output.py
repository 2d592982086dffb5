"""The output of the commands, and their exit statuses."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gradguard.report import Verdict

FINE, BUG, CANNOT_TELL = 0, 1, 2  # exit statuses, as the README lists them


class Failure(Exception):  # noqa: N818 - it is an outcome, no defect of the program
    """A command cannot do its work; the user sees why.

    Attributes:
        message: The reason, in one line.
        details: Text to print before it, such as a traceback of the user's own code; "" if there is none.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.details = details


def print_failure(prog: str, failure: Failure) -> None:
    """Print the details and the reason of a failure to the standard error stream."""
    sys.stderr.write(f"{failure.details}{prog}: error: {failure.message}\n")


def status_of(verdict: Verdict) -> int:
    """The exit status of a verdict."""
    return {False: FINE, True: BUG, None: CANNOT_TELL}[verdict.is_bug]


def print_text(text: str) -> None:
    """Print text and a newline; characters that the encoding of stdout lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))


def print_json(values: Mapping[str, Any]) -> None:
    """Print strict JSON in ASCII, so that no name in it holds a control character."""
    sys.stdout.write(f"{json.dumps(values, allow_nan=False, indent=2)}\n")


@contextlib.contextmanager
def stdout_for_json_only(is_json: bool) -> Iterator[None]:
    """Redirect the output of the user's own code to the standard error stream if stdout is for JSON."""
    with contextlib.redirect_stdout(sys.stderr) if is_json else contextlib.nullcontext():
        yield
