"""What the commands print, and how they end."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from gradguard.report.verdict import Verdict

FINE, BUG, CANNOT_TELL = 0, 1, 2


class Failure(Exception):  # noqa: N818 - it is no error of the program
    """Why a command cannot do what it was asked for.

    Attributes:
        message: One line.
        details: What is shown before it, such as a traceback of the user's own code; "" if nothing.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.message = " ".join(message.split())
        self.details = details


def complain(prog: str, failure: Failure) -> None:
    """Say on the standard error stream why the command failed, in one line after the details."""
    sys.stderr.write(f"{failure.details}{prog}: error: {failure.message}\n")


def status_of(verdict: Verdict) -> int:
    """The exit status that tells a verdict."""
    return {False: FINE, True: BUG, None: CANNOT_TELL}[verdict.is_bug]


def say(text: str) -> None:
    """Print lines; characters that the terminal's encoding lacks are written as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))


def say_json(values: Mapping[str, Any]) -> None:
    """Print strict JSON, in ASCII, so that no name in it can hold a control character."""
    sys.stdout.write(f"{json.dumps(values, allow_nan=False, indent=2)}\n")


@contextlib.contextmanager
def stdout_for_json_only(is_json: bool) -> Iterator[None]:
    """Send what the user's own code prints to the standard error stream where the output is JSON."""
    with contextlib.redirect_stdout(sys.stderr) if is_json else contextlib.nullcontext():
        yield
