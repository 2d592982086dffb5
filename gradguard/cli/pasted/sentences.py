"""The statements of a line: labels, each with the numbers that follow it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradguard.cli.pasted.roles import Role, name_in, role_of
from gradguard.cli.pasted.tokens import Kind, Token

NUMBERS = (Kind.number, Kind.typo)


@dataclass(frozen=True, slots=True)
class Statement:
    """A label and its numbers.

    Attributes:
        words: The label; empty where numbers come first in a line.
        role: What the label says of the numbers.
        name: The tensor that the line or the label names; "" if none.
        numbers: The numbers, and tokens that should have been some.
    """

    words: tuple[str, ...]
    role: Role | None
    name: str
    numbers: tuple[Token, ...]


def statements_of(tokens: Sequence[Token]) -> Iterator[Statement]:
    """The statements of a line, in order.

    A label without numbers before another label, as in "W1: numerical 0.2", tells of what follows it: its name holds
    for the line, and its role for the next label if that has none.
    """
    name, heading = "", None
    for words, numbers in _labels(tokens):
        role, own_name = role_of(words) or heading, name_in(words)
        if numbers:
            yield Statement(tuple(words), role, own_name or name, tuple(numbers))
        heading = None if numbers else role
        if role not in (Role.numeric, Role.analytic) or not numbers:
            name = own_name or name
    if heading is not None:
        yield Statement((), heading, name, ())


def _labels(tokens: Sequence[Token]) -> Iterator[tuple[list[str], list[Token]]]:
    """Each label of a line, with the numbers between it and the next."""
    words: list[str] = []
    numbers: list[Token] = []
    is_bound = False
    for token in tokens:
        starts_label = token.kind in (Kind.word, Kind.yields) and (numbers or is_bound)
        if starts_label:
            yield words, numbers
            words, numbers, is_bound = [], [], False
        if token.kind is Kind.word:
            words.append(token.text)
        elif token.kind is Kind.yields:
            words.append("difference")
        elif token.kind is Kind.binds:
            is_bound = True
        elif token.kind in NUMBERS:
            numbers.append(token)
    if words or numbers:
        yield words, numbers


def heading_in(tokens: Sequence[Token]) -> str:
    """The tensor that a line without values names, such as "W1:" and "Layer 1:"; "" if it names none."""
    return name_in([t.text for t in tokens if t.kind is Kind.word or (t.kind is Kind.index and t.text.isdecimal())])
