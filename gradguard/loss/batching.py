"""Losses that take many copies of the parameters in one call, and how the copies are stacked for them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Array
from gradguard.loss.signature import Loss, takes_parameters
from gradguard.perturbation import Copies, PerturbedArray, Space

MAX_COPIES = 512  # in one call: more of them no longer fit a processor's cache
MAX_BYTES = 2**26  # of all parameters together, in one call


@dataclass(frozen=True, slots=True)
class Batched:
    """A loss marked by `batched`.

    Attributes:
        loss: `loss(params)`.
    """

    loss: Callable[[Mapping[str, Array]], object]

    def __call__(self, params: Mapping[str, Array]) -> object:
        """The loss, or the losses of as many copies as the arrays have on their leading axis."""
        return self.loss(params)


@dataclass(frozen=True, slots=True)
class _OfContainer:
    """A loss that is handed the parameters in the user's container, as a loss of a flat mapping."""

    loss: Loss
    filled: Callable[[Mapping[str, Array]], object]

    def __call__(self, params: Mapping[str, Array]) -> object:
        return self.loss(self.filled(params))


def loss_of_mapping(loss: Loss, filled: Callable[[Mapping[str, Array]], object] | None) -> Loss:
    """The loss as one that takes a flat mapping, if it takes the parameters.

    Args:
        loss: `loss()` or `loss(params)`.
        filled: Makes the container that the loss takes from a flat mapping; None where it takes the mapping.
    """
    if filled is None or not takes_parameters(loss):
        return loss
    return Batched(_OfContainer(loss.loss, filled)) if isinstance(loss, Batched) else _OfContainer(loss, filled)


def batched(loss: Callable[[Mapping[str, Array]], object]) -> Batched:
    """Mark a loss that takes many copies of the parameters at once: a check then needs a few calls of it.

    Each array of `params` may then have one more, leading axis of length K, and the loss returns K losses: an array of
    shape (K,), or (K, ...) where the losses are unreduced. NumPy's `@`, `[..., i]` and `axis=-1` do most of that by
    themselves; a bias is added as `b[..., None, :]`. The first check proves that it does so, for each tensor, and finds
    out whether it is any faster.

        guard = GradGuard(model.params, gradguard.batched(lambda params: model.loss(batch, params)))

    Raises:
        TypeError: `loss` is no callable.
    """
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; expected a callable, loss(params)")
    return Batched(loss)


@dataclass(frozen=True, slots=True)
class Stack:
    """Copies on a leading axis: of the moved tensors in memory, of all others as broadcast views.

    Attributes:
        arrays: What the loss is called with.
        tensors: The one tensor of each copy that may be moved.
    """

    arrays: dict[str, Array]
    tensors: Sequence[PerturbedArray]

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Sequence[str]) -> "Stack":
        """One copy for each name, in which the tensor of that name may be moved."""
        stacked = {other: np.broadcast_to(array, (len(names), *array.shape)) for other, array in arrays.items()}
        stacked |= {name: stacked[name].copy() for name in set(names)}
        return cls(stacked, [PerturbedArray(stacked[name][row, ...], arrays[name]) for row, name in enumerate(names)])

    def installed(self) -> AbstractContextManager[object]:
        """Nothing to install: the loss is called with the arrays."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class JointStack:
    """Copies on a leading axis, in each of which several tensors may be moved.

    Attributes:
        arrays: What the loss is called with.
        tensors: For each copy, the tensors that may be moved, by name.
    """

    arrays: dict[str, Array]
    tensors: Sequence[Mapping[str, PerturbedArray]]

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Sequence[str], count: int) -> "JointStack":
        """Some copies, in which the named tensors may be moved."""
        stacked = {other: np.broadcast_to(array, (count, *array.shape)) for other, array in arrays.items()}
        stacked |= {name: stacked[name].copy() for name in names}
        rows = [{name: PerturbedArray(stacked[name][row, ...], arrays[name]) for name in names} for row in range(count)]
        return cls(stacked, rows)

    def installed(self) -> AbstractContextManager[object]:
        """Nothing to install: the loss is called with the arrays."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class StackFactory:
    """Makes stacks of the tensors of a space: `gradguard.perturbation.protocols.CopyFactory`.

    Attributes:
        space: The space.
    """

    space: Space

    def max_copies(self) -> int:
        """How many copies one call of the loss may take."""
        return max_copies(self.space.arrays)

    def copies(self, names: Sequence[str]) -> Copies:
        """One copy for each name, in which the tensor of that name may be moved."""
        return Stack.of(self.space.arrays, names)


def max_copies(arrays: Mapping[str, Array]) -> int:
    """How many copies of the parameters one call of the loss may take."""
    return int(min(MAX_COPIES, max(4, MAX_BYTES // max(1, sum(array.nbytes for array in arrays.values())))))
