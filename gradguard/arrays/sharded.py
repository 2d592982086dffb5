"""Arrays of which each of several processes holds a part."""

from typing import Any, Protocol

import numpy as np

from gradguard.arrays.types import Array, Float64, Region


class Collectives(Protocol):
    """Reductions over the processes that hold the parts of an array; all processes make the same calls in one order."""

    def sum(self, values: Float64) -> Float64:
        """The sums over the processes, of the same shape; what several of them hold alike counts once."""

    def largest(self, value: float) -> float:
        """The largest of the processes' values."""

    def gather(self, values: Float64) -> Float64:
        """The values of each process, shape (processes, n)."""


class ShardedArray(np.ndarray[Any, Any]):
    """An array of which this process holds one region; the rest reads as zeros and takes no memory until written.

    Its shape is that of the whole array, so that directions and entries are the same in all processes. Whatever is
    computed from it is an ordinary array; the functions of `gradguard.arrays.reductions` reduce the whole array.

    Attributes:
        collectives: Reductions over the processes; None for an array that was computed from a sharded one.
        region: Where the part of this process lies.
    """

    collectives: Collectives | None = None
    region: Region = ()
    _entries: dict[Any, Any]  # by index: an entry stays the same, and reading it takes a call of all processes

    @classmethod
    def of(cls, shape: tuple[int, ...], region: Region, local: Array, collectives: Collectives) -> "ShardedArray":
        """An array of that shape with the numbers of this process in their region."""
        array = np.zeros(shape, local.dtype).view(cls)
        array.collectives, array.region, array._entries = collectives, region, {}
        array.local[...] = local
        return array

    @property
    def local(self) -> Array:
        """The part of this process, as a plain array on the same memory."""
        return self.view(np.ndarray)[self.region]

    def __getitem__(self, index: Any) -> Any:
        value = super().__getitem__(index)
        if self.collectives is None or isinstance(value, np.ndarray):
            return value
        if index not in self._entries:
            self._entries[index] = self.dtype.type(self.collectives.sum(np.array([value], np.float64))[0])
        return self._entries[index]

    def any(self, *_args: Any, **_options: Any) -> Any:
        """Whether any entry of the whole array is not zero."""
        found = bool(self.local.any())
        return found if self.collectives is None else self.collectives.largest(float(found)) > 0

    def copy(self, order: Any = "C") -> Any:
        """A sharded array with the same numbers."""
        if self.collectives is None:
            return super().copy(order)
        return self.of(self.shape, self.region, self.local, self.collectives)

    def tobytes(self, order: Any = "C") -> bytes:
        """The part of this process, as bytes."""
        return self.local.tobytes(order)


def collectives_of(array: Array) -> Collectives | None:
    """Reductions over the processes that share an array; None where this process holds all of it."""
    return array.collectives if isinstance(array, ShardedArray) else None


def local_part(array: Array) -> Array:
    """The part of an array that this process holds."""
    return array.local if isinstance(array, ShardedArray) and array.collectives is not None else array


def sum_over_processes(array: Array, value: float) -> float:
    """The sum of a number over all processes that share an array."""
    collectives = collectives_of(array)
    return value if collectives is None else float(collectives.sum(np.array([value]))[0])


def zeros_like(array: Array, dtype: Any) -> Array:
    """Zeros of that dtype in the shape of an array, sharded where the array is."""
    if isinstance(array, ShardedArray) and array.collectives is not None:
        return ShardedArray.of(array.shape, array.region, np.zeros(array.local.shape, dtype), array.collectives)
    return np.zeros(array.shape, dtype)
