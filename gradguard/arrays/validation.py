"""Checks of what the user passes: each mistake is an error that names the tensor and what was expected."""

import math
import sys
from collections.abc import Mapping
from numbers import Integral

import numpy as np

from gradguard.arrays.types import Array


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
