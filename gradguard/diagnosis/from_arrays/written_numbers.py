"""Numbers written as text: in which forms programs print them, and the unit of the last decimal that was printed."""

import re
from collections.abc import Sequence

import numpy as np

from gradguard.arrays import Float64

MAX_PRINTED_DIGITS = 6  # significant digits: float32 has 7, so a column with no more was typed or printed shorter
SAMPLE = 64  # values of a long array that must look printed before all of them are written out

# 1.5, .5, 5., 1.5e-3, Fortran's 1.5D-3, Julia's 1.5f-3, C's 1.5f
_FLOAT = re.compile(
    r"(?P<digits>[-+]?(?:\d+(?:\.(?P<decimals>\d*))?|\.(?P<only>\d+)))(?:[eEdDfF](?P<exponent>[-+]?\d+)|[fF])?"
)
_SPECIAL = re.compile(r"(?P<sign>[-+]?)(?P<name>nan|inf)(?:inity)?", re.IGNORECASE)
_MINUS_SIGNS = str.maketrans("\u2212\u2013\ufe63\uff0d", "----")


def float_text(text: str) -> str:
    """The number as `float` reads it, with the decimals that it was written with.

    Raises:
        ValueError: The text is no number.
    """
    stripped = text.strip().translate(_MINUS_SIGNS)
    if special := _SPECIAL.fullmatch(stripped):
        return f"{special['sign']}{special['name'].lower()}"
    found = _FLOAT.fullmatch(stripped)
    if found is None or not stripped.isascii():
        raise ValueError(f"{text!r} is no number")
    return f"{found['digits']}e{found['exponent']}" if found["exponent"] else found["digits"]


def units_of_texts(texts: Sequence[str]) -> Float64:
    """The unit of the last decimal of each number of a column, (m,); 0 where all are whole numbers, which are exact.

    Trailing zeros may have been dropped, so numbers without an exponent have the finest unit among them.

    Args:
        texts: The numbers, as `float_text` returns them.
    """
    found = [_FLOAT.fullmatch(text) for text in texts]
    decimals = np.array([_decimals(match) for match in found], np.int64)
    exponents = np.array([_exponent(match) for match in found], np.int64)
    is_fixed = np.array([match is not None and not match["exponent"] for match in found], np.bool_)
    decimals[is_fixed] = decimals[is_fixed].max(initial=0)
    units: Float64 = np.where(is_fixed & (decimals == 0), 0.0, 10.0 ** (exponents - decimals))
    return units


def units_of_floats(values: Float64, dtype: np.dtype[np.generic]) -> Float64:
    """The unit of the last decimal of values that were typed or printed, (m,); 0 where they have their full precision.

    Args:
        values: Shape (m,).
        dtype: The dtype they arrived in: 0.1 is a short number in float32, too.
    """
    exact = np.zeros(values.size)
    if dtype.kind != "f" or not _are_short(values[:SAMPLE].astype(dtype)) or not _are_short(values.astype(dtype)):
        return exact
    found = [_FLOAT.fullmatch(text.removesuffix(".0")) for text in values.astype(dtype).astype(str)]
    places = max((_decimals(match) - _exponent(match) for match in found), default=0)
    return exact + 10.0**-places if places > 0 else exact


def _are_short(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bool:
    """Whether all values are finite and have few significant digits."""
    digits = (text.partition("e")[0].replace(".", "").strip("-0") for text in values.astype(str))
    return all(each.isdigit() and len(each) <= MAX_PRINTED_DIGITS for each in digits if each)


def _decimals(match: re.Match[str] | None) -> int:
    return len(match["decimals"] or match["only"] or "") if match else 0


def _exponent(match: re.Match[str] | None) -> int:
    return int(match["exponent"] or 0) if match else 0
