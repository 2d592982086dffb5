"""Calls of the user's loss that may fail."""

from collections.abc import Callable
from typing import TypeVar

from gradguard.environment import is_interruption

Result = TypeVar("Result")


def try_twice(work: Callable[[], Result], before_again: Callable[[], object] = int) -> Result | Exception:
    """The result of `work`, or the exception that it raises twice in a row.

    An exception of another origin is raised to the caller: one that does not come a second time, or that a signal
    handler or a debugger raises.

    Args:
        work: Calls the user's loss.
        before_again: Called before the second time; what it raises is raised to the caller.
    """
    try:
        return work()
    except Exception as error:  # any: the user's loss may raise anything
        if is_interruption(error):
            raise
        before_again()
        try:
            work()
        except type(error) as again:
            if is_interruption(again):
                raise
            return error
        raise
