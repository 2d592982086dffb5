"""The exact derivative of a loss, by PyTorch's forward mode: no backward pass has a part in it.

Each operation has a derivative of its own there. That of a custom Function is its `jvp`, or made of the operations of
its forward pass: one made of its `backward` would agree with it whatever that does.
"""

import contextlib
import warnings
from collections.abc import Iterable
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack

from gradguard.arrays.types import Array
from gradguard.integrations.torch.overrides.double import DATA, InDouble
from gradguard.integrations.torch.overrides.functions import SeenThrough

BESIDE = 2.0**-50  # of a number, which is the fourth next one at least
DETACHING = frozenset({torch.detach, Tensor.detach}) | DATA


class PerturbedTangent:
    """A float64 tensor and its tangent; a move sets that, and takes the tensor to that side of where it stood.

    Args:
        tensor: The tensor.
        tangent: 0.
        saved: The unmoved values.
    """

    def __init__(self, tensor: Tensor, tangent: Tensor, saved: Tensor) -> None:
        self.tensor = tensor
        self.tangent = tangent
        self._saved = saved

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """A tensor where it is."""
        return cls(tensor, torch.zeros_like(tensor), tensor.clone())

    def dual(self) -> Tensor:
        """Both in one."""
        return dual(self.tensor, self.tangent)

    @cached_property
    def base(self) -> Array:
        """The unmoved values."""
        values: Array = self._saved.cpu().numpy()
        return values

    def write(self, values: Array) -> None:
        """Set all of the tangent."""
        self.tangent.copy_(self._sent(values))
        self.tensor.copy_(_beside(self._saved, self.tangent))

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Set it to amount x vector; the products of that with vector and gradient."""
        moved = amount * vector.astype(np.float64)
        self.write(moved)
        return float(np.vdot(moved, vector)), float(np.vdot(moved, gradient))

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Set that of one entry; the others are 0."""
        self.tangent[index] = amount
        self.tensor[index] = _beside(self._saved[index], self.tangent[index])
        return amount

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """No tangent, of all or of one entry."""
        where = ... if index is None else index
        self.tangent[where] = 0
        self.tensor[where] = self._saved[where]

    def _sent(self, values: Array) -> Tensor:
        return torch.as_tensor(np.asarray(values, np.float64)).reshape(self.tensor.shape)


def _beside(tensor: Tensor, tangent: Tensor) -> Tensor:
    """The next numbers on the side that the tangent points to: a corner shows there, and nothing else does."""
    return tensor + tangent + BESIDE * tangent.sign() * tensor.abs()


class InDual(InDouble):
    """While it is entered, float64 copies stand in for all tensors, and one of them carries a tangent.

    What detaches a tensor from a graph of autograd's does not detach it from the loss: its tangent goes on.

    Args:
        pairs: Tensors, and what stands in for each.
        usual: The dtype of the training.
        moving: The tensor that is moved, and where it and its tangent are; None where none is.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        usual: torch.dtype,
        moving: tuple[Tensor, PerturbedTangent] | None = None,
    ) -> None:
        super().__init__(pairs, usual)
        self._moving = moving
        self._functions = SeenThrough(self, "jvp")
        self._is_open = False

    def __enter__(self) -> Self:
        try:
            self._is_open = True
            forward_ad.enter_dual_level()  # type: ignore[no-untyped-call]  # nor are the next ones typed
            if self._moving is not None:
                live, place = self._moving
                self.stand_in(live, place.dual())
            self._functions.__enter__()
            super().__enter__()  # type: ignore[no-untyped-call]
        except BaseException:  # everything, interrupts too: what is half entered is left before it goes on
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._functions.__exit__(kind, error, trace)
        if self._is_open:
            with contextlib.suppress(RuntimeError):  # an interrupt came before the level was entered
                forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
            self._is_open = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DETACHING:
            tensor = self.exact(args[0])
            return tensor.view_as(tensor)
        return super().__torch_function__(func, types, args, kwargs)


def dual(tensor: Tensor, tangent: Tensor) -> Tensor:
    """A tensor that carries a tangent."""
    made: Tensor = forward_ad.make_dual(tensor, tangent)  # type: ignore[no-untyped-call]
    return made


def prepare() -> None:
    """Have PyTorch load what its first dual tensor needs, which takes a while and warns of PyTorch's own code."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        dual(torch.zeros(()), torch.zeros(()))


def told(result: object) -> object:
    """What a loss returned; the tangent of that where it was given tangents.

    Raises:
        TypeError: Then it must return a tensor.
    """
    if not any(isinstance(mode, InDual) for mode in _get_current_function_mode_stack()):  # type: ignore[no-untyped-call]
        return result
    if not isinstance(result, Tensor):
        raise TypeError(f"the loss returned a {type(result).__name__}, which carries no tangent; expected a tensor")
    tangent = forward_ad.unpack_dual(result).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(result) if tangent is None else tangent
