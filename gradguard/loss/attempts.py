"""Calls of the user's loss that may fail."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def try_twice(work: Callable[[], Result]) -> Result | Exception:
    """The result of `work`, or the exception that it raises twice in a row.

    An exception of another origin, such as a signal handler, does not come a second time; it is raised to the caller.

    Args:
        work: Calls the user's loss.
    """
    try:
        return work()
    except Exception as error:  # any: the user's loss may raise anything
        try:
            work()
        except type(error):
            return error
        raise
