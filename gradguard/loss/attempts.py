"""What the user's loss makes of something that it may not be made for."""

from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def attempted(work: Callable[[], Result]) -> Result | Exception:
    """The result of some work with the user's loss, or what it raises, whatever that is.

    What does not come again is not the loss's, but of a signal's handler, say, and goes on.
    """
    try:
        return work()
    except Exception as error:  # everything: there is no telling what the user's loss raises
        try:
            work()
        except type(error):
            return error
        raise
