"""Many copies of the parameters in one call of the loss, by `torch.func.vmap`.

The loss is the user's as it stands, `lambda: criterion(model(x), y)`: wherever it hands a parameter to PyTorch, a copy
stands in for it, and vmap makes each operation one on all copies. So do copies of the buffers, which it may write
to. Random numbers are the same for all.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from gradguard.integrations.torch.overrides.double import StandingIn
from gradguard.integrations.torch.overrides.forward_mode import dual
from gradguard.integrations.torch.overrides.functions import SeenThrough
from gradguard.loss.batching import MOST
from gradguard.perturbation.protocols import PerturbedTensor

BYTES = 2**28  # of all that a call computes
NO_RULE = "There is a performance drop"  # how PyTorch begins to say that vmap has none for an operation


@dataclass(slots=True)
class Room:
    """How many copies there is room for.

    Attributes:
        tensors: Bytes of all the tensors that may be copied.
        returned: Bytes of all that the operations of a loss return for one copy; unknown before the first call.
    """

    tensors: int
    returned: int | None = None

    def at_most(self) -> int:
        """As many as one call may take; of a loss that is not known, few."""
        return 2 if self.returned is None else min(MOST, BYTES // max(1, self.tensors + self.returned))


@dataclass(frozen=True, slots=True)
class Copied:
    """A parameter, and copies of it on a leading axis.

    Attributes:
        live: The parameter.
        copies: The copies.
        tangents: Theirs, where they have any.
    """

    live: Tensor
    copies: Tensor
    tangents: Tensor | None = None

    def handed(self) -> Tensor:
        """What the loss is handed: in forward mode, made where that is entered."""
        return self.copies if self.tangents is None else dual(self.copies, self.tangents)


class Vectorized:
    """Copies of some parameters on a leading axis: `gradguard.perturbation.protocols.Copies`.

    Args:
        copied: The parameters, each with as many copies.
        places: Of each copy the one tensor that may be moved.
        mode: Makes what the loss is evaluated in.
        buffers: Those that the loss may write to, when they are asked for.
        room: What is told of how much a call computes.

    Attributes:
        places: As given.
    """

    def __init__(
        self,
        copied: Sequence[Copied],
        places: Sequence[PerturbedTensor],
        mode: Callable[[], StandingIn],
        buffers: Callable[[], Iterable[Tensor]],
        room: Room,
    ) -> None:
        self.places = places
        self._copied = copied
        self._made = mode
        self._mode = mode()
        self._buffers = buffers
        self._room = room

    @property
    def arrays(self) -> "Vectorized":
        """What the loss is handed: an evaluation asks for `losses`."""
        return self

    def presented(self) -> AbstractContextManager[object]:
        """What the loss is evaluated in: a mode that has not seen other copies yet."""
        self._mode = self._made()
        return _Within(self._mode)

    def losses(self, loss: Callable[[], object]) -> Tensor:
        """The losses of all copies, shape (K, ...), in one call."""
        count, mode = len(self.places), self._mode
        written = [buffer for buffer in self._buffers() if buffer.is_floating_point()]
        buffers = [mode.exact(buffer).detach() for buffer in written]
        twins = [buffer.expand(count, *buffer.shape).clone() for buffer in buffers]
        mode.is_vectorised = True

        lives, copies = zip(*((each.live, each.handed()) for each in self._copied), strict=True)

        def one(*twins: Tensor) -> Any:
            for live, twin in zip((*lives, *written), twins, strict=True):
                mode.stand_in(live, twin)
            return loss()

        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=NO_RULE)  # else it would go from copy to copy, slowly
            found: Tensor = torch.func.vmap(one, randomness="same")(*copies, *twins)
        self._room.returned = mode.returned
        return found


class _Within(AbstractContextManager[None]):
    """A mode, in which Functions are seen through."""

    def __init__(self, mode: StandingIn) -> None:
        self._mode = mode
        self._functions = SeenThrough(mode, "vmap")

    def __enter__(self) -> None:
        self._functions.__enter__()
        self._mode.__enter__()  # type: ignore[no-untyped-call]  # PyTorch's

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self._functions.__exit__(kind, error, trace)
