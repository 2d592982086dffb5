"""What floating-point numbers can hold: unit roundoffs, spacings, and the lattices that rounded values lie on."""

from decimal import Decimal
from typing import Any

import numpy as np

from gradguard.arrays import reductions
from gradguard.arrays.types import Array, Float64

SLACK = 3.0  # units in the last place by which changes may lie beside their lattice: each loss was rounded twice since
BY_CHANCE = 1e-6  # how likely changes on no lattice may be to fit
MULTIPLE = 64  # the smallest value is at most so many quanta
WIDEST = 2.0**40  # ratio of the largest value to the smallest that whole numbers of float32 quanta can have
FITS_BY_CHANCE = 2e-3  # how likely values on no lattice may be to fit
FLOAT32_ROUNDING = 2.0**-23  # relative rounding of a value that passed through float32


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Half the distance from 1 to the next number: 2^-24 for float32."""
    return float(np.finfo(dtype).eps) / 2


def resolution(values: Float64, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The coarsest dtype that holds all the values: a float32 loss is often handed over as a Python float.

    Args:
        values: Losses, shape (any,).
        dtype: What they came as.
    """
    candidates = [np.dtype(kind) for kind in (np.float16, np.float32) if np.dtype(kind).itemsize < dtype.itemsize]
    with np.errstate(over="ignore"):
        fits = (kind for kind in candidates if np.array_equal(values.astype(kind).astype(np.float64), values))
        return next(fits, dtype if dtype.kind == "f" else np.dtype(np.float64))


def quanta(losses: Float64, dtype: np.dtype[Any]) -> Float64:
    """The lattice that each loss lies on, shape (m,): coarse where a small loss is the difference of large numbers.

    The quantum is the largest power of two that divides all changes of a loss, or their even spacing where it was
    scaled since it was rounded; where a loss does not change, it is the coarsest of the others'.

    Args:
        losses: Losses at k points, shape (k, m), the first of them unperturbed.
        dtype: The coarsest that holds them; no quantum is below its spacing.
    """
    with np.errstate(invalid="ignore"):
        changes = losses[1:] - losses[0]
        ulps = ulp(losses, dtype)
    slack = SLACK * np.maximum(ulps[0], np.where(np.isfinite(changes), ulps[1:], 0))
    changes[~np.isfinite(changes)] = 0
    mantissa, exponent = np.frexp(changes)
    digits = (mantissa * 2.0**53).astype(np.int64)
    dividing = np.where(changes != 0, np.ldexp((digits & -digits).astype(np.float64), exponent - 53), np.inf)
    found = np.maximum(dividing.min(axis=0), _even_spacing(changes, slack))
    coarsest = found[np.isfinite(found)].max(initial=0.0)
    lattice: Float64 = np.maximum(np.where(np.isfinite(found), found, coarsest), ulps[0])
    return lattice


def _even_spacing(changes: Float64, slack: Float64) -> Float64:
    """The least distance between changes of a loss, where all are multiples of it up to rounding; else 0. Shape (m,).

    Args:
        changes: Of m losses, shape (k, m).
        slack: How far rounding may have moved each, (k, m).
    """
    placed, moved = (np.concatenate([each, np.zeros_like(each[:1])]) for each in (changes, slack))
    order = np.argsort(placed, axis=0)
    gaps, moved = np.diff(np.take_along_axis(placed, order, 0), axis=0), np.take_along_axis(moved, order, 0)
    spacing = np.where(gaps > np.maximum(moved[1:], moved[:-1]), gaps, np.inf).min(axis=0)
    multiples = np.rint(changes / spacing)
    with np.errstate(invalid="ignore"):
        beside = np.abs(changes - multiples * spacing)
    allowed = slack * (1 + np.abs(multiples))  # the spacing is as uncertain, and counts that often
    by_chance = np.where(multiples == 0, 1.0, np.minimum(1, 2 * allowed / spacing)).prod(axis=0)
    made = np.minimum(1, 4 * slack.max(axis=0) / spacing)  # one of them made the spacing, and proves nothing
    even: Float64 = np.where((beside <= allowed).all(axis=0) & (by_chance < BY_CHANCE * made), spacing, 0.0)
    return even


def ulp(values: Float64, dtype: np.dtype[Any]) -> Float64:
    """The distance from each value, as that dtype holds it, to the next number."""
    spacing: Float64 = np.spacing(np.abs(values).astype(dtype)).astype(np.float64)
    return spacing


def quantum_of(numerical: Float64) -> float:
    """The largest number of which all the values are whole multiples, within rounding; 0 where there is none.

    Args:
        numerical: Numerical derivatives, shape (m,), perhaps printed with few digits.
    """
    sizes = np.unique(np.abs(numerical[np.isfinite(numerical) & (numerical != 0)]))
    if sizes.size < 2 or sizes[-1] > WIDEST * sizes[0]:
        return 0.0
    slack = np.maximum([_half_a_digit(float(size)) for size in sizes], FLOAT32_ROUNDING * sizes)
    fitting = (_fitted(sizes, slack, multiple) for multiple in range(1, MULTIPLE + 1))
    return next((quantum for quantum in fitting if quantum), 0.0)


def _half_a_digit(value: float) -> float:
    """Half a unit of the last decimal place that the number is printed with."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def _fitted(sizes: Float64, slack: Float64, multiple: int) -> float:
    """The quantum of which the least value is that multiple, if the others are multiples too; else 0.

    Each value narrows the interval that the quantum lies in, and had a chance to fit that is its width in quanta.
    """
    low, high = (sizes[0] - slack[0]) / multiple, (sizes[0] + slack[0]) / multiple
    chance = 1.0
    for size, half in zip(sizes[1:], slack[1:], strict=True):
        first, last = np.ceil((size - half) / high), np.floor((size + half) / low)
        if first > last:
            return 0.0
        if first == last:
            chance *= (size + half) / low - (size - half) / high
            low, high = max(low, (size - half) / first), min(high, (size + half) / first)
    return float((low + high) / 2) if chance < FITS_BY_CHANCE else 0.0


def spacing(array: Array) -> float:
    """The distance from the largest finite entry to the next number of its dtype."""
    return float(np.spacing(array.dtype.type(reductions.largest(array))))
