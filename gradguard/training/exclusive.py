"""A guard that two threads use at once, or that its own loss uses, would move the parameters under its own feet."""

import threading
from collections.abc import Callable
from typing import TypeVar

from gradguard.perturbation.rollback import done_after

Result = TypeVar("Result")

WITHIN = (
    "the guard is called within a check of its own, most likely by the loss that it evaluates: each of the many "
    "evaluations would begin another check, with the parameters moved; give the guard a loss that only evaluates the "
    "model, and call the guard in the training loop, between backward and update"
)


class ExclusiveAccess:
    """Lets one thread in at a time and refuses others at once, and the same thread when it comes in again."""

    def __init__(self) -> None:
        self._inside: dict[str, tuple[int, str]] = {}

    def refuse(self) -> None:
        """Refuse whoever comes while somebody is inside: most steps of a training need no more than that.

        Raises:
            RuntimeError: Another thread is inside, or this one.
        """
        if self._inside:
            self.run(lambda: None)

    def run(self, work: Callable[[], Result], *, within: bool = False) -> Result:
        """The result of some work, while nobody else may come in; what ends the work lets go, wherever that comes.

        Args:
            work: What is done.
            within: Whether the thread that is inside may do this, too: it moves nothing.

        Raises:
            RuntimeError: Another thread is inside, or this one and not `within`.
        """
        if self._is_mine:
            if within:
                return work()
            raise RuntimeError(WITHIN)
        return done_after(lambda: self._alone(work), self._let_go)

    def _alone(self, work: Callable[[], Result]) -> Result:
        me = threading.current_thread()
        ident, name = self._inside.setdefault("thread", (threading.get_ident(), me.name))  # one step: no race
        if ident != threading.get_ident():
            raise RuntimeError(
                f"the thread {me.name} calls a guard that the thread {name} is using: a check moves the parameters, "
                "so nobody else may use them meanwhile; give each thread a guard and parameters of its own, or a lock"
            )
        return work()

    @property
    def _is_mine(self) -> bool:
        return self._inside.get("thread", (None, ""))[0] == threading.get_ident()

    def _let_go(self) -> None:
        if self._is_mine:
            self._inside.clear()
