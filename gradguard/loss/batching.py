"""A loss that takes many copies of the parameters in one call, and how they are stacked for it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from gradguard.arrays.types import Array
from gradguard.perturbation.protocols import Copies, Space
from gradguard.perturbation.spaces import PerturbedArray

MOST = 512  # copies in a call: more of them no longer stay in a processor's cache
BYTES = 2**26  # of all parameters together, in a call


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
    """Copies of some tensors on a leading axis, among the others, which are repeated along it without a copy.

    Attributes:
        arrays: What the loss is handed.
        places: Of each copy the one tensor that may be moved in it.
    """

    arrays: dict[str, Array]
    tensors: Sequence[PerturbedArray]

    @classmethod
    def of(cls, arrays: Mapping[str, Array], names: Sequence[str]) -> "Stack":
        """As many copies as there are names: each is to move the tensor of its name."""
        stacked = {other: np.broadcast_to(array, (len(names), *array.shape)) for other, array in arrays.items()}
        stacked |= {name: stacked[name].copy() for name in set(names)}
        return cls(stacked, [PerturbedArray(stacked[name][row, ...], arrays[name]) for row, name in enumerate(names)])

    def installed(self) -> AbstractContextManager[object]:
        """Nothing: the loss is handed the arrays."""
        return nullcontext()


@dataclass(frozen=True, slots=True)
class Stacks:
    """Stacks of the tensors of a space: `gradguard.perturbation.protocols.CopyFactory`."""

    space: Space

    def max_copies(self) -> int:
        """How many one call may take."""
        return max_copies(self.space.arrays)

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies, of each of which the tensor of its name is to be moved."""
        return Stack.of(self.space.arrays, names)


def max_copies(arrays: Mapping[str, Array]) -> int:
    """How many copies of the parameters one call may take."""
    return int(min(MOST, max(4, BYTES // max(1, sum(array.nbytes for array in arrays.values())))))
