"""A table with a header whose cells are separated by commas, semicolons or tabs, quoted where they must be."""

import csv
import io
from collections.abc import Iterator, Sequence

from gradguard.cli.columns import EXAMPLE, Columns
from gradguard.cli.output import Failure
from gradguard.cli.pasted.roles import Role
from gradguard.cli.pasted.sentences import heading_in
from gradguard.cli.pasted.tables import Header, header_of, header_of_two
from gradguard.cli.pasted.tokens import Kind, Token, tokens_of

MAX_WORD_LENGTH = 40  # characters of a cell in a message
DELIMITERS = ",;\t"
NAMES = {Role.numeric: "numeric", Role.analytic: "analytic", Role.error: "error"}


class UnreadableRow(Exception):  # noqa: N818 - it is an outcome, no defect of the program
    """A row does not hold what its header says."""


def delimiter_of(text: str) -> str:
    """The sign between the cells of the first line, if that is a header; "" if it is none."""
    header = text.strip().splitlines()[0]
    sign = max(DELIMITERS, key=header.count)
    try:
        cells = next(csv.reader([header], delimiter=sign, skipinitialspace=True))
    except csv.Error:  # a line too long for a header
        return ""
    return sign if header_of_cells(cells) else ""


def header_of_cells(cells: Sequence[str]) -> Header | None:
    """The header that the cells make; None if they hold numbers, or lack one of the two gradients."""
    tokens = [tokens_of(cell) for cell in cells]
    if any(token.kind is Kind.number for cell in tokens for token in cell):
        return None
    words = [[token.text for token in cell if token.kind is Kind.word] for cell in tokens]
    return header_of(words) or header_of_two(words)


class Table:
    """The rows of such a table, read one after the other.

    Attributes:
        tensors: The numbers that were read, by tensor.
        problems: Why other rows were left out, each a clause that starts with the line.
    """

    def __init__(self, tensor: str) -> None:
        self.tensors: dict[str, Columns] = {}
        self.problems: list[str] = []
        self._tensor = tensor
        self._header = Header((), is_exact=True)

    def read(self, text: str, delimiter: str) -> None:
        """Read all rows.

        Raises:
            Failure: Rows were read, and a quoted cell below them has no end.
        """
        for line, row in self._rows(text, delimiter):
            if header := header_of_cells(row):
                self._header = header
            elif heading := _heading(row):
                self._tensor = heading
            elif any(cell.strip(" .\u2026") for cell in row):
                self._read_row(line, row)

    def _rows(self, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """The rows that are not blank, each with the number of its first line."""
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                self.problems.append(f"line {line}: {error}")
                if self.tensors:
                    raise Failure(f"{self.problems[-1]}; {EXAMPLE}") from error
                return
            if row is None:
                return
            if any(cell.strip() for cell in row):
                yield line, row

    def _read_row(self, line: int, row: Sequence[str]) -> None:
        try:
            name, numbers = self._numbers(row)
        except UnreadableRow as problem:
            self.problems.append(f"line {line}: {problem}")
            return
        columns = self.tensors.setdefault(name, Columns())
        columns.numeric.append(numbers[Role.numeric])
        columns.analytic.append(numbers[Role.analytic])
        columns.error += [numbers[Role.error]] if Role.error in numbers else []

    def _numbers(self, row: Sequence[str]) -> tuple[str, dict[Role, str]]:
        width, positions = len(self._header.roles), self._header.positions()
        _require_width(row, width)
        name = row[positions[Role.tensor]].strip() if Role.tensor in positions else self._tensor
        if not name:
            raise UnreadableRow("the name of the tensor is missing")
        numbers = {role: _number(NAMES[role], row[place]) for role, place in positions.items() if role in NAMES}
        if not 0 <= float(numbers.get(Role.error, "0")) < float("inf"):
            raise UnreadableRow(f"error is {numbers[Role.error]}; expected a number of at least 0")
        return name, numbers


def _heading(row: Sequence[str]) -> str:
    """The tensor that a row without numbers names; "" if it is no heading."""
    first, rest = row[0].strip(), [cell for cell in row[1:] if cell.strip()]
    if rest or any(token.kind in (Kind.number, Kind.typo) for token in tokens_of(first)):
        return ""
    return heading_in(tokens_of(first))


def _require_width(row: Sequence[str], width: int) -> None:
    filled = len(row) if len(row) <= width else max(width, *(i + 1 for i, cell in enumerate(row) if cell.strip()))
    if filled != width:
        raise UnreadableRow(f"expected {width} values, as the header has, got {filled}")


def _number(column: str, cell: str) -> str:
    numbers: list[Token] = [token for token in tokens_of(cell) if token.kind not in (Kind.opens, Kind.closes)]
    if len(numbers) != 1 or numbers[0].kind is not Kind.number:
        raise UnreadableRow(f"{column} is {quoted(cell.strip())}; expected a number")
    return numbers[0].text


def quoted(text: str, length: int = MAX_WORD_LENGTH) -> str:
    """The text in quotes, with escapes for unprintable characters, and shortened to `length` characters."""
    return repr(text if len(text) <= length else f"{text[:length]}...")
