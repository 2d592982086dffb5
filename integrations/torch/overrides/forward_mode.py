"""Exact directional derivatives of a loss, without a backward pass, by PyTorch's forward mode (`forward_ad`).

Forward mode has a derivative for every operation. For a custom Function it uses the Function's own `jvp`, or the
operations of its forward pass. It never derives one from the Function's `backward`: such a derivative would agree with
the gradient whatever `backward` computes.
"""

import contextlib
import warnings
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from gradguard.arrays import Array
from gradguard.integrations.torch.overrides.autograd_functions import InliningMode
from gradguard.integrations.torch.overrides.substitution import DETACHING_FUNCTIONS

SIDE_OFFSET = 2.0**-50
"""Relative distance by which an entry moves to the side that its tangent points to: 4 to 8 spacings of float64."""


class PerturbedTangent:
    """A `PerturbedTensor` in forward mode: a displacement sets the tangent and moves the tensor just to that side.

    Args:
        tensor: The float64 tensor.
        tangent: Zeros of the same shape.
        saved: The unperturbed values.
    """

    def __init__(self, tensor: Tensor, tangent: Tensor, saved: Tensor) -> None:
        self.tensor = tensor
        self.tangent = tangent
        self._saved = saved

    @classmethod
    def of(cls, tensor: Tensor) -> Self:
        """A tensor with a zero tangent."""
        return cls(tensor, torch.zeros_like(tensor), tensor.clone())

    def dual(self) -> Tensor:
        """The tensor with its tangent, as one dual tensor."""
        return make_dual(self.tensor, self.tangent)

    @cached_property
    def base(self) -> Array:
        """The unperturbed values."""
        values: Array = self._saved.cpu().numpy()
        return values

    def write(self, values: Array) -> None:
        """Set the whole tangent."""
        self.tangent.copy_(torch.as_tensor(np.asarray(values, np.float64)).reshape(self.tensor.shape))
        self.tensor.copy_(_moved_to_side(self._saved, self.tangent))

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Set the tangent to amount x vector; its products with vector and gradient."""
        tangent = amount * vector.astype(np.float64)
        self.write(tangent)
        return float(np.vdot(tangent, vector)), float(np.vdot(tangent, gradient))

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Set one entry of the tangent, whose other entries are 0."""
        self.tangent[index] = amount
        self.tensor[index] = _moved_to_side(self._saved[index], self.tangent[index])
        return amount

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write the unperturbed values and a zero tangent, everywhere or at one entry."""
        where = ... if index is None else index
        self.tangent[where] = 0
        self.tensor[where] = self._saved[where]


def _moved_to_side(tensor: Tensor, tangent: Tensor) -> Tensor:
    """The values just to the side that the tangent points to: only at a kink does the derivative differ there."""
    return tensor + tangent + SIDE_OFFSET * tangent.sign() * tensor.abs()


class DualTensorMode(InliningMode):
    """While it is active, operations receive float64 copies, some of which carry tangents.

    A function that detaches a tensor from autograd's graph does not detach it from the loss: it keeps the tangent.

    Args:
        pairs: Tensors, each with its substitute.
        training_dtype: The dtype of the training.
        perturbed: The live tensors that are perturbed, each with its copy that has a tangent.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        training_dtype: torch.dtype,
        perturbed: Sequence[tuple[Tensor, PerturbedTangent]] = (),
    ) -> None:
        super().__init__(pairs, training_dtype, "jvp")
        self._perturbed = perturbed
        self._is_open = False

    def _open(self) -> None:
        self._is_open = True
        forward_ad.enter_dual_level()  # type: ignore[no-untyped-call]  # nor are the next ones typed
        for live, copy in self._perturbed:
            self.add_substitute(live, copy.dual())

    def _close(self) -> None:
        if self._is_open:
            with contextlib.suppress(RuntimeError):  # an interrupt came before the dual level was entered
                forward_ad.exit_dual_level()  # type: ignore[no-untyped-call]
            self._is_open = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DETACHING_FUNCTIONS:
            tensor = self.substitute(args[0])
            return tensor.view_as(tensor)
        return super().__torch_function__(func, types, args, kwargs)

    def result_of(self, losses: object) -> object:
        """The tangent of the losses.

        Raises:
            TypeError: They are no tensor.
        """
        if not isinstance(losses, Tensor):
            raise TypeError(f"the loss returned a {type(losses).__name__}, which carries no tangent; expected a tensor")
        tangent = forward_ad.unpack_dual(losses).tangent  # type: ignore[no-untyped-call]
        return torch.zeros_like(losses) if tangent is None else tangent


def make_dual(tensor: Tensor, tangent: Tensor) -> Tensor:
    """A tensor that carries a tangent; it is valid within the current dual level."""
    dual: Tensor = forward_ad.make_dual(tensor, tangent)  # type: ignore[no-untyped-call]
    return dual


def load_forward_mode() -> None:
    """Make a first dual tensor, for which PyTorch loads modules: slowly, and with warnings about its own code."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore")
        make_dual(torch.zeros(()), torch.zeros(()))
