"""What floating-point numbers can hold: unit roundoffs, spacings, and the lattices that rounded values lie on.

Values that are rounded and then subtracted or scaled are whole multiples of one quantum. Two functions find it, since
they have different data. `quanta_of_losses` sees many changes of many losses, which were rounded in binary, and must
not take chance for a quantum. `quantum_of_column` sees a few derivatives, rounded in decimal, of which the smallest may
be many quanta.
"""

from decimal import Decimal
from typing import Any

import numpy as np

from gradguard.arrays import reductions
from gradguard.arrays.types import Array, Float64

LATTICE_SLACK = 3.0  # ulps by which a change of a loss may miss its lattice: both losses were rounded again since
LOSS_CHANCE = 1e-6  # largest chance at which changes of a loss that lie on no lattice may seem to
MAX_MULTIPLE = 64  # quanta that the smallest value of a column may be
MIN_EQUAL_SIZES = 2  # values of one size beside zeros, from which that size is the quantum
MAX_SIZE_RATIO = 2.0**40  # of a column's largest value to its smallest: whole float32 quanta reach no further
COLUMN_CHANCE = 2e-3  # largest chance at which values of a column that lie on no lattice may seem to
FLOAT32_ROUNDING = 2.0**-23  # relative rounding of a value that passed through float32


def unit_roundoff(dtype: np.dtype[Any]) -> float:
    """Half the distance from 1 to the next number: 2^-24 for float32."""
    return float(np.finfo(dtype).eps) / 2


def coarsest_dtype(values: Float64, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The coarsest dtype that holds all values exactly: many losses are float32 and arrive as a Python float.

    Args:
        values: Losses, shape (any,).
        dtype: The dtype that they arrived in; the result is no finer.
    """
    candidates = [np.dtype(kind) for kind in (np.float16, np.float32) if np.dtype(kind).itemsize < dtype.itemsize]
    with np.errstate(over="ignore"):
        fits = (kind for kind in candidates if np.array_equal(values.astype(kind).astype(np.float64), values))
        return next(fits, dtype if dtype.kind == "f" else np.dtype(np.float64))


def ulp(values: Float64, dtype: np.dtype[Any]) -> Float64:
    """The distance from each value, as that dtype holds it, to the next number."""
    spacing: Float64 = np.spacing(np.abs(values).astype(dtype)).astype(np.float64)
    return spacing


def spacing(array: Array) -> float:
    """The distance from the largest finite entry to the next number of its dtype."""
    return float(np.spacing(array.dtype.type(reductions.largest_magnitude(array))))


def quanta_of_losses(losses: Float64, dtype: np.dtype[Any]) -> Float64:
    """The quantum of each loss: all changes of the loss are whole multiples of it.

    It exceeds the ulp of the loss where that is a small difference of large numbers. It is the largest power of two
    that divides all changes, or the smallest distance between them where the loss was scaled after it was rounded. A
    loss that does not change gets the coarsest quantum of the other losses.

    Args:
        losses: M losses at k points, shape (k, m), the first point unperturbed.
        dtype: The coarsest dtype that holds them; no quantum is below its spacing.

    Returns:
        The quanta, shape (m,).
    """
    with np.errstate(invalid="ignore"):
        changes = losses[1:] - losses[0]
        ulps = ulp(losses, dtype)
    slack = LATTICE_SLACK * np.maximum(ulps[0], np.where(np.isfinite(changes), ulps[1:], 0))
    changes[~np.isfinite(changes)] = 0
    quanta = np.maximum(_common_power_of_two(changes), _common_spacing(changes, slack))
    coarsest = quanta[np.isfinite(quanta)].max(initial=0.0)
    lattice: Float64 = np.maximum(np.where(np.isfinite(quanta), quanta, coarsest), ulps[0])
    return lattice


def _common_power_of_two(changes: Float64) -> Float64:
    """The largest power of two that divides all changes of a loss; inf if it does not change. (k, m) to (m,)."""
    mantissa, exponent = np.frexp(changes)
    digits = (mantissa * 2.0**53).astype(np.int64)
    powers = np.where(changes != 0, np.ldexp((digits & -digits).astype(np.float64), exponent - 53), np.inf)
    smallest: Float64 = powers.min(axis=0)
    return smallest


def _common_spacing(changes: Float64, slack: Float64) -> Float64:
    """The smallest distance between changes of a loss if all are multiples of it, up to rounding; else 0.

    Args:
        changes: Changes of m losses, shape (k, m).
        slack: How far rounding may have moved each change, shape (k, m).

    Returns:
        The spacings, shape (m,).
    """
    values, moved = (np.concatenate([each, np.zeros_like(each[:1])]) for each in (changes, slack))
    order = np.argsort(values, axis=0)
    gaps, moved = np.diff(np.take_along_axis(values, order, 0), axis=0), np.take_along_axis(moved, order, 0)
    spacing = np.where(gaps > np.maximum(moved[1:], moved[:-1]), gaps, np.inf).min(axis=0)
    multiples = np.rint(changes / spacing)
    with np.errstate(invalid="ignore"):
        remainder = np.abs(changes - multiples * spacing)
    allowed = slack * (1 + np.abs(multiples))  # the spacing is as uncertain as a change, times the multiple
    chance = np.where(multiples == 0, 1.0, np.minimum(1, 2 * allowed / spacing)).prod(axis=0)
    of_first = np.minimum(1, 4 * slack.max(axis=0) / spacing)  # the factor in it of the change that made the spacing
    fits = (remainder <= allowed).all(axis=0) & (chance < LOSS_CHANCE * of_first)
    common: Float64 = np.where(fits, spacing, 0.0)
    return common


def quantum_of_column(values: Float64, unit: Float64) -> float:
    """The largest number of which all values of a column are whole multiples, within rounding; 0 if there is none.

    Equal values count once, since gradients may repeat. Among zeros and values of both signs they count one by one: a
    loss that moves by a few quanta makes few values, again and again. Of one size beside zeros, that size is the
    quantum, unless it is a whole number, which is rather a count.

    Args:
        values: Numerical derivatives, shape (m,), perhaps printed with few digits.
        unit: The unit of their last printed decimal, shape (m,); 0 where it is not known.
    """
    chosen = np.isfinite(values) & (values != 0)
    sizes, first = np.unique(np.abs(values[chosen]), return_index=True)
    if sizes.size == 1 and MIN_EQUAL_SIZES <= chosen.sum() < values.size and sizes[0] != np.rint(sizes[0]):
        return float(sizes[0])
    if sizes.size < 2 or sizes[-1] > MAX_SIZE_RATIO * sizes[0]:
        return 0.0
    if (values == 0).any() and values.min() < 0 < values.max():
        sizes, first = np.sort(np.abs(values[chosen])), np.argsort(np.abs(values[chosen]))
    units = unit[chosen][first]
    half = np.where(units > 0, units / 2, [_half_a_digit(float(size)) for size in sizes])
    slack = np.maximum(half, FLOAT32_ROUNDING * sizes)
    quanta = (_common_divisor(sizes, slack, multiple) for multiple in range(1, MAX_MULTIPLE + 1))
    return next((quantum for quantum in quanta if quantum), 0.0)


def _half_a_digit(value: float) -> float:
    """Half a unit of the last decimal place that the number is printed with."""
    exponent = Decimal(repr(value)).as_tuple().exponent
    return 0.5 * 10.0 ** int(exponent)


def _common_divisor(sizes: Float64, slack: Float64, multiple: int) -> float:
    """The quantum that the smallest value is `multiple` times, if all values are multiples of it; else 0.

    Each value narrows the interval that the quantum lies in. A value on no lattice fits with a chance equal to the
    width of its interval in quanta.

    Args:
        sizes: Sizes in rising order, shape (m,).
        slack: How far rounding may have moved each, shape (m,).
        multiple: Quanta in the smallest size.
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
    return float((low + high) / 2) if chance < COLUMN_CHANCE else 0.0
