"""Exclusive use of a guard: while a check moves the parameters, no other thread and no loss may call the guard."""

import threading
from collections.abc import Callable
from typing import TypeVar

from gradguard.perturbation import run_with_cleanup

Result = TypeVar("Result")

REENTRY_MESSAGE = (
    "the guard is called within its own check, probably by its loss: each evaluation would start another check.\n"
    "Pass a loss that only evaluates the model, and call the guard in the training loop, between backward and update"
)


class ExclusiveAccess:
    """Lets one thread in at a time; another thread, or the same thread again, gets an error at once."""

    def __init__(self) -> None:
        # The thread that is inside: its id and name. A dict, since `setdefault` claims it without a race, and since a
        # signal between acquiring and releasing a lock would leave that locked.
        self._holder: dict[str, tuple[int, str]] = {}

    def require_free(self) -> None:
        """Raise if any thread is inside; most steps of a training need nothing more.

        Raises:
            RuntimeError: Another thread is inside, or this one.
        """
        if self._holder:
            self.run(lambda: None)

    def run(self, work: Callable[[], Result], *, reentrant: bool = False) -> Result:
        """The result of some work, during which no other thread may enter.

        Access is released whatever ends the work, an exception raised by a signal handler included.

        Args:
            work: What is done.
            reentrant: Whether the thread that is inside may do this too, because it moves nothing.

        Raises:
            RuntimeError: Another thread is inside, or this one is and the work is not `reentrant`.
        """
        if self._is_held_by_this_thread:
            if reentrant:
                return work()
            raise RuntimeError(REENTRY_MESSAGE)
        return run_with_cleanup(lambda: self._claim_and_run(work), self._release)

    def _claim_and_run(self, work: Callable[[], Result]) -> Result:
        thread = threading.current_thread()
        ident, name = self._holder.setdefault("thread", (threading.get_ident(), thread.name))  # one step: no race
        if ident != threading.get_ident():
            raise RuntimeError(
                f"the thread {thread.name} calls a guard that the thread {name} is using: a check moves the "
                "parameters, so nobody else may use them meanwhile; give each thread a guard and parameters of its "
                "own, or a lock"
            )
        return work()

    @property
    def _is_held_by_this_thread(self) -> bool:
        return self._holder.get("thread", (None, ""))[0] == threading.get_ident()

    def _release(self) -> None:
        if self._is_held_by_this_thread:
            self._holder.clear()
