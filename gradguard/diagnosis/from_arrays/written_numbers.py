"""Numbers written as text: in which forms programs print them, and the unit of the last decimal that was printed."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
        raise ValueError(f"{text!r} is not a number")
    return f"{found['digits']}e{found['exponent']}" if found["exponent"] else found["digits"]


def units_of_texts(texts: Sequence[str]) -> Float64:
    """The unit of the last decimal of each number of a column, (m,); 0 where all are whole numbers, which are exact.

    A column has either as many decimals throughout, trailing zeros perhaps dropped, or as many significant digits.

    Args:
        texts: The numbers, as `float_text` returns them.
    """
    found = [_FLOAT.fullmatch(text) for text in texts]
    places = np.array([_places(match) for match in found], np.int64)
    is_fixed = np.array([match is not None and not match["exponent"] for match in found], np.bool_)
    places[is_fixed] = places[is_fixed].max(initial=0)
    units = _units(np.array(texts, np.float64), places, max(map(_significant_digits, found), default=0))
    exact: Float64 = np.where(is_fixed & (places == 0), 0.0, units)
    return exact


def units_of_floats(values: Float64, dtype: np.dtype[np.generic]) -> Float64:
    """The unit of the last decimal of values that were typed or printed, (m,); 0 where they have their full precision.

    Args:
        values: Shape (m,).
        dtype: The dtype they arrived in: 0.1 is a short number in float32, too.
    """
    if dtype.kind != "f" or not _are_short(values[:SAMPLE], dtype) or not _are_short(values, dtype):
        return np.zeros(values.size)
    found = _shortest(values, dtype)
    places = max(map(_places, found), default=0)
    if places <= 0:
        return np.zeros(values.size)
    return _units(values, np.full(values.size, places), max(map(_significant_digits, found)))


def _units(values: Float64, places: NDArray[np.int64], digits: int) -> Float64:
    """The units of numbers with so many decimal places each, and so many significant digits at most; (m,)."""
    sizes = np.where(np.isfinite(values) & (values != 0), np.abs(values), np.nan)
    units: Float64 = np.fmax(10.0**-places, 10.0 ** (np.floor(np.log10(sizes)) + 1 - digits))
    return units


def _shortest(values: Float64, dtype: np.dtype[np.generic]) -> list[re.Match[str] | None]:
    """Each value with the fewest digits that its dtype needs."""
    return [_FLOAT.fullmatch(text.removesuffix(".0")) for text in values.astype(dtype).astype(str)]


def _are_short(values: Float64, dtype: np.dtype[np.generic]) -> bool:
    """Whether all values are finite and have few significant digits."""
    return all(found and _significant_digits(found) <= MAX_PRINTED_DIGITS for found in _shortest(values, dtype))


def _significant_digits(found: re.Match[str] | None) -> int:
    return len(found["digits"].replace(".", "").lstrip("+-0")) if found else 0


def _places(found: re.Match[str] | None) -> int:
    """How many decimal places a number has; below zero where it ends in zeros that are not written."""
    return len(found["decimals"] or found["only"] or "") - int(found["exponent"] or 0) if found else 0
