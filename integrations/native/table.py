"""A trainer's table, read and validated: a wrong pointer in it would end the process."""

import ctypes
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from gradguard.arrays import Array
from gradguard.integrations.native.abi import ABI_VERSION, DESCRIBE, DTYPES, Table, Tensor

MAX_DIMENSIONS = 32
"""More than any tensor has; a larger number in the table is not a number of dimensions."""
Role = Literal["values", "gradients"]


class NativeArrays(Mapping[str, Array]):
    """The values or the gradients of a trainer by name: arrays on its memory.

    Each access reads the table again and so follows memory that the trainer has moved; an array from before the move
    is as stale as a pointer.

    Raises:
        ValueError: A row of the table cannot be used; the message names the tensor.
    """

    def __init__(self, table: Table, role: Role) -> None:
        self._table = table
        self._role = role
        self._rows = {name: row for row, name in enumerate(_tensor_names(table))}

    def __getitem__(self, name: str) -> Array:
        return _array_view(name, self._table.tensors[self._rows[name]], self._role)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class NativeConstants(Mapping[str, float]):
    """The constants of a trainer by name, read from the table at each access: a step without a check reads none."""

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
        names = _names("constant", [constants[row].name for row in range(count)])
        return {name: constants[row].value for row, name in enumerate(names)}


def read_table(library: ctypes.CDLL) -> Table:
    """The table of a loaded library.

    Raises:
        ValueError: There is no table, it has another version, or it has no loss; the message says which.
    """
    name = library._name or "the running program"
    try:
        describe = library[DESCRIBE]
    except AttributeError:
        raise ValueError(
            f"{name} has no function {DESCRIBE}; include gradguard.h and define it, outside of any namespace: "
            f"gradguard_table *{DESCRIBE}(void)"
        ) from None
    describe.restype = ctypes.POINTER(Table)
    pointer = describe()
    if not pointer:
        raise ValueError(f"{DESCRIBE}() of {name} returned a null pointer; expected the address of its table")
    table: Table = pointer.contents
    if table.abi_version != ABI_VERSION:
        raise ValueError(
            f"the table of {name} has version {table.abi_version}; expected {ABI_VERSION}, GRADGUARD_ABI_VERSION of "
            'the header in use: rebuild it with -I"$(gradguard native --include-dir)"'
        )
    if not table.loss:
        raise ValueError(f"the table of {name} has no loss (a null pointer); expected double (*loss)(void *user)")
    return table


def _tensor_names(table: Table) -> list[str]:
    """The names of the tensors, in the order of the table.

    Raises:
        ValueError: There are no tensors, one has no name, or two have the same name.
    """
    if not table.tensor_count or not table.tensors:
        count = f"{table.tensor_count} tensors{' at a null pointer' if table.tensor_count else ''}"
        raise ValueError(f"the table has {count}; expected the parameters of the model")
    return _names("tensor", [table.tensors[row].name for row in range(table.tensor_count)])


def _names(kind: str, encoded: list[bytes | None]) -> list[str]:
    names: list[str] = []
    for row, encoded_name in enumerate(encoded):
        where = f"{kind} {row} of the table (of {len(encoded)}, counted from 0)"
        if not encoded_name:
            raise ValueError(f"{where} has no name; expected a name for reports")
        name = encoded_name.decode("utf-8", "backslashreplace")
        if name in names:
            raise ValueError(f"{where} is named {name!r}, as {kind} {names.index(name)} is; expected a name of its own")
        names.append(name)
    return names


def _array_view(name: str, row: Tensor, role: Role) -> Array:
    """An array on the memory of a tensor's values or gradients.

    Raises:
        ValueError: The row cannot be used; the message names the tensor, what it has and what was expected.
    """
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
    if row.ndim > MAX_DIMENSIONS:
        raise ValueError(f"tensor {name!r} has {row.ndim} dimensions; expected {MAX_DIMENSIONS} at most")
    if row.ndim and not row.shape:
        raise ValueError(f"the shape of tensor {name!r} is at a null pointer; expected {row.ndim} lengths")
    return tuple(row.shape[axis] for axis in range(row.ndim))
