"""The text of a file, or of the standard input, from which numbers of another program are read."""

import sys
from pathlib import Path

from gradguard.cli.columns import Pasted
from gradguard.cli.output import Failure
from gradguard.cli.pasted import parse

MAX_FILE_SIZE = 64 * 2**20  # bytes
MAX_PATH_LENGTH = 200  # characters of a path in a message
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_pasted(source: str) -> Pasted:
    """The numbers in a file, by tensor; `-` is the standard input.

    Raises:
        Failure: The file cannot be read, or does not hold such numbers.
    """
    try:
        return parse(_decoded(_content(source)), "all" if source == "-" else Path(source).stem)
    except Failure as failure:
        name = "standard input" if source == "-" else repr(source[:MAX_PATH_LENGTH])
        raise Failure(f"{name}: {failure.message}") from failure


def _content(source: str) -> bytes:
    try:
        if source == "-":
            content = sys.stdin.buffer.read(MAX_FILE_SIZE + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(MAX_FILE_SIZE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise Failure(getattr(error, "strerror", None) or str(error)) from error
    if len(content) > MAX_FILE_SIZE:
        raise Failure(f"is larger than {MAX_FILE_SIZE // 2**20} MiB; expected a sample of the entries")
    return content


def _decoded(content: bytes) -> str:
    encoding = "utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in content:
        raise Failure(f"is not text (a zero byte at {content.index(0)}); expected numbers as text")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise Failure(
            f"is not text in {encoding.removesuffix('-sig').upper()} ({byte}); expected numbers as text"
        ) from error
