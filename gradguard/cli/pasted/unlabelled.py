"""Columns without a header: which of them are the numerical and the backprop gradient."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gradguard.arrays import Float64
from gradguard.cli.columns import EXAMPLE
from gradguard.cli.output import Failure
from gradguard.diagnosis import units_of_texts
from gradguard.report import counted

MIN_WIDTH_OF_ARRAYS = 4  # two lines with as many numbers or more are two arrays, not two rows
DERIVED_TOLERANCE = 0.02  # relative: comparisons are printed with two digits or more
DERIVED_SHARE = 0.9  # of the rows in which a column must be what its formula gives


def columns_without_header(rows: Sequence[Sequence[str]]) -> tuple[list[str], list[str], str]:
    """The first and the second gradient in rows of one width, and in words where each was found.

    Columns that count the rows, or that compare the two gradients, are left out.

    Raises:
        Failure: There are not exactly two columns left.
    """
    width = len(rows[0])
    if len(rows) == 2 and width >= MIN_WIDTH_OF_ARRAYS:
        return list(rows[0]), list(rows[1]), "the first array {0} and the second {1}"
    columns = [list(column) for column in zip(*rows, strict=True)]
    kept = [place for place in range(width) if width == 2 or not _counts(columns[place])]
    for first, second in itertools.combinations(kept, 2):
        others = [place for place in kept if place not in (first, second)]
        if all(is_comparison(columns[place], columns[first], columns[second]) for place in others):
            return columns[first], columns[second], f"column {first + 1} {{0}} and column {second + 1} {{1}}"
    raise Failure(f"holds rows of {counted(width, 'number')} without a header; {EXAMPLE}")


def most_common_width(rows: Sequence[Sequence[object]]) -> int:
    """The number of columns that most rows have."""
    return Counter(map(len, rows)).most_common(1)[0][0]


def _counts(column: Sequence[str]) -> bool:
    """Whether a column numbers the rows."""
    return len(column) > 1 and bool((np.diff(np.array(column, np.float64)) == 1).all())


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
        formulas = [(np.abs(n - g) / size, unit / size) for size in (1.0, *sizes)]
        formulas += [(np.abs(n / g), unit / np.abs(g)), (np.abs(g / n), unit / np.abs(n))]
        formulas += [(100 * formula, 100 * slack) for formula, slack in formulas[1:]]
        return any(_agrees(np.abs(found), formula, slack) for formula, slack in formulas)


def _agrees(column: Float64, formula: Float64, slack: Float64) -> bool:
    is_defined = np.isfinite(column) & np.isfinite(formula)
    close = np.abs(column - formula) <= DERIVED_TOLERANCE * formula + slack
    return bool(is_defined.any()) and float(close[is_defined].mean()) >= DERIVED_SHARE
