"""The tokens of a line: words, numbers, indices, and the signs that bind or separate them."""

import enum
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gradguard.diagnosis import float_text


class Kind(enum.Enum):
    """What a token is."""

    word = enum.auto()
    number = enum.auto()
    typo = enum.auto()  # made of the characters of a number, and not a number: 6.2e-0.6
    index = enum.auto()  # a place in a tensor, such as [0, 3], or the 3 of "3: 0.25"
    binds = enum.auto()  # a label to its numbers: = and :
    yields = enum.auto()  # what follows was computed from what stands before: => and ->
    separates = enum.auto()
    opens = enum.auto()
    closes = enum.auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a line.

    Attributes:
        kind: What it is.
        text: Its text; of a number, as `float` reads it.
        is_apart: Whether two spaces or more stand before it, as between columns.
    """

    kind: Kind
    text: str
    is_apart: bool = False


_TOKEN = re.compile(
    r"""(?P<space>\s*)(?:
    (?P<rule>(?:[-=_*+]{3,}|\.\.+|\u2026)(?![\w.]))
    |(?P<yields>[-=]>|[\u2192\u21d2])
    |(?P<binds>:?=+|:)
    |(?P<special>[-+]?(?:nan|inf(?:inity)?)(?!\w))
    |(?P<numeral>[-+]?\.?\d[\w.]*(?:(?<=[eEdDfF])[-+][\w.]+|[-+](?=[\w.])[\w.]+)*)
    |(?P<separates>[,;|&]|(?:vs|versus)(?!\w)\.?)
    |(?P<word>[^\W\d][\w.'/-]*)
    |(?P<opens>[(\[{])
    |(?P<closes>[)\]}])
    |(?P<other>\S))""",
    re.VERBOSE | re.IGNORECASE,
)
_MINUS_SIGNS = str.maketrans("\u2212\ufe63\uff0d\u2013", "----")
_QUOTES = str.maketrans(dict.fromkeys("'\"`\u2018\u2019\u201c\u201d", " "))
_POWER_OF_TEN = re.compile(
    r"(?<=[\d.])\s*(?:[\u00d7*x\u00b7]\s*10\s*(?:\^|\*\*)|\*\^)\s*[({]?\s*([-+]?\d+)(?:\s*[)}])?"
)
# What a program says of an array beside its numbers: <AddBackward0>, Vector{Float64}, 6-element, dtype=float32.
_DESCRIPTION = re.compile(
    r"<[^<>]*>|\{[A-Za-z][^{}]*\}|\b\d+-element\b|\b\d+[\u00d7x]\d+(?= \w*Matrix)"
    r"|\b(?:dtype|device|requires_grad|grad_fn|weak_type) ?= ?[^\s,()]+"
)
_PROMPT = re.compile(r"^\s*(?:\w+(?::\d+)?>|>+|(?:In|Out) ?\[\d+\]:)(?=\s|$)")
_CALL = re.compile(r"\b[\w.]*(?:tensor|array|matrix|vector|list|float\d*|double)(?=\s*[(\[{])", re.IGNORECASE)
_JULIA_HEADING = re.compile(r"\b(?:Vector|Matrix|Array)\b(?=\s*:)")
_NUMBER_LIKE = re.compile(r"[-+.\deEdDfF]+")


def tokens_of(line: str) -> list[Token]:
    """The tokens of a line; brackets of an index are part of it, and descriptions of arrays are left out."""
    text = line.translate(_MINUS_SIGNS).translate(_QUOTES)
    for description in (_PROMPT, _DESCRIPTION, _CALL, _JULIA_HEADING):
        text = description.sub(" ", text)
    text = _POWER_OF_TEN.sub(r"e\1", text)
    return _with_indices(list(_raw_tokens(text)))


def _raw_tokens(text: str) -> Iterator[Token]:
    for found in _TOKEN.finditer(text):
        space, name = found["space"], found.lastgroup or "other"
        if "\t" in space:
            yield Token(Kind.separates, "\t")
        if name in ("special", "numeral"):
            yield replace(_numeral(found[name]), is_apart=len(space) > 1)
        elif name not in ("rule", "other", "space"):
            yield Token(Kind[name], found[name].rstrip(".'/-") if name == "word" else found[name], len(space) > 1)


def _numeral(text: str) -> Token:
    try:
        return Token(Kind.number, float_text(text))
    except ValueError:
        return Token(Kind.typo if _NUMBER_LIKE.fullmatch(text) else Kind.word, text)


def _with_indices(tokens: Sequence[Token]) -> list[Token]:
    """The tokens, in which a group of whole numbers that names a place is one token."""
    read: list[Token] = []
    position = 0
    while position < len(tokens):
        end = _end_of_index(tokens, position)
        text = " ".join(token.text for token in tokens[position:end])
        read.append(replace(tokens[position], kind=Kind.index, text=text) if end else tokens[position])
        position = end or position + 1
    return read


def _end_of_index(tokens: Sequence[Token], start: int) -> int:
    """Where an index that starts there ends; 0 if none does."""
    if _is_whole(tokens[start]) and _kind_at(tokens, start + 1) is Kind.binds:
        return start + 1
    if tokens[start].kind is not Kind.opens:
        return 0
    end = start + 1
    while end < len(tokens) and (_is_whole(tokens[end]) or tokens[end].kind is Kind.separates):
        end += 1
    if _kind_at(tokens, end) is not Kind.closes:
        return 0
    before, after = _kind_at(tokens, start - 1), _kind_at(tokens, end + 1)
    is_before_row = after is Kind.number and before in (None, Kind.word, Kind.closes)
    is_before_index = after is Kind.opens and before is Kind.word and _end_of_index(tokens, end + 1) > 0  # W[0][1]
    is_slice = Kind.separates in (tokens[start + 1].kind, tokens[end - 1].kind)  # R's [1,] and [,2]
    return end + 1 if after is Kind.binds or is_before_row or is_before_index or is_slice else 0


def _kind_at(tokens: Sequence[Token], position: int) -> Kind | None:
    return tokens[position].kind if 0 <= position < len(tokens) else None


def _is_whole(token: Token) -> bool:
    return token.kind is Kind.number and token.text.isdecimal()
