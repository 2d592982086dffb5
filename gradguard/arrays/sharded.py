"""Arrays of which each of several processes holds a part."""

from typing import Any, Protocol

import numpy as np

from gradguard.arrays.types import Array, Float64, Region


class Across(Protocol):
    """What the processes find out together; all of them call it alike."""

    def sum(self, values: Float64) -> Float64:
        """The sums over the processes, of the same shape; what several of them hold alike counts once."""

    def largest(self, value: float) -> float:
        """The largest of the processes' values."""

    def gather(self, values: Float64) -> Float64:
        """The values of each, shape (processes, n)."""


class Part(np.ndarray[Any, Any]):
    """An array of which this process holds a region; all else reads as zeros, which take up no memory until written.

    Its shape is that of the whole, so that directions and entries are the same in all processes. What is computed from
    it is an ordinary array; the functions of `gradguard.arrays.reductions` give the numbers of the whole.

    Attributes:
        across: What the processes find out together; None of what is computed from one.
        region: What this process holds.
    """

    across: Across | None = None
    region: Region = ()
    _asked: dict[Any, Any]  # entries by index: they are the same each time, and asking takes all processes

    @classmethod
    def of(cls, shape: tuple[int, ...], region: Region, own: Array, across: Across) -> "Part":
        """An array of some shape, with the numbers of this process in their region."""
        part = np.zeros(shape, own.dtype).view(cls)
        part.across, part.region, part._asked = across, region, {}
        part.own[...] = own
        return part

    @property
    def own(self) -> Array:
        """What this process holds, as a plain array on the same memory."""
        return self.view(np.ndarray)[self.region]

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        if self.across is None or isinstance(value, np.ndarray):
            return value
        if index not in self._asked:
            self._asked[index] = self.dtype.type(self.across.sum(np.array([value], np.float64))[0])
        return self._asked[index]

    def any(self, *_args: Any, **_options: Any) -> Any:
        """Whether anything in the whole is not zero."""
        found = bool(self.own.any())
        return found if self.across is None else self.across.largest(float(found)) > 0

    def copy(self, order: Any = "C") -> Any:
        """Another one with the same numbers."""
        if self.across is None:
            return super().copy(order)
        return self.of(self.shape, self.region, self.own, self.across)

    def tobytes(self, order: Any = "C") -> bytes:
        """What this process holds, as bytes."""
        return self.own.tobytes(order)


def across(array: Array) -> Across | None:
    """What the processes find out together of an array; None where this one holds it whole."""
    return array.across if isinstance(array, Part) else None


def own(array: Array) -> Array:
    """What this process holds of an array."""
    return array.own if isinstance(array, Part) and array.across is not None else array


def summed(array: Array, value: float) -> float:
    """The sum of a number over all that hold parts of an array."""
    together = across(array)
    return value if together is None else float(together.sum(np.array([value]))[0])


def zeros_like(array: Array, dtype: Any) -> Array:
    """Zeros in the same parts."""
    if isinstance(array, Part) and array.across is not None:
        return Part.of(array.shape, array.region, np.zeros(array.own.shape, dtype), array.across)
    return np.zeros(array.shape, dtype)
