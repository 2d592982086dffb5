"""The state that a loss can reach, as it was before a check: what the loss writes there is put back after it."""

from collections.abc import Collection
from typing import Self

from gradguard.environment.held import Held, HeldChecksum
from gradguard.environment.reach import Limits, Place, Reach

# Of a first check all is held that fits; it finds out to which places the loss writes.
FIRST = Limits(objects=20_000, items=100_000, array_bytes=2**26, copied_bytes=2**26, checked_bytes=2**30)
# Later checks hold these places, and what is near and small.
LATER = Limits(objects=300, items=256, array_bytes=2**12, copied_bytes=2**16)


class ReachedState:
    """What a loss can reach, as it was when this was made.

    Args:
        held: What is held, with its place.

    Attributes:
        written: The places to which the loss wrote; complete after `put_back`.
    """

    def __init__(self, held: Collection[tuple[Place, Held]] = ()) -> None:
        self._held = held
        self.written: set[Place] = set()
        self._lost: set[Place] = set()

    @classmethod
    def of(cls, loss: object, params: object, written: Collection[Place] | None = None) -> Self:
        """The state that a loss and its parameters reach.

        Args:
            loss: The loss.
            params: The container of the parameters.
            written: The places to which the loss wrote at earlier checks; None at the first check.
        """
        reach = Reach(FIRST) if written is None else Reach(LATER, written)
        return cls(reach.walk([("loss", loss), ("params", params)]))

    def put_back(self) -> None:
        """Put back all that has changed; calling it again does no harm."""
        for place, held in self._held:
            if held.is_changed():
                self.written.add(place)
                if isinstance(held, HeldChecksum):
                    self._lost.add(place)
                held.put_back()

    def require_put_back(self) -> None:
        """Refuse to go on where something has changed of which there was no copy.

        Raises:
            ValueError: It has; the message names it.
        """
        if self._lost:
            names = ", ".join(sorted(".".join(place[1:]) for place in self._lost))
            raise ValueError(
                f"the loss writes to {names}, arrays too large for gradguard to keep copies of, and this check has "
                "changed them; pass snapshot=... with a callable that keeps what the loss writes to and returns the "
                "callable that puts it back, or give the guard a loss that only evaluates"
            )
