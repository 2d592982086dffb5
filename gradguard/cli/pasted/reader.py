"""From a text to the numbers of its tensors.

A line without numbers is a header, a label of the numbers below it, or the name of a tensor. A line with numbers is a
row of the table under a header, one or more labels with their numbers, or a row without a label.
"""

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from decimal import Decimal

from gradguard.cli.columns import EXAMPLE, Columns, Pasted, skipped
from gradguard.cli.output import Failure
from gradguard.cli.pasted.delimited import Table, delimiter_of
from gradguard.cli.pasted.roles import GRADIENT, Role, name_in
from gradguard.cli.pasted.sentences import Statement, heading_in, statements_of
from gradguard.cli.pasted.tables import GRADIENTS, NUMBERS, Header, header_of_line, items_of, rows_of
from gradguard.cli.pasted.tokens import Kind, Token, tokens_of
from gradguard.cli.pasted.unlabelled import is_comparison, most_common_width, places_without_header
from gradguard.report import counted

SWAP = "to swap them, put the line `analytic,numeric` first"
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])([-+]?\d+),(\d+(?:[eE][-+]?\d+)?)(?![\d.,])")
_COMMA_BETWEEN_NUMBERS = re.compile(r"(?<=\d)\s*,\s*(?=[-+\d])")
_FACTOR_OF_ALL = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*\*\s*")  # MATLAB's "1.0e-03 *" above a matrix
_PART_OF_MATRIX = re.compile(r"\s*columns? \d+ (?:through|to|and) \d+:?\s*", re.IGNORECASE)  # MATLAB's, too

Key = tuple[str, str]  # the heading above the numbers, and the name beside them


def parse(text: str, tensor: str) -> Pasted:
    """The numbers in a text.

    Args:
        text: What was pasted.
        tensor: The name of the tensor if the text has none.

    Raises:
        Failure: The text holds no pairs of numbers that can be told apart.
    """
    text = _with_decimal_points(text)
    if not text.strip():
        raise Failure(f"is empty; {EXAMPLE}")
    delimiter = delimiter_of(text)
    if not delimiter:
        return _from_lines(text, tensor)
    table = Table(tensor)
    table.read(text, delimiter)
    if not table.tensors:  # a header with commas may stand above rows without
        with contextlib.suppress(Failure):
            return _from_lines(text, tensor)
    return _checked(table.tensors, [], table.problems)


def _with_decimal_points(text: str) -> str:
    """The text, in which numbers with decimal commas have points; commas that separate numbers stay."""
    found = _DECIMAL_COMMA.findall(text)
    has_other_marks = re.search(r"\d\.\d", text) or len(found) < len(_COMMA_BETWEEN_NUMBERS.findall(text))
    if has_other_marks or all(len(_DECIMAL_COMMA.findall(line)) < 2 for line in text.splitlines()):
        return text
    return _DECIMAL_COMMA.sub(r"\1.\2", text)


def _from_lines(text: str, tensor: str) -> Pasted:
    lines = Lines()
    for number, line in enumerate(text.splitlines(), start=1):
        lines.read(number, line)
    tensors, notes = lines.tensors()
    named = {" ".join(filter(None, key)) or tensor: columns for key, columns in tensors.items()}
    return _checked(named, notes, lines.problems)


def _checked(tensors: dict[str, Columns], notes: Sequence[str], problems: Sequence[str]) -> Pasted:
    """What was read, unless it is nothing, or the lesser part."""
    read = sum(len(columns.numeric) for columns in tensors.values())
    if read < max(1, len(problems)):
        reason = f"{problems[0]} ({read} of {read + len(problems)} rows can be read)" if problems else "holds no pairs"
        raise Failure(f"{reason}; {EXAMPLE}")
    return Pasted(tensors, [*notes, *_without_comparisons(tensors), *skipped(problems)])


def _without_comparisons(tensors: dict[str, Columns]) -> list[str]:
    """Drop error bars that are incomplete, or nothing but the difference of the two gradients; notes of these."""
    notes = []
    for name, columns in tensors.items():
        if len(columns.error) != len(columns.numeric):
            columns.error = []
        elif is_comparison(columns.error, columns.numeric, columns.analytic):
            columns.error = []
            notes.append(f"{name}: the column `error` compares the two gradients, so it was not read as an error bar")
    return notes


class Lines:
    """What the lines of a text hold, read one after the other.

    Attributes:
        problems: Why lines were left out, each a clause that starts with the line.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._runs: dict[Key, dict[Role, list[tuple[int, Token]]]] = {}
        self._tables: dict[Key, Columns] = {}
        self._rows: dict[Key, list[tuple[int, list[Token]]]] = {}
        self._order: tuple[Role, Role] | None = None
        self._header: Header | None = None
        self._role: Role | None = None
        self._is_block = False
        self._key: Key = ("", "")
        self._factor = ""

    def read(self, line: int, text: str) -> None:
        """Read a line."""
        factor = _FACTOR_OF_ALL.fullmatch(text)
        if factor is not None:
            self._factor = factor[1]
        elif not _PART_OF_MATRIX.fullmatch(text):
            tokens = tokens_of(text)
            if any(token.kind in NUMBERS for token in tokens):
                self._read_numbers(line, tokens)
            elif any(token.kind is Kind.word for token in tokens):
                self._read_words(tokens)

    def _read_words(self, tokens: Sequence[Token]) -> None:
        """A header, a label, or a heading."""
        self._factor = ""
        if header := header_of_line(tokens):
            self._header, self._order, self._role = header, header.order, None
            return
        labels = [statement for statement in statements_of(tokens) if statement.role in (*GRADIENTS, Role.other)]
        if labels:
            self._header, self._role, self._key = None, labels[-1].role, (self._key[0], labels[-1].name)
            self._is_block = True
        elif heading := heading_in(tokens):
            self._role, self._key = None, (heading, "")

    def _read_numbers(self, line: int, tokens: Sequence[Token]) -> None:
        statements = _completed(list(statements_of(tokens)))
        roles = {statement.role for statement in statements if statement.role in GRADIENTS}
        if self._header is not None and len(roles) < 2:
            self._read_row(line, tokens, self._header)
        elif roles or (self._role is not None and not statements[0].words):
            self._read_statements(line, statements, is_open=_is_open(tokens))
        elif self._is_block and self._role in GRADIENTS and len(statements) == 1 and statements[0].name:
            self._key = (self._key[0], statements[0].name)  # a tensor in a block of one of the gradients
            self._add_to_run(line, self._role, statements[0])
        else:
            self._read_unlabelled(line, tokens)

    def _read_statements(self, line: int, statements: Sequence[Statement], *, is_open: bool) -> None:
        """Labels with numbers; numbers without a label continue the line before."""
        for statement in statements:
            if statement.words or statement.role:
                self._role, self._key = statement.role, (self._key[0], statement.name)
                self._is_block = False
            if self._role in GRADIENTS:
                self._add_to_run(line, self._role, statement)
        if not is_open and len({statement.role for statement in statements} & set(GRADIENTS)) == 2:
            self._role = None

    def _add_to_run(self, line: int, role: Role, statement: Statement) -> None:
        run = self._runs.setdefault(self._key, {}).setdefault(role, [])
        run += [(line, self._scaled(token)) for token in statement.numbers]

    def _read_row(self, line: int, tokens: Sequence[Token], header: Header) -> None:
        items, width = items_of(tokens), len(header.roles)
        extra = len(items) - width
        if extra < 0 or any(item.kind in NUMBERS for item in items[:extra]):
            self._read_unlabelled(line, tokens)
            return
        positions = header.positions()
        numbers = [items[extra + positions[role]] for role in (*GRADIENTS, Role.error) if role in positions]
        if any(number.kind is Kind.word for number in numbers) and (extra or not header.is_exact):
            return  # a sentence below the table
        named = [items[extra + positions[Role.tensor]]] if Role.tensor in positions else items[:extra]
        name = name_in([item.text for item in named if item.kind is Kind.word])
        if self._are_numbers(line, numbers):
            self._add((self._key[0], name), [self._scaled(number).text for number in numbers])

    def _add(self, key: Key, numbers: Sequence[str]) -> None:
        """Add n, g and, if there is one, an error bar."""
        columns = self._tables.setdefault(key, Columns())
        columns.numeric.append(numbers[0])
        columns.analytic.append(numbers[1])
        columns.error += numbers[2:]

    def _read_unlabelled(self, line: int, tokens: Sequence[Token]) -> None:
        """Rows without a label, unless words show that the line is none, or that it names a tensor."""
        kinds = [token.kind for token in tokens]
        items = items_of(tokens)
        first = next((place for place, item in enumerate(items) if item.kind in NUMBERS), 0)
        words = [item.text for item in items[:first] if item.kind is Kind.word]
        name = name_in(words)
        if any(item.kind is Kind.word for item in items[first:]) or " " in name or (words and not name):
            return
        if words and len(items) == first + 1:
            is_heading = items[-1].text.isdecimal() and Kind.binds not in kinds  # as is "Layer 1"
            self._key = (f"{words[-1]} {items[-1].text}", "") if is_heading else self._key
            return
        found = [(line, [self._scaled(token) for token in numbers]) for numbers in rows_of(tokens)]
        self._rows.setdefault((self._key[0], name), []).extend(found)

    def _scaled(self, token: Token) -> Token:
        if not self._factor or token.kind is not Kind.number or not token.text[-1].isdigit():
            return token
        return Token(Kind.number, f"{Decimal(token.text) * Decimal(self._factor):e}")

    def _are_numbers(self, line: int, tokens: Sequence[Token]) -> bool:
        wrong = [token.text for token in tokens if token.kind is not Kind.number]
        self.problems += [f"line {line}: {wrong[0]!r:.40} is not a number"] if wrong else []
        return not wrong

    def tensors(self) -> tuple[dict[Key, Columns], list[str]]:
        """The numbers by tensor, and notes on what was assumed.

        Raises:
            Failure: It is not clear which numbers belong together.
        """
        self._pair_runs()
        if not self._tables:
            return self._without_labels()
        for rows in self._rows.values():
            self.problems += [f"line {line}: {counted(len(row), 'number')} without a label" for line, row in rows]
        return _with_entries_together(self._tables), []

    def _pair_runs(self) -> None:
        """Bring the numerical numbers of each tensor together with those by backprop."""
        self._complete_runs()
        for (heading, name), run in _with_both(self._runs).items():
            numeric, analytic = (run.get(role, []) for role in GRADIENTS)
            if len(numeric) != len(analytic):
                of_what = f" of {name or heading}" if name or heading else ""
                counts = f"{len(numeric)} numerical and {len(analytic)} backprop values{of_what}"
                raise Failure(f"holds {counts}; expected as many of both; {EXAMPLE}")
            for (line, n), (_, g) in zip(numeric, analytic, strict=True):
                if self._are_numbers(line, [n, g]):
                    self._add((heading, name), [n.text, g.text])

    def _complete_runs(self) -> None:
        """Beside dW1_num, what is called dW1 without a word of its role is the other gradient."""
        unlabelled = {name or heading: (heading, name) for heading, name in self._rows}
        for key in [key for key, run in self._runs.items() if len(run) == 1]:
            name = key[1] or key[0]
            if name in unlabelled:
                run = self._runs.pop(key)
                other = Role.analytic if Role.numeric in run else Role.numeric
                run[other] = [(line, token) for line, row in self._rows.pop(unlabelled.pop(name)) for token in row]
                self._runs["", name] = run

    def _without_labels(self) -> tuple[dict[Key, Columns], list[str]]:
        every = [row for rows in self._rows.values() for _, row in rows]
        if not every:
            return {}, []
        width = most_common_width(every)
        kept: dict[Key, list[list[str]]] = {}
        for key, rows in self._rows.items():
            for line, row in rows:
                if len(row) != width:
                    self.problems.append(f"line {line}: expected {width} numbers, as in most lines, got {len(row)}")
                elif self._are_numbers(line, row):
                    kept.setdefault(key, []).append([token.text for token in row])
        return self._by_position(kept)

    def _by_position(self, rows: dict[Key, list[list[str]]]) -> tuple[dict[Key, Columns], list[str]]:
        if not rows:
            return {}, []
        places = places_without_header(list(rows.values()))
        found = {key: places.of(numbers) for key, numbers in rows.items()}
        notes = [] if self._order else [f"the text does not say which is which: {places}; {SWAP}"]
        is_swapped = self._order == (Role.analytic, Role.numeric)
        tensors = {key: Columns(*(reversed(pair) if is_swapped else pair)) for key, pair in found.items()}
        return _with_entries_together(tensors), notes


def _completed(statements: list[Statement]) -> list[Statement]:
    """The statements; beside one numerical gradient, "W1 grad: 0.1" is the other."""
    roles = [statement.role for statement in statements]
    unclear = [
        k for k, each in enumerate(statements) if not each.role and GRADIENT & set(map(str.casefold, each.words))
    ]
    if roles.count(Role.numeric) == 1 and Role.analytic not in roles and len(unclear) == 1:
        statements[unclear[0]] = dataclasses.replace(statements[unclear[0]], role=Role.analytic)
    return statements


def _is_open(tokens: Sequence[Token]) -> bool:
    """Whether a bracket of the line is closed in a later line."""
    kinds = [token.kind for token in tokens]
    return kinds.count(Kind.opens) > kinds.count(Kind.closes)


def _with_both(runs: dict[Key, dict[Role, list[tuple[int, Token]]]]) -> dict[Key, dict[Role, list[tuple[int, Token]]]]:
    """The runs by tensor; those whose labels name the two gradients differently belong to their heading."""
    both: dict[Key, dict[Role, list[tuple[int, Token]]]] = {}
    for (heading, name), run in runs.items():
        merged = both.setdefault((heading, name if len(run) == len(GRADIENTS) else ""), {})
        for role, numbers in run.items():
            merged.setdefault(role, []).extend(numbers)
    return both


def _with_entries_together(tensors: dict[Key, Columns]) -> dict[Key, Columns]:
    """The tensors; what was named row by row, as W[0, 1] is, are entries of one."""
    if len(tensors) == 1 or any(len(columns.numeric) > 1 for columns in tensors.values()):
        return tensors
    together: dict[Key, Columns] = {}
    for (heading, _), columns in tensors.items():
        merged = together.setdefault((heading, ""), Columns())
        merged.numeric += columns.numeric
        merged.analytic += columns.analytic
        merged.error += columns.error
    return together
