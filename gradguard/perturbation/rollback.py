"""What a check disturbs, and how all of it is put back, whatever ends the check and wherever that comes.

An exception from a signal may come between any two calls of Python code, at the beginning of an `__exit__` too, so that
a `with` alone is no promise: what is open is written down before it is opened, and closed once more at the end. More
signals may come just then: all that puts back can be done again, and there are several that stand by to do so.
"""

import random
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import reduce
from typing import TypeVar

import numpy as np

from gradguard.arrays import reductions
from gradguard.arrays.types import Array
from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.snapshots import Snapshot, snapshot_rng, together

Result = TypeVar("Result")
LOOKS = 6  # at the gradients, before the first evaluations: most of them are elsewhere
STANDING_BY = 8  # for as many signals that come while things are put back
GLOBAL_STREAMS = together([snapshot_rng(np.random), snapshot_rng(random)])


def done_after(work: Callable[[], Result], act: Callable[[], object], standing_by: int = STANDING_BY) -> Result:
    """The result of some work, after which something is done, whatever ends the work and wherever that comes.

    Args:
        work: What is done first.
        act: What is done then, again and again until it was not interrupted: once more must do no harm.
        standing_by: For as many interrupts of `act`.
    """
    # A handler of the exception that interrupts what puts back may be interrupted before its first line. So all
    # that may have to do it have begun before the work: each interrupt takes one of them out, and the next does it.
    try:
        return done_after(work, act, standing_by - 1) if standing_by else work()
    finally:
        act()


class Rollback:
    """Everything a check may disturb, as it is before the check.

    Args:
        gradients: The user's arrays.
        snapshot: Of the state that an evaluation of the loss disturbs.
        keep: Whether to keep copies of the gradients: a loss that runs the backward pass too writes to them.

    Attributes:
        gradients: Copies of the user's, or those themselves.
        undo_log: Where the check writes down what it moves.
        written: The gradients that the loss has written to, once all has been put back.
    """

    def __init__(self, gradients: Mapping[str, Array], snapshot: Snapshot, *, keep: bool = True) -> None:
        self._theirs = gradients
        self._keep = keep
        self._marks = {} if keep else {name: _mark(gradient) for name, gradient in gradients.items()}
        self.gradients = {name: gradient.copy() for name, gradient in gradients.items()} if keep else gradients
        self.undo_log = UndoLog()
        self.written: set[str] = set()
        self._streams = GLOBAL_STREAMS()
        self._restore = snapshot()
        self._looks = LOOKS if keep else 0
        self._is_back = False

    def restore(self) -> None:
        """Put back the state that an evaluation disturbs."""
        self._restore()
        # The last evaluation of a check is where the gradients are of, and writes what was there before.
        if self._looks and not self.written:
            self._looks -= 1
            self.written |= {name for name in self._theirs if self._is_written(name)}

    def require_intact(self) -> None:
        """Refuse to go on where gradients of which there are no copies have been written to.

        Raises:
            ValueError: they have; the message names them.
        """
        written = [name for name in self._marks if self._is_written(name)]
        if written:
            raise ValueError(
                f"the loss wrote to the gradients of {', '.join(written)}, which it did not do at the guard's first "
                "check, so that no copies were kept and this step's gradients are lost; give the guard a loss that "
                "only evaluates, or one that does the same at every call"
            )

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of some work, after which everything is as it was."""
        return done_after(work, self._put_back)

    def _put_back(self) -> None:
        """All of it, the parameters first, also where some of it fails."""
        if self._is_back:
            return
        with ExitStack() as steps:
            for step in (self._put_back_gradients, self._streams, self._restore, self.undo_log.restore):
                steps.callback(step)
        self._is_back = True

    def _put_back_gradients(self) -> None:
        for name, gradient in self._theirs.items() if self._keep else ():
            if self._is_written(name):
                self.written.add(name)
                gradient[...] = self.gradients[name]

    def _is_written(self, name: str) -> bool:
        gradient = self._theirs[name]
        if self._keep:
            return not reductions.same_bits(gradient, self.gradients[name])
        return _mark(gradient) != self._marks[name]


def _mark(array: Array) -> int:
    """A number that is another one, in all likelihood, where an entry is."""
    return reduce(lambda mark, piece: zlib.crc32(piece, mark), reductions.byte_blocks(array), 0)
