"""What stands in a trainer's table: read with care, since a wrong pointer in it would end the process."""

import ctypes
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from gradguard.arrays.types import Array
from gradguard.integrations.native.abi import ABI_VERSION, DESCRIBE, DTYPES, Table, Tensor

DIMENSIONS = 32
"""More than any tensor has: what the table says is then no number of dimensions."""
Role = Literal["values", "gradients"]


class NativeArrays(Mapping[str, Array]):
    """The values or the gradients of a trainer by name, in place: to write to an array is to write to its memory.

    The table is read anew at each look, so that memory which the trainer has moved is followed; an array from before
    is then as stale as a pointer.
    """

    def __init__(self, table: Table, role: Role) -> None:
        self._table = table
        self._role = role
        self._places = {name: place for place, name in enumerate(_tensor_names(table))}

    def __getitem__(self, name: str) -> Array:
        return _in_place(name, self._table.tensors[self._places[name]], self._role)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class NativeConstants(Mapping[str, float]):
    """The constants of a trainer by name, read anew at each look: most steps are not checked, and do not look."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._read()

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, float]:
        count, constants = self._table.constant_count, self._table.constants
        if count and not constants:
            raise ValueError(f"the table has {count} constants at a null pointer; expected their address")
        names = _names("constant", [constants[place].name for place in range(count)])
        return {name: constants[place].value for place, name in enumerate(names)}


def table_of(library: ctypes.CDLL) -> Table:
    """The table of a loaded library, proven readable.

    Raises:
        ValueError: There is none, or not of this version, or something in it is missing; the message names it.
    """
    told = library._name or "the running program"
    try:
        describe = library[DESCRIBE]
    except AttributeError:
        raise ValueError(
            f"{told} has no function {DESCRIBE}; include gradguard.h and define it, outside of any namespace: "
            f"gradguard_table *{DESCRIBE}(void)"
        ) from None
    describe.restype = ctypes.POINTER(Table)
    found = describe()
    if not found:
        raise ValueError(f"{DESCRIBE}() of {told} returned a null pointer; expected the address of its table")
    table: Table = found.contents
    if table.abi_version != ABI_VERSION:
        raise ValueError(
            f"the table of {told} has version {table.abi_version}; expected {ABI_VERSION}, GRADGUARD_ABI_VERSION of "
            'the header in use: build it anew with -I"$(gradguard native --include-dir)"'
        )
    if not table.loss:
        raise ValueError(f"the table of {told} has no loss (a null pointer); expected double (*loss)(void *user)")
    return table


def _tensor_names(table: Table) -> list[str]:
    """The names of the tensors, in their order.

    Raises:
        ValueError: There are no tensors, one has no name, or two have the same.
    """
    if not table.tensor_count or not table.tensors:
        count = f"{table.tensor_count} tensors{' at a null pointer' if table.tensor_count else ''}"
        raise ValueError(f"the table has {count}; expected the parameters of the model")
    return _names("tensor", [table.tensors[place].name for place in range(table.tensor_count)])


def _names(what: str, given: list[bytes | None]) -> list[str]:
    names: list[str] = []
    for place, name in enumerate(given):
        where = f"{what} {place} of the table (of {len(given)}, counted from 0)"
        if not name:
            raise ValueError(f"{where} has no name; expected what reports are to call it")
        read = name.decode("utf-8", "backslashreplace")
        if read in names:
            raise ValueError(f"{where} is named {read!r}, as {what} {names.index(read)} is; expected a name of its own")
        names.append(read)
    return names


def _in_place(name: str, row: Tensor, role: Role) -> Array:
    if row.dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} has dtype {row.dtype}; expected 1 (GRADGUARD_FLOAT) or 2 (GRADGUARD_DOUBLE)")
    dtype, shape = np.dtype(DTYPES[row.dtype]), _shape(name, row)
    address, count = (row.values, row.value_count) if role == "values" else (row.gradients, row.gradient_count)
    size = math.prod(shape)
    if count != size:
        raise ValueError(f"tensor {name!r} has {count} {role} and shape {shape}, which makes {size}; expected as many")
    if address is None and size:
        raise ValueError(
            f"the {role} of tensor {name!r} are at a null pointer; expected {size} numbers of {dtype}, allocated "
            "before the library is attached"
        )
    if row.values == row.gradients and size:
        raise ValueError(f"tensor {name!r} has its gradients where its values are; expected memory of their own")
    memory: Any = (ctypes.c_char * (size * dtype.itemsize)).from_address(address or 0)
    return np.ndarray(shape, dtype, memory)


def _shape(name: str, row: Tensor) -> tuple[int, ...]:
    if row.ndim > DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {row.ndim} dimensions; expected {DIMENSIONS} at most")
    if row.ndim and not row.shape:
        raise ValueError(f"the shape of tensor {name!r} is at a null pointer; expected {row.ndim} lengths")
    return tuple(row.shape[axis] for axis in range(row.ndim))
