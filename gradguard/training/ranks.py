"""The processes of one training: the clock that they share, the check that they make, and which of them logs."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

Clock = Callable[[], float]


@runtime_checkable
class Ranks(Protocol):
    """The processes of one training, seen from one of them."""

    @property
    def is_first(self) -> bool:
        """Whether this process logs alerts and draws progress bars; the guard's options say where else it writes."""

    def clock(self) -> float:
        """Seconds since a fixed moment: the same number in all processes, so that all make the same decisions."""

    def checking(self, step: int) -> AbstractContextManager[object]:
        """The context in which all processes decide about the check of this step and make it."""


class SingleProcess:
    """The processes of a training that has only one."""

    is_first = True
    clock = staticmethod(time.perf_counter)  # as in Ranks; without a frame of its own, since most steps only read it

    def checking(self, step: int) -> AbstractContextManager[object]:  # noqa: ARG002, D102 - as in Ranks
        return nullcontext()


SINGLE_PROCESS = SingleProcess()


def ranks_of(params: Mapping[str, object]) -> Ranks:
    """The processes that hold the parameters: `params.ranks`, or a single process where there is no such attribute."""
    ranks = getattr(params, "ranks", None)
    return ranks if isinstance(ranks, Ranks) else SINGLE_PROCESS
