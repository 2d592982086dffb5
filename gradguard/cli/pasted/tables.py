"""Rows below a header, and what a header says of their columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradguard.cli.pasted.roles import GRADIENT, MODIFIERS, Role, pieces_of, role_of
from gradguard.cli.pasted.tokens import Kind, Token

ITEMS = (Kind.number, Kind.typo, Kind.word, Kind.index)
NUMBERS = (Kind.number, Kind.typo)
GRADIENTS = (Role.numeric, Role.analytic)
WORDS_BEFORE_A_NOUN = [[word] for word in (*MODIFIERS, "finite", "central", "error")]


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a table.

    Attributes:
        roles: What each column holds; None for what a diagnosis does not need.
        is_exact: Whether signs or wide spaces separate the columns; words that one space separates may be a sentence.
    """

    roles: tuple[Role | None, ...]
    is_exact: bool

    @property
    def order(self) -> tuple[Role, Role]:
        """The order of the numerical and the backprop column."""
        first, second = (role for role in self.roles if role in GRADIENTS)
        return first, second

    def positions(self) -> dict[Role, int]:
        """Where each column is."""
        return {role: place for place, role in enumerate(self.roles) if role is not None}


def header_of(cells: Sequence[Sequence[str]], is_exact: bool = True) -> Header | None:
    """The header that the words of the columns make; None unless one is numerical and one by backprop."""
    roles = [role_of(words) for words in cells]
    if [roles.count(role) for role in GRADIENTS] != [1, 1]:
        return None
    return Header(tuple(None if role is Role.other else role for role in roles), is_exact)


def header_of_two(cells: Sequence[Sequence[str]]) -> Header | None:
    """The header of two columns of which only one says what it is; the other is the other gradient."""
    roles = [role_of(words) for words in cells]
    if len(roles) != 2 or roles.count(None) != 1:
        return None
    known = 1 - roles.index(None)
    if roles[known] not in GRADIENTS or not all(role_of([word]) for word in cells[known]):
        return None
    roles[1 - known] = Role.analytic if roles[known] is Role.numeric else Role.numeric
    return Header(tuple(roles), is_exact=True)


def header_of_line(tokens: Sequence[Token]) -> Header | None:
    """The header in a line without numbers; None if it is none."""
    kinds = [token.kind for token in tokens]
    for cells in (_separated(tokens), _apart(tokens)):
        if len(cells) > 1 and (header := header_of(cells)):
            return header
        if Kind.binds not in kinds and (header := header_of_two(cells)):
            return header
    return header_of(_grouped([token.text for token in tokens if token.kind is Kind.word]), is_exact=False)


def _separated(tokens: Sequence[Token]) -> list[list[str]]:
    """The words between commas, bars and the like."""
    cells: list[list[str]] = [[]]
    for token in tokens:
        if token.kind in (Kind.separates, Kind.yields):
            cells.append([])
        elif token.kind is Kind.word:
            cells[-1].append(token.text)
    return [cell for cell in cells if cell]


def _apart(tokens: Sequence[Token]) -> list[list[str]]:
    """The words between wide spaces, or up to a colon."""
    cells: list[list[str]] = [[]]
    for token in tokens:
        if token.is_apart or token.kind is Kind.binds:
            cells.append([])
        if token.kind is Kind.word:
            cells[-1].append(token.text)
    return [cell for cell in cells if cell]


def _grouped(words: Sequence[str]) -> list[list[str]]:
    """The words, a column each, save that "numerical gradient" and "relative error" are one."""
    cells: list[list[str]] = []
    for word in words:
        if cells and _belongs_to(cells[-1], word):
            cells[-1].append(word)
        else:
            cells.append([word])
    return cells


def _belongs_to(cell: Sequence[str], word: str) -> bool:
    if word.casefold() in GRADIENT:
        return role_of(cell) in GRADIENTS
    return pieces_of(cell[-1])[-1:] in WORDS_BEFORE_A_NOUN and role_of([word]) in (Role.other, Role.error)


def items_of(tokens: Sequence[Token]) -> list[Token]:
    """The entries of a row, one for each of its columns; words side by side are one entry."""
    items: list[Token] = []
    for token in tokens:
        if token.kind not in ITEMS:
            continue
        if items and token.kind is Kind.index and items[-1].kind is Kind.word:
            continue
        items.append(token)
    return items


def rows_of(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The rows of numbers in a line: a matrix on one line has several, such as [1 2; 3 4] and [[1, 2], [3, 4]]."""
    row: list[Token] = []
    depth = 0
    for token in tokens:
        depth += (token.kind is Kind.opens) - (token.kind is Kind.closes)
        if token.kind is Kind.yields and len(row) > 1:
            break  # what follows was computed from the row
        if token.kind in NUMBERS:
            row.append(token)
        is_end_of_group = token.kind is Kind.closes and len(row) > 1
        if row and (is_end_of_group or (token.text == ";" and depth > 0)):
            yield row
            row = []
    if row:
        yield row
