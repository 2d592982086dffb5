"""Checks of what the user passes: each mistake is an error that names the tensor and what was expected."""

import math
import sys
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Array


def read_parameters(params: Mapping[str, object]) -> dict[str, Array]:
    """The arrays of `params` by name: the user's own objects, not copies.

    Raises:
        TypeError: `params` is not a mapping, or an entry is no array of floating-point numbers.
        ValueError: `params` is empty.
    """
    if not isinstance(params, Mapping):
        raise TypeError(f"params is a {type(params).__name__}; expected a mapping from names to arrays")
    if not params:
        raise ValueError("params is empty; expected a mapping from names to arrays")
    for name, value in params.items():
        if not isinstance(name, str):
            raise TypeError(f"params has the name {name!r}, a {type(name).__name__}; expected names that are strings")
        if isinstance(value, np.generic):
            raise TypeError(
                f"parameter {name!r} is a NumPy scalar, which cannot be moved; expected an array: np.array(x)"
            )
    return {name: _floating(name, "parameter", value) for name, value in params.items()}


def read_gradients(grads: Mapping[str, object], arrays: Mapping[str, Array]) -> dict[str, Array]:
    """The gradients by name, in the order of the arrays and of their shapes.

    Raises:
        TypeError: `grads` is not a mapping, or an entry is no array of floating-point numbers.
        ValueError: a name is missing or unknown, or a shape differs.
    """
    if not isinstance(grads, Mapping):
        raise TypeError(f"grads is a {type(grads).__name__}; expected a mapping with the names of params")
    expected, passed = ", ".join(arrays), ", ".join(map(str, grads))
    for name in arrays:
        if name not in grads:
            raise ValueError(f"grads has no entry {name!r}; given: {passed or 'none'}; expected: {expected}")
    for name in grads:
        if name not in arrays:
            raise ValueError(f"grads has an entry {name!r} that params has not; expected: {expected}")
    read = {name: _floating(name, "gradient", grads[name]) for name in arrays}
    for name, gradient in read.items():
        if gradient.shape != arrays[name].shape:
            raise ValueError(
                f"the gradient of {name!r} has shape {gradient.shape}; expected {arrays[name].shape}, "
                "the shape of the parameter"
            )
    return read


def _floating(name: str, role: str, value: object) -> Array:
    """A value as an array of floating-point numbers on the same memory; `role` says what the value is in a message."""
    array = value if isinstance(value, np.ndarray) else _buffer(name, role, value)
    if isinstance(array, np.matrix | np.ma.MaskedArray):
        raise TypeError(
            f"{role} {name!r} is a {type(array).__name__}, which computes in its own way; expected a plain array, such "
            "as np.asarray(x) makes of it without a copy"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{role} {name!r} has dtype {array.dtype}; expected a floating-point dtype such as float32")
    return array


def _buffer(name: str, role: str, value: object) -> NDArray[Any]:
    if isinstance(value, np.generic):
        return np.asarray(value)
    try:
        return np.asarray(memoryview(value))  # type: ignore[arg-type]  # the except clause is the check
    except (TypeError, ValueError):
        raise TypeError(
            f"{role} {name!r} is a {type(value).__name__}; expected a NumPy array, or an object that gives "
            "access to its memory by the buffer protocol"
        ) from None


def require_movable(arrays: Mapping[str, Array]) -> None:
    """Refuse arrays that cannot be moved in place, one at a time.

    Raises:
        ValueError: an array is read-only, overlaps itself, or shares memory with another.
    """
    for name, array in arrays.items():
        if not array.flags.writeable:
            raise ValueError(
                f"parameter {name!r} is read-only and cannot be perturbed in place; "
                "pass a writable array, or a loss that takes the parameters: loss(params)"
            )
        if _overlaps_itself(array):
            raise ValueError(
                f"parameter {name!r} (shape {array.shape}, strides {array.strides}) is not contiguous: several of its "
                "entries are one place in memory and cannot be perturbed one by one; pass an array with its own memory"
            )
    by_address = sorted((np.lib.array_utils.byte_bounds(array), name) for name, array in arrays.items() if array.size)
    for position, ((_, end), name) in enumerate(by_address):
        for (start, _), other in by_address[position + 1 :]:
            if start >= end:
                break
            if np.shares_memory(arrays[name], arrays[other]):
                raise ValueError(
                    f"parameters {name!r} and {other!r} share memory, so moving one moves the other; "
                    "pass the shared array under one name, with the sum of its gradients"
                )


def _overlaps_itself(array: Array) -> bool:
    """Whether two entries may share memory: a stride is shorter than the extent of all axes with smaller strides."""
    reach = array.itemsize
    axes = sorted(
        (abs(stride), length) for stride, length in zip(array.strides, array.shape, strict=True) if length > 1
    )
    for stride, length in axes if array.size else []:
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python or NumPy; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def require_entries(entries: int | str | None) -> int | None:
    """How many entries of each tensor the user wants measured, at most; None for as many as the check finds time for.

    Raises:
        ValueError: `entries` is neither "all" nor a whole number of at least 1.
    """
    if entries == "all":
        return sys.maxsize
    if entries is None or (is_whole(entries) and entries >= 1):  # type: ignore[operator]  # just asked
        return entries  # type: ignore[return-value]  # as above
    raise ValueError(f"entries is {entries!r}; expected a whole number of at least 1, 'all', or None for a few")


def require_constants(constants: Mapping[str, float] | None) -> dict[str, float]:
    """The user's constants as floats, by name; empty for None.

    Raises:
        TypeError: `constants` is not a mapping.
        ValueError: a constant is not a positive finite number.
    """
    if constants is not None and not isinstance(constants, Mapping):
        raise TypeError(f"constants is a {type(constants).__name__}; expected a mapping such as {{'timesteps': 39}}")
    read = {}
    for name, value in (constants or {}).items():
        try:
            read[name] = float(value)
        except (TypeError, ValueError):
            raise ValueError(f"constant {name!r} is {value!r}; expected a positive number") from None
        if not (math.isfinite(read[name]) and read[name] > 0):
            raise ValueError(f"constant {name!r} is {value!r}; expected a positive number")
    return read
