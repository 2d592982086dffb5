"""The losses at many copies of the parameters in one call of the user's loss, by `torch.func.vmap`.

The loss is the user's as it stands, `lambda: criterion(model(x), y)`: wherever it passes a parameter to PyTorch, the
operation receives a copy instead, and vmap turns each operation into one on all copies. Buffers that the loss may write
to are copied too. Random numbers are the same for all copies.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from gradguard.integrations.torch.overrides.autograd_functions import InlinedFunctions
from gradguard.integrations.torch.overrides.forward_mode import make_dual
from gradguard.integrations.torch.overrides.substitution import SubstitutionMode
from gradguard.loss import MAX_COPIES
from gradguard.perturbation import PerturbedTensor

MAX_BYTES_PER_CALL = 2**28
"""Memory of the copies, and of all tensors that the operations of one call return: 256 MiB."""
FIRST_COPIES = 2
"""Copies in the first call, after which it is known how much memory the loss takes for each."""
NO_RULE_WARNING = "There is a performance drop"
"""The beginning of PyTorch's warning that vmap has no rule for an operation and loops over the copies."""


@dataclass(slots=True)
class CopyLimit:
    """How many copies of the parameters fit into one call.

    Attributes:
        parameter_bytes: Bytes of all tensors that may be copied.
        returned_bytes: Bytes that the operations of the loss return for one copy; None before the first call.
    """

    parameter_bytes: int
    returned_bytes: int | None = None

    def max_copies(self) -> int:
        """The largest number of copies in one call."""
        if self.returned_bytes is None:
            return FIRST_COPIES
        return min(MAX_COPIES, MAX_BYTES_PER_CALL // max(1, self.parameter_bytes + self.returned_bytes))


@dataclass(frozen=True, slots=True)
class StackedParameter:
    """A parameter, and K copies of it.

    Attributes:
        live: The parameter.
        copies: The copies, shape (K, *live.shape).
        tangents: The tangents of the copies, of the same shape; None outside of forward mode.
    """

    live: Tensor
    copies: Tensor
    tangents: Tensor | None = None

    def substitute(self) -> Tensor:
        """The copies, as dual tensors where they have tangents: those are valid within the current dual level."""
        return self.copies if self.tangents is None else make_dual(self.copies, self.tangents)


class VectorizedCopies:
    """K copies of some parameters: `gradguard.perturbation.protocols.Copies`.

    Args:
        stacked: The parameters, each with its K copies.
        tensors: For each copy, the one tensor in it that may be perturbed.
        make_mode: Makes the mode in which the loss is evaluated.
        buffers: Returns the buffers that the loss may write to.
        limit: Learns how much memory the loss takes.

    Attributes:
        tensors: As given.
    """

    def __init__(
        self,
        stacked: Sequence[StackedParameter],
        tensors: Sequence[PerturbedTensor],
        make_mode: Callable[[], SubstitutionMode],
        buffers: Callable[[], Iterable[Tensor]],
        limit: CopyLimit,
    ) -> None:
        self.tensors = tensors
        self._stacked = stacked
        self._make_mode = make_mode
        self._mode = make_mode()
        self._buffers = buffers
        self._limit = limit

    @property
    def rows(self) -> int:
        """How many losses one call returns."""
        return len(self.tensors)

    @property
    def arrays(self) -> "VectorizedCopies":
        """The argument of the loss, which calls `losses`."""
        return self

    def installed(self) -> AbstractContextManager[object]:
        """The context in which the loss is evaluated: a new mode, which knows no other copies yet."""
        self._mode = self._make_mode()
        return _ModeContext(self._mode)

    def losses(self, loss: Callable[[], object]) -> Tensor:
        """The losses of all copies in one call of `loss`, shape (K, ...)."""
        count, mode = len(self.tensors), self._mode
        written = [buffer for buffer in self._buffers() if buffer.is_floating_point()]
        starts = [mode.substitute(buffer).detach() for buffer in written]
        buffers = [start.expand(count, *start.shape).clone() for start in starts]
        mode.is_vectorized = True

        parameters = [each.live for each in self._stacked]
        copies = [each.substitute() for each in self._stacked]

        def loss_of_copy(*substitutes: Tensor) -> Any:
            for tensor, substitute in zip((*parameters, *written), substitutes, strict=True):
                mode.add_substitute(tensor, substitute)
            return loss()

        with warnings.catch_warnings(record=True) as warned:
            # As an error within PyTorch, it would be printed with its traceback where another one follows.
            warnings.filterwarnings("always", message=NO_RULE_WARNING)
            losses: Tensor = torch.func.vmap(loss_of_copy, randomness="same")(*copies, *buffers)
        _refuse_slow_loops(warned)
        self._limit.returned_bytes = mode.bytes_returned
        return losses


def _refuse_slow_loops(warned: Iterable[warnings.WarningMessage]) -> None:
    """Refuse a loss for which vmap loops over the copies; show other warnings.

    Raises:
        RuntimeError: It has warned that it does.
    """
    for each in warned:
        if str(each.message).startswith(NO_RULE_WARNING):
            raise RuntimeError(str(each.message))
        warnings.showwarning(each.message, each.category, each.filename, each.lineno)


class _ModeContext(AbstractContextManager[None]):
    """A mode, with custom Functions inlined where they have no rule for vmap."""

    def __init__(self, mode: SubstitutionMode) -> None:
        self._mode = mode
        self._functions = InlinedFunctions(mode, "vmap")

    def __enter__(self) -> None:
        self._functions.__enter__()
        self._mode.__enter__()  # type: ignore[no-untyped-call]  # PyTorch's

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)
        self._functions.__exit__(kind, error, trace)
