"""The numbers that users hand over, in whatever holds them, as arrays of float64."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradguard.arrays import Float64, unit_roundoff
from gradguard.diagnosis.from_arrays.written_numbers import float_text, units_of_floats, units_of_texts

MIN_TELLING_VALUES = 3  # that use all bits of a narrow format; a few short numbers fit any format by chance
# The significant bits of a format, with its name, and the bits that a value must use to tell.
NARROW_FORMATS = ((8, 6, "bfloat16"), (11, 9, "float16"))


@dataclass(frozen=True, slots=True)
class Numbers:
    """What was handed over as n or as g.

    Attributes:
        values: The numbers, in their shape.
        unit: The unit of the last decimal of each if they were printed, else 0; of the same shape.
    """

    values: Float64
    unit: Float64

    def reshaped(self, shape: tuple[int, ...]) -> "Numbers":
        """The same numbers in another shape."""
        return Numbers(self.values.reshape(shape), self.unit.reshape(shape))

    @property
    def narrow_format(self) -> str:
        """The 16-bit format that holds every number exactly, where the numbers use its bits; "" if there is none."""
        used = self.values[np.isfinite(self.values) & (self.values != np.rint(self.values))]
        bits = _significant_bits(np.unique(np.abs(used)))
        for all_bits, telling_bits, name in NARROW_FORMATS:
            if bits.size and bits.max() <= all_bits:
                return name if np.sum(bits >= telling_bits) >= MIN_TELLING_VALUES else ""
        return ""

    @property
    def roundoff(self) -> float:
        """The unit roundoff of the arithmetic: that of float32 unless the numbers show a narrower format."""
        bits = {name: bits for bits, _, name in NARROW_FORMATS}.get(self.narrow_format)
        return unit_roundoff(np.dtype(np.float32)) if bits is None else 2.0**-bits


def read_numbers(what: str, values: object) -> Numbers:
    """Real numbers from an array, a tensor, a number, text, or lists of these nested to any depth.

    Args:
        what: What they are, as it is called in a message.
        values: Where they are.

    Raises:
        TypeError: A value is not a real number.
        ValueError: Text is no number, or the lists are of different lengths.
    """
    array = _array(what, values)
    if array.dtype.kind in "UO":
        return _from_objects(what, array)
    if array.dtype.kind in "bcmMSV" and not _is_extended_float(array.dtype):
        raise TypeError(f"{what} has dtype {array.dtype}; expected real numbers")
    read = array.astype(np.float64)
    return Numbers(read, units_of_floats(read.ravel(), array.dtype).reshape(read.shape))


def _array(what: str, values: object) -> np.ndarray[Any, np.dtype[Any]]:
    plain = _without_tensors(values)
    try:
        return np.asarray(plain)
    except ValueError as error:
        raise ValueError(f"{what} holds lists of different lengths; expected rows of one length") from error


def _without_tensors(values: object) -> object:
    """Lists without tensors of PyTorch, which NumPy reads only outside a graph and in the memory of the CPU."""
    if isinstance(values, list | tuple):
        return [_without_tensors(value) for value in values]
    detach = getattr(values, "detach", None)
    if not callable(detach):
        return values
    tensor = detach().cpu()
    try:
        return tensor.numpy()
    except TypeError:  # NumPy has no bfloat16
        return tensor.double().numpy()


def _is_extended_float(dtype: np.dtype[Any]) -> bool:
    """Whether the dtype is a floating-point one that NumPy does not know itself, such as bfloat16 of `ml_dtypes`."""
    return dtype.kind == "V" and dtype.names is None and np.can_cast(dtype, np.float64)


def _from_objects(what: str, array: np.ndarray[Any, np.dtype[Any]]) -> Numbers:
    """Numbers from text, or from Python objects such as Decimal, Fraction and None."""
    flat = array.ravel().tolist()
    values = np.array([_number(what, value) for value in flat], np.float64)
    is_text = bool(flat) and all(isinstance(value, str) for value in flat)
    unit = units_of_texts([float_text(value) for value in flat]) if is_text else np.zeros(values.size)
    return Numbers(values.reshape(array.shape), unit.reshape(array.shape))


def _number(what: str, value: object) -> float:
    if isinstance(value, str):
        try:
            return float(float_text(value))
        except ValueError as error:
            raise ValueError(f"{what} holds the text {value[:40]!r}; expected numbers") from error
    try:
        return float(value)  # type: ignore[arg-type]  # which raises for what is no number
    except (TypeError, ValueError) as error:
        raise TypeError(f"{what} holds {value!r:.60}, a {type(value).__name__}; expected numbers") from error


def _significant_bits(values: Float64) -> Float64:
    """How many bits of the significand each nonzero value uses, (m,)."""
    digits = (np.frexp(values)[0] * 2.0**53).astype(np.int64)
    bits: Float64 = 53 - np.log2((digits & -digits).astype(np.float64))
    return bits
