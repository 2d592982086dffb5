"""Values as plain dicts, lists, strings and numbers."""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Plain(Protocol):
    """State that knows its own plain form."""

    def to_plain(self) -> Any:
        """The plain form."""

    @classmethod
    def from_plain(cls, plain: Any) -> Any:
        """The state again; raises TypeError or ValueError where `plain` is something else."""


def to_plain(value: object) -> Any:
    """Dataclasses become dicts, sequences lists; a number that is not finite becomes its name: strict JSON has none."""
    if isinstance(value, Plain):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, np.dtype):
        return value.str
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value) if isinstance(value, enum.StrEnum) else value
