"""Columns of numbers from a CSV file of another program."""

import csv
import io
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradguard.arrays import Float64
from gradguard.cli.output import Failure

MAX_FILE_SIZE = 64 * 2**20  # bytes
MAX_WORD_LENGTH = 40  # characters of a cell in a message
MAX_PATH_LENGTH = 200  # characters of a path in a message
MAX_COLUMNS_IN_MESSAGE = 10  # a longer list hides the sentence before it
DELIMITERS = ",;\t"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Row = tuple[int, list[str]]


@dataclass(frozen=True, slots=True)
class Columns:
    """The numbers of one tensor, (m,) each; `error` is None if the file has no such column."""

    numeric: Float64
    analytic: Float64
    error: Float64 | None


def read_columns(source: str) -> dict[str, Columns]:
    """The columns of a CSV file, by tensor; `-` is the standard input.

    Raises:
        Failure: The file cannot be read, or does not hold such columns.
    """
    try:
        return parse(_decoded(_content(source)), "all" if source == "-" else Path(source).stem)
    except Failure as failure:
        name = "standard input" if source == "-" else _quoted(source, MAX_PATH_LENGTH)
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
    if content.startswith(UTF16_MARKS):
        raise Failure("is text in UTF-16; expected UTF-8: save it anew")
    if b"\0" in content:
        raise Failure(f"is no text (a zero byte at {content.index(0)}); expected comma-separated values")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{content[error.start]:02x} at {error.start}"
        raise Failure(f"is no text in UTF-8 ({byte}); expected comma-separated values") from error


def parse(text: str, tensor: str) -> dict[str, Columns]:
    """The columns `numeric`, `analytic` and optionally `tensor` and `error`, by tensor.

    Args:
        text: A header and rows, separated by commas, or by semicolons or tabs if the header is.
        tensor: The tensor of all rows if there is no column `tensor`.

    Raises:
        Failure: A column is missing, a value is no number, or a row does not fit the header; the message has the line.
    """
    rows = _rows(text)
    number, header = next(rows, (0, []))
    if not header:
        raise Failure("is empty; expected a header with the columns numeric and analytic")
    positions = _positions(number, header)
    numbers: dict[str, list[list[float]]] = {}
    for line, row in rows:
        _require_width(line, row, len(header))
        name = _name(line, row[positions["tensor"]]) if "tensor" in positions else tensor
        numbers.setdefault(name, []).append(_read(line, row, positions))
    if not numbers:
        raise Failure("holds no rows below its header")
    return {name: Columns(*_transposed(lines)) for name, lines in numbers.items()}


def _rows(text: str) -> Iterator[Row]:
    """The rows that are not blank, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True, skipinitialspace=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise Failure(f"line {line}: {error}") from error
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield line, row


def _delimiter(text: str) -> str:
    header = text.lstrip().partition("\n")[0]
    return max(DELIMITERS, key=header.count)


def _positions(line: int, header: Sequence[str]) -> dict[str, int]:
    """The positions of the known columns."""
    names = [cell.strip().casefold() for cell in header]
    for known in ("numeric", "analytic", "tensor", "error"):
        if names.count(known) > 1:
            raise Failure(f"line {line}: the header has {names.count(known)} columns {known!r}; expected one")
    missing = [needed for needed in ("numeric", "analytic") if needed not in names]
    if missing:
        present = ", ".join(_quoted(cell.strip()) for cell in header[:MAX_COLUMNS_IN_MESSAGE])
        more = f" and {len(header) - MAX_COLUMNS_IN_MESSAGE} more" if len(header) > MAX_COLUMNS_IN_MESSAGE else ""
        absent = " and no ".join(map(repr, missing))
        raise Failure(f"line {line}: the header has no column {absent}, but {present}{more}")
    return {name: names.index(name) for name in ("numeric", "analytic", "tensor", "error") if name in names}


def _require_width(line: int, row: Sequence[str], width: int) -> None:
    filled = len(row) if len(row) <= width else max(width, *(i + 1 for i, cell in enumerate(row) if cell.strip()))
    if filled != width:
        raise Failure(f"line {line}: expected {width} values, as the header has, got {filled}")


def _name(line: int, cell: str) -> str:
    name = cell.strip()
    if not name:
        raise Failure(f"line {line}: the name of the tensor is missing")
    return name


def _read(line: int, row: Sequence[str], positions: dict[str, int]) -> list[float]:
    """The values of the columns numeric, analytic and, if there is one, error."""
    values = [
        _number(line, name, row[positions[name]]) for name in ("numeric", "analytic", "error") if name in positions
    ]
    if len(values) > 2 and not 0 <= values[2] < math.inf:
        raise Failure(f"line {line}: error is {values[2]:g}; expected a number of at least 0")
    return values


def _number(line: int, column: str, cell: str) -> float:
    try:
        return float(cell.replace("_", "?"))  # float() accepts 1_000, other programs do not
    except ValueError:
        raise Failure(f"line {line}: {column} is {_quoted(cell.strip())}; expected a number") from None


def _transposed(lines: list[list[float]]) -> tuple[Float64, Float64, Float64 | None]:
    numeric, analytic, *error = np.array(lines).T
    return numeric, analytic, error[0] if error else None


def _quoted(text: str, length: int = MAX_WORD_LENGTH) -> str:
    """The text in quotes, with escapes for unprintable characters, and shortened to `length` characters."""
    return repr(text if len(text) <= length else f"{text[:length]}...")
