"""A list for what a test records within a loss."""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any


class Recorder:
    """Items that stay after a check: out of its reach, since it puts back what a loss writes to lists and counters."""

    def __init__(self) -> None:
        self._out_of_reach = MappingProxyType({"items": list[Any]()})

    @property
    def items(self) -> list[Any]:
        """What was recorded."""
        return self._out_of_reach["items"]

    def append(self, item: Any = None) -> None:
        """Record something."""
        self.items.append(item)

    def clear(self) -> None:
        """Forget everything."""
        self.items.clear()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)
