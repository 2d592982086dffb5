"""Columns without a header: which of them are the numerical and the backprop gradient."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Float64
from gradguard.cli.columns import EXAMPLE
from gradguard.cli.output import Failure
from gradguard.diagnosis import units_of_texts
from gradguard.report import counted

DERIVED_TOLERANCE = 0.02  # relative: comparisons are printed with two digits or more
MAX_SLACK = 0.05  # of a relative error: digits that leave more open would let any column pass for one
DERIVED_SHARE = 0.9  # of the rows in which a column must be what its formula gives


Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where two gradients are in rows of numbers.

    Attributes:
        first: The place of the one that comes first.
        second: The place of the other.
        are_rows: Whether they are two rows, rather than two columns.
    """

    first: int
    second: int
    are_rows: bool = False

    def of(self, rows: Rows) -> tuple[list[str], list[str]]:
        """The two gradients."""
        lines = rows if self.are_rows else list(zip(*rows, strict=True))
        return list(lines[self.first]), list(lines[self.second])

    def __str__(self) -> str:
        kind = "row" if self.are_rows else "column"
        return f"{kind} {self.first + 1} was read as numerical and {kind} {self.second + 1} as backprop"


def places_without_header(tensors: Sequence[Rows]) -> Places:
    """Where the two gradients are in the rows of each tensor, which are of one width.

    They are two columns, perhaps behind those that count the rows, and before those that compare the two. Where there
    are no such columns, two rows are two gradients.

    Raises:
        Failure: It is not clear which numbers are the gradients.
    """
    columns = [list(column) for column in zip(*itertools.chain(*tensors), strict=True)]
    kept = [place for place in range(len(columns)) if len(columns) == 2 or not _counts(columns[place])]
    gradients, others = kept[:2], kept[2:]
    if len(gradients) == 2 and all(is_comparison(columns[k], *(columns[place] for place in gradients)) for k in others):
        return Places(gradients[0], gradients[1])
    if len(columns) > 1 and all(len(rows) == 2 for rows in tensors):
        return Places(0, 1, are_rows=True)
    raise Failure(f"holds rows of {counted(len(columns), 'number')} without a header; {EXAMPLE}")


def most_common_width(rows: Sequence[Sequence[object]]) -> int:
    """The number of columns that most rows have."""
    return Counter(map(len, rows)).most_common(1)[0][0]


def _counts(column: Sequence[str]) -> bool:
    """Whether a column numbers the rows, those of each tensor anew."""
    if not all(number.isdecimal() for number in column):
        return False
    pairs = itertools.pairwise(map(int, column))
    return all(second == first + 1 or second < min(first, 2) for first, second in pairs)


def is_comparison(column: Sequence[str], numeric: Sequence[str], analytic: Sequence[str]) -> bool:
    """Whether a column holds the error, the relative error or the ratio of two others, as far as their digits show."""
    n, g, found = (np.array(each, np.float64) for each in (numeric, analytic, column))
    unit = (units_of_texts(numeric) + units_of_texts(analytic)) / 2  # that the digits leave open of n - g
    with np.errstate(all="ignore"):
        sizes = (
            np.abs(n) + np.abs(g),
            (np.abs(n) + np.abs(g)) / 2,
            np.maximum(np.abs(n), np.abs(g)),
            np.abs(n),
            np.abs(g),
        )
        relative = [(np.abs(n - g) / size, unit / size) for size in sizes]
        relative += [(np.abs(n / g), unit / np.abs(g)), (np.abs(g / n), unit / np.abs(n))]
        relative = [(formula, np.minimum(slack, MAX_SLACK)) for formula, slack in relative]
        formulas = [(np.abs(n - g), unit), *relative]
        formulas += [(100 * formula, 100 * slack) for formula, slack in relative]
        return any(_agrees(np.abs(found), formula, slack) for formula, slack in formulas)


def _agrees(column: Float64, formula: Float64, slack: Float64) -> bool:
    is_defined = np.isfinite(column) & np.isfinite(formula)
    close = np.abs(column - formula) <= DERIVED_TOLERANCE * formula + slack
    return bool(is_defined.any()) and float(close[is_defined].mean()) >= DERIVED_SHARE
