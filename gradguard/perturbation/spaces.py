"""NumPy arrays under test, live or copied: moved while the loss is evaluated, and restored bit for bit."""

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import numpy as np

from gradguard.arrays import Array, reductions, require_movable, spacing
from gradguard.perturbation.protocols import PerturbedTensor


class PerturbedArray:
    """An array that is written to.

    Args:
        array: The array that the loss sees.
        base: Its unmoved values, in memory of their own.
    """

    def __init__(self, array: Array, base: Array) -> None:
        self.array = array
        self.base = base

    def write(self, values: Array) -> None:  # noqa: D102 - as in PerturbedTensor
        self.array[...] = values

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:  # noqa: D102 - as in PerturbedTensor
        along_vector = along_gradient = 0.0
        pieces = reductions.writable_blocks(self.array, self.base, vector, gradient)
        with pieces, np.errstate(over="ignore", invalid="ignore"):
            for target, start, direction, slope in pieces:
                target[...] = start + amount * direction
                moved = target - start
                products = np.einsum("i,i", direction, moved), np.einsum("i,i", slope, moved)
                if not np.isfinite(products).all():
                    moved[~np.isfinite(start)] = 0  # an entry that is nan or inf does not move
                    products = np.einsum("i,i", direction, moved), np.einsum("i,i", slope, moved)
                along_vector += float(products[0])
                along_gradient += float(products[1])
        return along_vector, along_gradient

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:  # noqa: D102 - as in PerturbedTensor
        start = float(self.base[index])
        self.array[index] = start + amount
        return float(self.array[index]) - start

    def restore(self, index: tuple[int, ...] | None = None) -> None:  # noqa: D102 - as in PerturbedTensor
        where = ... if index is None else index
        self.array[where] = self.base[where]


class InPlace:
    """The live arrays, moved one at a time and restored from a copy: for a `loss()` that reads them.

    Args:
        arrays: The live arrays.

    Raises:
        ValueError: an array is read-only, overlaps itself, or shares memory with another.
    """

    precision = "native"

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        require_movable(arrays)
        self.arrays = arrays

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return spacing(self.arrays[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return Moved(PerturbedArray(self.arrays[name], self.arrays[name].copy()))

    def installed(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext()


class NativeCopies:
    """The live arrays, with a copy of the moved one in its dtype: for a `loss(params)` that is called with them.

    Args:
        arrays: The live arrays.
    """

    precision = "native"

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return spacing(self.arrays[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return _ReplacedByCopy(self.arrays, name)

    def installed(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext()


class Float64Copies:
    """Float64 copies of all arrays: `loss(params)` is called with them, or they replace the live ones in the mapping.

    Args:
        arrays: The live arrays.
        stand_in_for: The mapping whose entries are swapped for the time of an evaluation; None if the loss takes the
            parameters.
        reused: Copies from an earlier check, which are updated in place; new ones are added to it.
    """

    precision = "float64"

    def __init__(
        self,
        arrays: Mapping[str, Array],
        stand_in_for: MutableMapping[str, Any] | None = None,
        reused: dict[str, Array] | None = None,
    ) -> None:
        copies = {} if reused is None else reused
        for name in [name for name in copies if name not in arrays]:
            del copies[name]
        for name, array in arrays.items():
            if name in copies and copies[name].shape == array.shape:
                copies[name][...] = array
            else:
                copies[name] = array.astype(np.float64)
        self.arrays: Mapping[str, Array] = copies
        self._mapping = stand_in_for

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return spacing(self.arrays[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return Moved(PerturbedArray(self.arrays[name], self.arrays[name].copy()))

    def installed(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext() if self._mapping is None else _Swapped(self._mapping, self.arrays)


class ComplexCopies(Float64Copies):
    """Complex copies of all arrays, whose imaginary parts are moved; the arguments are those of `Float64Copies`."""

    precision = "complex"

    def __init__(self, arrays: Mapping[str, Array], stand_in_for: MutableMapping[str, Any] | None = None) -> None:
        self.arrays = {name: array.astype(np.complex128) for name, array in arrays.items()}
        self._mapping = stand_in_for

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        imaginary = self.arrays[name].imag
        return Moved(PerturbedArray(imaginary, np.zeros_like(imaginary)))


# Context managers are classes here: a generator that was interrupted while it restores cannot be resumed.


class Moved(AbstractContextManager[PerturbedTensor]):
    """A tensor to move for the time of a `with`, which restores it."""

    def __init__(self, tensor: PerturbedTensor) -> None:
        self._tensor = tensor

    def __enter__(self) -> PerturbedTensor:
        return self._tensor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tensor.restore()


class _ReplacedByCopy(AbstractContextManager[PerturbedTensor]):
    """A copy to move in place of one of some arrays, for the time of a `with`."""

    def __init__(self, arrays: dict[str, Array], name: str) -> None:
        self._arrays = arrays
        self._name = name
        self._live = arrays[name]

    def __enter__(self) -> PerturbedTensor:
        copy = self._arrays[self._name] = self._live.copy()
        return PerturbedArray(copy, self._live)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrays[self._name] = self._live


class _Swapped(AbstractContextManager[None]):
    """A mapping with other arrays in it, for the time of a `with`."""

    def __init__(self, mapping: MutableMapping[str, Any], stand_ins: Mapping[str, Array]) -> None:
        self._mapping = mapping
        self._stand_ins = stand_ins
        self._live = {name: mapping[name] for name in stand_ins}

    def __enter__(self) -> None:
        self._assign(self._stand_ins)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._assign(self._live)

    def _assign(self, arrays: Mapping[str, Any]) -> None:
        # Not by `update`: a subclass of dict may have its own, and what is proven of a mapping is how it takes items.
        for name, array in arrays.items():
            self._mapping[name] = array
