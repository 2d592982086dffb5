"""The quantum of a column of numerical gradients: differences of a float32 loss are whole numbers of ulp / 2h."""

from decimal import Decimal

import numpy as np

from gradguard.parted import Float64

MULTIPLE = 64  # the smallest value is at most so many quanta
WIDEST = 2.0**40  # ratio of the largest value to the smallest that whole numbers of float32 quanta can have
FITS_BY_CHANCE = 2e-3  # how likely values on no lattice may be to fit
FLOAT32_ROUNDING = 2.0**-23  # relative rounding of a value that passed through float32


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
