"""Values as the dicts, lists, strings and numbers that JSON knows."""

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Plain(Protocol):
    """A value with a plain form of its own."""

    def to_plain(self) -> Any:
        """The plain form."""

    @classmethod
    def from_plain(cls, plain: Any) -> Any:
        """The value of a plain form; raises TypeError or ValueError for anything else."""


def to_plain(value: object, number: Callable[[float], Any]) -> Any:
    """Dataclasses and mappings become dicts, sequences and arrays lists, enums and dtypes strings.

    Args:
        value: What to convert.
        number: How a float is written. Strict JSON has no nan and no inf: `finite_or_none` for those who read a report,
            `finite_or_name` where the number is read back.
    """
    if isinstance(value, float):
        return number(float(value))
    if value is None or isinstance(value, bool | int | str):
        return str(value) if isinstance(value, enum.StrEnum) else value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item, number) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item, number) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist(), number)
    if isinstance(value, np.dtype):
        return value.str
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if hasattr(value, "to_plain"):  # as in `Plain`, which takes longer to ask
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name), number) for field in dataclasses.fields(value)}
    return value


def finite_or_none(value: float) -> float | None:
    """The number; None for nan and inf."""
    return value if math.isfinite(value) else None


def finite_or_name(value: float) -> float | str:
    """The number; "nan", "inf" or "-inf" for those, which `float` reads back."""
    return value if math.isfinite(value) else str(value)
