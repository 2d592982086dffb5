"""One training in several processes: each checks its part, all decide alike by one clock, and one of them tells."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable

Clock = Callable[[], float]


@runtime_checkable
class Ranks(Protocol):
    """The processes of a training, as one of them sees them."""

    @property
    def is_first(self) -> bool:
        """Whether this one logs and draws bars; where else it writes is told by the guard's options."""

    def clock(self) -> float:
        """Seconds since some moment, the same number in all of them, or they would go separate ways."""

    def checking(self, step: int) -> AbstractContextManager[object]:
        """While a check of this step decides and measures, in all of them."""


class Alone:
    """The only process there is."""

    is_first = True

    def clock(self) -> float:  # noqa: D102 - as in Ranks
        return time.perf_counter()

    def checking(self, step: int) -> AbstractContextManager[object]:  # noqa: ARG002, D102 - as in Ranks
        return nullcontext()


ALONE = Alone()


def ranks_of(params: Mapping[str, object]) -> Ranks:
    """The processes that parameters come with, if they do."""
    ranks = getattr(params, "ranks", None)
    return ranks if isinstance(ranks, Ranks) else ALONE
