"""The state that a loss can reach, as it was before a check: what the loss writes there is put back after it."""

import signal
import threading
from collections.abc import Callable, Collection, Iterable
from typing import Any, Self

from gradguard.environment.held import Held, HeldChecksum, HeldDict
from gradguard.environment.reach import Limits, Place, Reach

# Of a first check all is held that fits; it finds out to which places the loss writes.
FIRST = Limits(20_000, 100_000, array_bytes=2**26, own_bytes=2**20, copied_bytes=2**26, checked_bytes=2**30)
# Later checks hold these places, and what is near and small.
LATER = Limits(objects=300, items=256, array_bytes=2**12, own_bytes=2**12, copied_bytes=2**16)


class NotPutBackError(ValueError):
    """Something has changed of which there was no copy."""


class ReachedState:
    """What a loss can reach, as it was when this was made.

    Args:
        held: What is held, with its place.
        known: The places to which the loss wrote at earlier checks.
        own: The places of parameters and gradients, which a check puts back whoever changes them.

    Attributes:
        written: The places to which the loss wrote; complete after `put_back`.
    """

    def __init__(
        self,
        held: Iterable[tuple[Place, Held]] = (),
        known: Collection[Place] = (),
        own: Collection[Place] = (),
    ) -> None:
        self._held = list(held)
        self._known = known
        self._own = own
        self.written: set[Place] = set()
        self._lost: set[Place] = set()

    @classmethod
    def of(
        cls, loss: object, params: object, own: Iterable[object] = (), written: Collection[Place] | None = None
    ) -> Self:
        """The state that a loss and its parameters reach.

        Args:
            loss: The loss.
            params: The container of the parameters.
            own: The parameters and gradients, of which a check has copies already.
            written: The places to which the loss wrote at earlier checks; None at the first check.
        """
        identities = frozenset(map(id, own))
        reach = Reach(FIRST, own=identities) if written is None else Reach(LATER, written, identities)
        return cls(reach.walk([("loss", loss), ("params", params)]), written or (), reach.own_places)

    def attribute(self, evaluate: Callable[[], object]) -> None:
        """Find out what others than the loss have changed, by two more evaluations, and let that stand.

        A signal handler sets a flag on the trainer, or a thread fills a buffer. One evaluation starts from what was
        found and one from what was before; what neither changes was not the loss's doing. A loss that writes the same
        each time changes nothing in one of them. They are made only where there are others.

        Args:
            evaluate: Evaluates the loss at the unperturbed parameters.
        """
        changed = [index for index, (place, held) in enumerate(self._held) if self._is_news(place, held)]
        if not (changed and _are_others()):
            return
        found = {index: self._held[index][1].again() for index in changed}
        evaluate()
        by_loss = {index: _changes(held) for index, held in found.items()}
        for index in changed:
            self._held[index][1].put_back()
        evaluate()
        for index in changed:
            self._accept_of_others(index, found[index], by_loss[index])

    def _is_news(self, place: Place, held: Held) -> bool:
        """Whether something has changed to which the loss is not known to write, and which others may have changed."""
        if place in self._own or not held.is_changed():
            return False
        if isinstance(held, HeldDict):
            return any((*place, str(name)) not in self._known for name in held.changed_names())
        return place not in self._known

    def _accept_of_others(self, index: int, found: Held, by_loss: set[Any]) -> None:
        """Let what the loss did not change be as it was found.

        Args:
            index: Of what is held.
            found: It as it was found.
            by_loss: What the loss changed of that.
        """
        place, held = self._held[index]
        by_loss = by_loss | _changes(held)
        if isinstance(held, HeldDict) and isinstance(found, HeldDict):
            for name in (found.names | held.names) - by_loss:
                if (*place, str(name)) not in self._known:
                    held.accept(name, found.value(name))
        elif not by_loss:
            self._held[index] = (place, found)
            found.put_back()

    def put_back(self) -> None:
        """Put back all that has changed; calling it again does no harm."""
        for place, held in self._held:
            if held.is_changed():
                self.written.add(place)
                if isinstance(held, HeldDict):
                    self.written |= {(*place, str(name)) for name in held.changed_names()}
                if isinstance(held, HeldChecksum):
                    self._lost.add(place)
                held.put_back()

    def require_put_back(self) -> None:
        """Refuse to go on where something has changed of which there was no copy.

        Raises:
            NotPutBackError: It has; the message names it.
        """
        if self._lost:
            names = ", ".join(sorted(".".join(place[1:]) for place in self._lost))
            raise NotPutBackError(
                f"the loss writes to {names}; these arrays are too large to be copied, and this check changed them.\n"
                "Pass snapshot=..., a callable that saves these arrays and returns the callable that restores them, or "
                "a loss that writes to nothing"
            )


def _changes(held: Held) -> set[Any]:
    """What of a container is not as it was: the names that it has, or all of it."""
    if isinstance(held, HeldDict):
        return held.changed_names()
    return {...} if held.is_changed() else set()


def _are_others() -> bool:
    """Whether other threads, or signal handlers of the user, may write to what the loss can reach."""
    if threading.active_count() > 1:
        return True
    handlers = map(signal.getsignal, signal.Signals)
    return any(callable(handler) and handler is not signal.default_int_handler for handler in handlers)
