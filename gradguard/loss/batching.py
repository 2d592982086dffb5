"""Losses that take many copies of the parameters in one call, and how the copies are stacked for them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Array
from gradguard.loss.signature import Loss, takes_parameters
from gradguard.perturbation import Copies, PerturbedArray, Space

MAX_COPIES = 512  # in one call: more of them no longer fit a processor's cache
MAX_BYTES = 2**26  # of all parameters together, in one call
# Copies in a call of a loss that is compiled anew for each number of them: at most four times as many as are needed.
FIXED_COUNTS = (8, 32)


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
    out whether it is any faster. Where the loss is compiled anew for each K, calls are padded to few values of K.

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
        rows: The number of copies; those after the last tensor are not moved.
    """

    arrays: dict[str, Array]
    tensors: Sequence[PerturbedArray]
    rows: int

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Sequence[str], rows: int) -> "Stack":
        """One copy for each name, in which the tensor of that name may be moved, and further copies up to `rows`."""
        stacked = _repeated(arrays, set(names), rows)
        tensors = [PerturbedArray(stacked[name][row, ...], arrays[name]) for row, name in enumerate(names)]
        return cls(stacked, tensors, rows)

    def installed(self) -> AbstractContextManager[object]:
        """Nothing to install: the loss is called with the arrays."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class JointStack:
    """Copies on a leading axis, in each of which several tensors may be moved.

    Attributes:
        arrays: What the loss is called with.
        tensors: For each copy, the tensors that may be moved, by name.
        rows: The number of copies; those after the last tensors are not moved.
    """

    arrays: dict[str, Array]
    tensors: Sequence[Mapping[str, PerturbedArray]]
    rows: int

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Sequence[str], count: int, rows: int) -> "JointStack":
        """Some copies, in which the named tensors may be moved, and further copies up to `rows`."""
        stacked = _repeated(arrays, names, rows)
        tensors = [
            {name: PerturbedArray(stacked[name][row, ...], arrays[name]) for name in names} for row in range(count)
        ]
        return cls(stacked, tensors, rows)

    def installed(self) -> AbstractContextManager[object]:
        """Nothing to install: the loss is called with the arrays."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class StackFactory:
    """Makes stacks of the tensors of a space: `gradguard.perturbation.protocols.CopyFactory`.

    Attributes:
        space: The space.
        pads: Whether calls take only a few fixed numbers of copies.
    """

    space: Space
    pads: bool = False

    def max_copies(self) -> int:
        """How many copies one call of the loss may take."""
        most = max_copies(self.space.arrays)
        return min(most, FIXED_COUNTS[-1]) if self.pads else most

    def copies(self, names: Sequence[str]) -> Copies:
        """One copy for each name, in which the tensor of that name may be moved."""
        return Stack.of(self.space.arrays, names, self._rows(len(names)))

    def joint_copies(self, names: Sequence[str], count: int) -> JointStack:
        """Some copies, in which the named tensors may be moved."""
        return JointStack.of(self.space.arrays, names, count, self._rows(count))

    def _rows(self, count: int) -> int:
        if not self.pads:
            return count
        return min(self.max_copies(), next(fixed for fixed in FIXED_COUNTS if count <= fixed))


def _repeated(arrays: Mapping[str, Array], moved: Iterable[str], rows: int) -> dict[str, Array]:
    """The arrays on one more leading axis: of those that are moved copies in memory, of the others views."""
    stacked = {name: np.broadcast_to(array, (rows, *array.shape)) for name, array in arrays.items()}
    return stacked | {name: stacked[name].copy() for name in moved}


def max_copies(arrays: Mapping[str, Array]) -> int:
    """How many copies of the parameters one call of the loss may take."""
    return int(min(MAX_COPIES, max(4, MAX_BYTES // max(1, sum(array.nbytes for array in arrays.values())))))
