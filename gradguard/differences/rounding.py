"""Whether two computations of one loss differ by rounding alone: another order of a sum, another dtype."""

import math
from dataclasses import dataclass
from typing import Any, Self

# Roundings that add up in a loss, as a random walk does: those of a sum of 65,536 terms, in any order.
ROUNDINGS = 2.0**16
UNIT_ROUNDOFFS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}  # by the name that frameworks share
FLOAT64_UNIT = 2.0**-53
LARGEST_INSIDE = 1.0  # what the forward pass of a loss near 0 is assumed to add up: probabilities, activations


@dataclass(frozen=True, slots=True)
class RoundedValue:
    """A number that was computed in floating point.

    Attributes:
        value: The number.
        unit: The unit roundoff of its dtype.
    """

    value: float
    unit: float

    @classmethod
    def of(cls, number: object) -> Self:
        """The value of a number, a NumPy scalar, or an array or tensor with one entry.

        Raises:
            TypeError: It is something else.
        """
        require_one_number(number)
        scalar: Any = number
        value = float(scalar.item() if hasattr(scalar, "item") else scalar)
        name = str(getattr(number, "dtype", "")).rpartition(".")[2]
        return cls(value, UNIT_ROUNDOFFS.get(name, FLOAT64_UNIT))


def require_one_number(number: object) -> None:
    """Refuse what is not one real number; the number itself is not read, since it may be on a busy device.

    Raises:
        TypeError: It is no number, or an array of several.
    """
    kind = type(number).__name__
    shape, dtype = getattr(number, "shape", ()), str(getattr(number, "dtype", ""))
    if isinstance(number, bool) or not hasattr(number, "__float__") or "bool" in dtype or "complex" in dtype:
        raise TypeError(
            f"value is a {kind}{f' of dtype {dtype}' if dtype else ''}; expected the loss that the training computed, "
            "a number such as float(loss)"
        )
    if math.prod(shape) != 1:
        raise TypeError(
            f"value is a {kind} of shape {tuple(shape)}; expected one number, the loss that belongs to the gradient"
        )


def _last_place(value: float) -> float:
    """The largest power of two that a number is a multiple of."""
    mantissa, exponent = math.frexp(value)
    digits = int(abs(mantissa) * 2.0**53)
    return math.ldexp(float(digits & -digits), exponent - 53)


def _as_its_digits_show(number: RoundedValue, unit: float) -> RoundedValue:
    """The number with the unit roundoff of the coarsest dtype that holds it: many losses arrive as a Python float.

    Args:
        number: The number.
        unit: The coarsest unit roundoff to look for, or float32's: a number such as 5.0 fits any dtype.
    """
    places = _last_place(number.value) / math.ldexp(1.0, math.frexp(number.value)[1]) if number.value else 0.0
    candidates = [each for each in UNIT_ROUNDOFFS.values() if each <= max(unit, UNIT_ROUNDOFFS["float32"], number.unit)]
    return RoundedValue(number.value, max((each for each in candidates if places >= each), default=number.unit))


def size_inside(number: RoundedValue) -> float:
    """The size of the numbers whose difference a small number is, as far as its last digits show it; at most 1.

    The number is a multiple of the last place of these numbers: it ends in zeros that its dtype could have filled.
    """
    return min(LARGEST_INSIDE, _last_place(number.value) / (2 * number.unit)) if number.value else LARGEST_INSIDE


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two computations of one number.

    Attributes:
        distance: How far apart they are; 0 if both are nan or the same infinity, inf if only one of them is.
        ends: How far apart rounding each of them to its dtype may put them.
        unit: The coarsest unit roundoff in either computation.
        size: The size of what they add up.
    """

    distance: float
    ends: float
    unit: float
    size: float

    @property
    def is_usual(self) -> bool:
        """Whether they add the same terms in another order; sums are accumulated in float32 at least."""
        return self.distance <= self.ends + math.sqrt(ROUNDINGS) * min(self.unit, UNIT_ROUNDOFFS["float32"]) * self.size

    @property
    def is_possible(self) -> bool:
        """Whether amplified rounding might explain the distance: it leaves half of the digits."""
        return self.distance <= self.ends + math.sqrt(self.unit) * self.size

    @classmethod
    def of(cls, one: RoundedValue, other: RoundedValue, unit: float, terms: float) -> Self:
        """The comparison of two numbers.

        Args:
            one: One of them.
            other: The other.
            unit: The unit roundoff of the arithmetic.
            terms: The sum of the absolute terms of which they are the sum, as far as these are known.
        """
        if not (math.isfinite(one.value) and math.isfinite(other.value)):
            both = one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
            return cls(distance=0.0 if both else math.inf, ends=0.0, unit=unit, size=0.0)
        pair = (_as_its_digits_show(one, unit), _as_its_digits_show(other, unit))
        return cls(
            distance=abs(one.value - other.value),
            ends=sum(each.unit * abs(each.value) for each in pair),
            unit=max(unit, *(each.unit for each in pair)),
            size=max(terms, *(max(abs(each.value), size_inside(each)) for each in pair)),
        )
