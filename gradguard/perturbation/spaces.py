"""The arrays under test: moved while the loss is evaluated, and put back bit for bit."""

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import numpy as np

from gradguard.arrays import reductions
from gradguard.arrays.floating_point import spacing
from gradguard.arrays.types import Array
from gradguard.arrays.validation import require_movable
from gradguard.perturbation.protocols import PerturbedTensor


class PerturbedArray:
    """An array that is written to."""

    def __init__(self, array: Array, base: Array) -> None:
        self.array = array
        self.base = base

    def write(self, values: Array) -> None:  # noqa: D102 - as in Place
        self.array[...] = values

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:  # noqa: D102 - as in Place
        along = against = 0.0
        pieces = reductions.writable_blocks(self.array, self.base, vector, gradient)
        with pieces, np.errstate(over="ignore", invalid="ignore"):
            for target, start, direction, slope in pieces:
                target[...] = start + amount * direction
                moved = target - start
                products = np.einsum("i,i", direction, moved), np.einsum("i,i", slope, moved)
                if not np.isfinite(products).all():
                    moved[~np.isfinite(start)] = 0  # an entry that is nan or inf stays where it is
                    products = np.einsum("i,i", direction, moved), np.einsum("i,i", slope, moved)
                along += float(products[0])
                against += float(products[1])
        return along, against

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:  # noqa: D102 - as in Place
        start = float(self.base[index])
        self.array[index] = start + amount
        return float(self.array[index]) - start

    def restore(self, index: tuple[int, ...] | None = None) -> None:  # noqa: D102 - as in Place
        where = ... if index is None else index
        self.array[where] = self.base[where]


class InPlace:
    """The live arrays themselves, each moved on its own and put back from a copy: `loss()` reads them."""

    precision = "native"

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        require_movable(arrays)
        self.arrays = arrays

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return spacing(self.arrays[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return Moved(PerturbedArray(self.arrays[name], self.arrays[name].copy()))

    def presented(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext()


class NativeCopies:
    """A copy of the tensor under test in its own dtype, among the live arrays: `loss(params)` is handed them."""

    precision = "native"

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return spacing(self.arrays[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return _CopyMoved(self.arrays, name)

    def presented(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext()


class Float64Copies:
    """Float64 copies of all the arrays, handed to `loss(params)` or standing in for the live ones in their mapping.

    Args:
        arrays: The live arrays.
        stand_in_for: The mapping whose entries are swapped for the time of an evaluation; None when the loss
            takes the parameters.
        kept: Copies of an earlier check, which are brought up to date; new ones are added.
    """

    precision = "float64"

    def __init__(
        self,
        arrays: Mapping[str, Array],
        stand_in_for: MutableMapping[str, Any] | None = None,
        kept: dict[str, Array] | None = None,
    ) -> None:
        copies = {} if kept is None else kept
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

    def presented(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        return nullcontext() if self._mapping is None else _Swapped(self._mapping, self.arrays)


class ComplexCopies(Float64Copies):
    """Complex copies of all the arrays, of which the imaginary parts are moved."""

    precision = "complex"

    def __init__(self, arrays: Mapping[str, Array], stand_in_for: MutableMapping[str, Any] | None = None) -> None:
        self.arrays = {name: array.astype(np.complex128) for name, array in arrays.items()}
        self._mapping = stand_in_for

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        imaginary = self.arrays[name].imag
        return Moved(PerturbedArray(imaginary, np.zeros_like(imaginary)))


# Classes: a generator that was interrupted while it puts back cannot be told to do so again.


class Moved(AbstractContextManager[PerturbedTensor]):
    """A place to write to for the time of a `with`."""

    def __init__(self, place: PerturbedTensor) -> None:
        self._place = place

    def __enter__(self) -> PerturbedTensor:
        return self._place

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._place.restore()


class _CopyMoved(AbstractContextManager[PerturbedTensor]):
    """A copy of an array among others, to write to for the time of a `with`."""

    def __init__(self, arrays: dict[str, Array], name: str) -> None:
        self._arrays = arrays
        self._name = name
        self._live = arrays[name]

    def __enter__(self) -> PerturbedTensor:
        copied = self._arrays[self._name] = self._live.copy()
        return PerturbedArray(copied, self._live)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._arrays[self._name] = self._live


class _Swapped(AbstractContextManager[None]):
    """Other arrays in a mapping, for the time of a `with`."""

    def __init__(self, mapping: MutableMapping[str, Any], stand_ins: Mapping[str, Array]) -> None:
        self._mapping = mapping
        self._stand_ins = stand_ins
        self._kept = {name: mapping[name] for name in stand_ins}

    def __enter__(self) -> None:
        self._mapping.update(self._stand_ins)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mapping.update(self._kept)
