"""The moves and swaps that are open, so that each can be undone whatever interrupts a check."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from gradguard.arrays.types import Array
from gradguard.perturbation.protocols import Copies, Copying, PerturbedTensor, Space

Opened = TypeVar("Opened")


class UndoLog:
    """The moves and swaps that are open, in the order in which they were opened."""

    def __init__(self) -> None:
        self._open: list[AbstractContextManager[object]] = []

    def opened(self, move: AbstractContextManager[Opened]) -> AbstractContextManager[Opened]:
        """The same move, written down for as long as it is open."""
        return _WrittenDown(move, self._open)

    def restore(self) -> None:
        """Close whatever was left open, the last first."""
        while self._open:
            self._open[-1].__exit__(None, None, None)
            self._open.pop()


class _WrittenDown(AbstractContextManager[Opened]):
    def __init__(self, move: AbstractContextManager[Opened], among: list[AbstractContextManager[object]]) -> None:
        self._move = move
        self._among = among

    def __enter__(self) -> Opened:
        self._among.append(self._move)
        return self._move.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._move in self._among:  # else all has been put back, and what leaves so late must not do so again
            self._move.__exit__(kind, error, trace)
            self._among.remove(self._move)


class Held:
    """A space whose moves and swaps are written down.

    Args:
        space: The space itself.
        undo_log: Where.
    """

    def __init__(self, space: Space, undo_log: UndoLog) -> None:
        self.precision = space.precision
        self._space = space
        self._undo_log = undo_log

    @property
    def arrays(self) -> Mapping[str, Array]:  # noqa: D102 - as in Space
        return self._space.arrays

    def spacing(self, name: str) -> float:  # noqa: D102 - as in Space
        return self._space.spacing(name)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:  # noqa: D102 - as in Space
        return self._undo_log.opened(self._space.moving(name))

    def presented(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Space
        presented = self._space.presented()
        return presented if isinstance(presented, nullcontext) else self._undo_log.opened(presented)


@dataclass(frozen=True, slots=True)
class HeldCopying:
    """What makes copies, whose swaps are written down: `gradguard.perturbation.protocols.Copying`."""

    copying: Copying
    undo_log: UndoLog

    def at_most(self) -> int:  # noqa: D102 - as in Copying
        return self.copying.at_most()

    def copies(self, names: Sequence[str]) -> Copies:  # noqa: D102 - as in Copying
        return HeldCopies(self.copying.copies(names), self.undo_log)


@dataclass(frozen=True, slots=True)
class HeldCopies:
    """Copies whose swaps are written down: `gradguard.perturbation.protocols.Copies`."""

    copies: Copies
    undo_log: UndoLog

    @property
    def places(self) -> Sequence[PerturbedTensor]:  # noqa: D102 - as in Copies
        return self.copies.places

    @property
    def arrays(self) -> Any:  # noqa: D102 - as in Copies
        return self.copies.arrays

    def presented(self) -> AbstractContextManager[object]:  # noqa: D102 - as in Copies
        return self.undo_log.opened(self.copies.presented())
