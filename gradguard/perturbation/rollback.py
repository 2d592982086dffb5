"""All that a check disturbs, and how it is put back whatever ends the check, at any point.

An exception from a signal handler may come between any two calls of Python code, even at the beginning of an
`__exit__`, so a `with` alone guarantees nothing. So every change is logged before it is made and undone once more at
the end. Further signals may come during that: every step that restores can be repeated, and several nested calls stand
ready to do so.
"""

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from typing import TypeVar

import numpy as np

from gradguard.arrays import Array, reductions
from gradguard.environment import NotPutBackError, Place, ReachedState, checksum
from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.protocols import MovableParameters
from gradguard.perturbation.snapshots import Snapshot, combined_snapshot, snapshot_rng

Result = TypeVar("Result")
GRADIENT_COMPARISONS = 6  # evaluations before which gradients are compared: most of them are at moved parameters
MAX_INTERRUPTS = 8  # signals during a cleanup after which everything is still cleaned up
GLOBAL_STREAMS = combined_snapshot([snapshot_rng(np.random), snapshot_rng(random)])


def run_with_cleanup(
    work: Callable[[], Result], cleanup: Callable[[], object], interrupts: int = MAX_INTERRUPTS
) -> Result:
    """The result of some work, after which `cleanup` has run to its end, whatever ends the work and wherever.

    Args:
        work: Called first.
        cleanup: Called then, again and again until it was not interrupted; calling it once more must do no harm.
        interrupts: How many interrupts of `cleanup` are survived.
    """
    # The handler of an exception may itself be interrupted before its first line. So all frames that may have to
    # clean up are entered before the work: each interrupt ends one of them, and the next one cleans up.
    try:
        return run_with_cleanup(work, cleanup, interrupts - 1) if interrupts else work()
    finally:
        cleanup()


class Rollback:
    """Everything that a check may disturb, as it was before the check.

    Args:
        gradients: The user's arrays.
        snapshot: Of the state that an evaluation of the loss disturbs.
        keep: Whether to keep copies of the gradients: a loss that runs the backward pass too writes to them.
        reached: The state that the loss can reach.

    Attributes:
        gradients: Copies of the user's gradients, or the user's arrays themselves.
        undo_log: Where the check records what it moves.
        written: Names of the gradients that the loss has written to; complete after `run`.
        reached: As given.
    """

    def __init__(
        self,
        gradients: Mapping[str, Array],
        snapshot: Snapshot,
        *,
        keep: bool = True,
        reached: ReachedState | None = None,
    ) -> None:
        self.reached = ReachedState() if reached is None else reached
        self._live_gradients = gradients
        self._keep = keep
        self._checksums = {} if keep else {name: checksum(gradient) for name, gradient in gradients.items()}
        self.gradients = {name: gradient.copy() for name, gradient in gradients.items()} if keep else gradients
        self.undo_log = UndoLog()
        self.written: set[str] = set()
        self._restore_streams = GLOBAL_STREAMS()
        self._restore_state = snapshot()
        self._comparisons = GRADIENT_COMPARISONS if keep else 0
        self._is_restored = False

    def restore(self) -> None:
        """Put back the state that an evaluation disturbs; called before each evaluation."""
        self._restore_state()
        # At the end it would be too late: the last evaluation, at unmoved parameters, writes the same gradients again.
        if self._comparisons and not self.written:
            self._comparisons -= 1
            self.written |= {name for name in self._live_gradients if self._is_written(name)}

    def require_intact(self) -> None:
        """Refuse to go on if something has been written to of which there is no copy.

        Raises:
            NotPutBackError: It has; the message names it.
        """
        self.reached.require_put_back()
        written = [name for name in self._checksums if self._is_written(name)]
        if written:
            raise NotPutBackError(
                f"the loss wrote to the gradients of {', '.join(written)}, which it did not do at the first check; the "
                "gradients of this step are lost, since they had no copies.\n"
                "Pass a loss that writes to nothing, or one that does the same at every call"
            )

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of some work, after which everything is as it was; several works may follow each other."""
        self._is_restored = False
        return run_with_cleanup(work, self._put_back)

    def _put_back(self) -> None:
        """Restore everything, the parameters first; an error in one step does not stop the others."""
        if self._is_restored:
            return
        with ExitStack() as steps:
            for step in (
                self.reached.put_back,  # last: it puts back the very objects, where a snapshot assigned copies
                self._put_back_gradients,
                self._restore_streams,
                self._restore_state,
                self.undo_log.restore,
            ):
                steps.callback(step)
        self._is_restored = True

    def _put_back_gradients(self) -> None:
        for name, gradient in self._live_gradients.items() if self._keep else ():
            if self._is_written(name):
                self.written.add(name)
                gradient[...] = self.gradients[name]

    def _is_written(self, name: str) -> bool:
        gradient = self._live_gradients[name]
        if self._keep:
            return not reductions.same_bits(gradient, self.gradients[name])
        return checksum(gradient) != self._checksums[name]


def reached_state(
    loss: object, params: object, own: Iterable[object], written: Collection[Place] | None = None
) -> ReachedState:
    """The state that a loss can reach; none where the parameters are of a framework, whose integration holds it.

    Args:
        loss: The loss.
        params: The container of the parameters.
        own: The parameters and gradients.
        written: The places to which the loss wrote at earlier checks; None at the first check.
    """
    return ReachedState() if isinstance(params, MovableParameters) else ReachedState.of(loss, params, own, written)
