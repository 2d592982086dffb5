"""What can be perturbed: one tensor, the tensors of a model, and copies of them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from gradguard.arrays import Array, Float64


class PerturbedTensor(Protocol):
    """One tensor while it is moved; its dtype rounds what is written to it."""

    @property
    def base(self) -> Array:
        """Its unmoved values."""

    def write(self, values: Array) -> None:
        """Write all of it."""

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move it to `base` + amount x vector; the products of the realised displacement with vector and gradient."""

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; returns the displacement that the dtype made of it."""

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write its unmoved values, or that of one entry."""


@runtime_checkable
class PerturbedPart(Protocol):
    """What else a `PerturbedTensor` has of which each process moves its own part."""

    def displace_part(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the part of this process as `displace` does; what it adds to the products of the whole tensor."""

    def sum_parts(self, products: Float64) -> Float64:
        """The sums over the processes, of the same shape: of what the parts add to products, of any tensors."""


class Space(Protocol):
    """The tensors of a model in one precision: one or several at a time are moved while the loss is evaluated.

    A signal may interrupt whatever restores them, so its context managers can be left more than once, and before they
    were entered: however often that is, all is as it was.

    Attributes:
        precision: "native", "float64", "complex" or "forward".
    """

    precision: str

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays that the loss sees, by name."""

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was."""

    def installed(self) -> AbstractContextManager[object]:
        """A context manager in which the loss sees the arrays of this space."""


class Copies(Protocol):
    """K copies of the tensors, for one call of a loss that evaluates all of them."""

    @property
    def tensors(self) -> Sequence[PerturbedTensor]:
        """The one tensor of each copy that may be moved; it need not be restored."""

    @property
    def rows(self) -> int:
        """How many losses the call returns: one for each copy, and any number more, which are not used."""

    @property
    def arrays(self) -> Any:
        """What the loss is called with."""

    def installed(self) -> AbstractContextManager[object]:
        """A context manager in which the loss sees the copies."""


@runtime_checkable
class CopyFactory(Protocol):
    """What makes copies of the tensors; a space that is one can try them on a loss that was not written for them."""

    def max_copies(self) -> int:
        """How many copies one call of the loss may take."""

    def copies(self, names: Sequence[str]) -> Copies:
        """One copy for each name, in which the tensor of that name may be moved."""


@runtime_checkable
class MovableParameters(Protocol):
    """A mapping of parameters that moves them itself, where they are no arrays that NumPy can write to."""

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype among parameters and gradients."""

    def native(self) -> Space:
        """The parameters themselves."""

    def float64_copies(self) -> Space:
        """Float64 copies of them."""

    def tangents(self) -> Space | None:
        """Float64 copies of them whose tangents are moved; None where there is no forward mode.

        The values themselves are moved too, by a negligible amount to the same side of a corner. The loss is its
        derivative there, times the length of the move.
        """

    def exact_gradients(self, loss: Callable[[], object], reduction: str | None) -> Mapping[str, Array] | None:
        """The gradients of the loss in float64, by one evaluation and one reverse pass; None where there are none.

        They are right where the derivative of each operation is, and nothing in the loss is hidden from the reverse
        pass; only differences of the loss show that. A loss that raises has none.

        Args:
            loss: The loss. The caller restores what an evaluation disturbs, before and after.
            reduction: Which scalar the gradients are of, if the loss is an array: "sum" or "mean".
        """
