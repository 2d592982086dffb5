"""What can be perturbed: one tensor, the tensors of a model, and copies of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from gradguard.arrays.types import Array


class PerturbedTensor(Protocol):
    """One tensor while it is moved: what is written to it, its dtype rounds."""

    @property
    def base(self) -> Array:
        """Its unmoved values."""

    def write(self, values: Array) -> None:
        """Write all of it."""

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move it to `base` + amount x vector; the products of the realised displacement with vector and gradient."""

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; the displacement that the dtype made of it."""

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write its unmoved values, or that of one entry."""


class Space(Protocol):
    """Where tensors are moved while the loss is evaluated, and what the loss is handed there.

    A signal may interrupt what puts things back, so its context managers can be left more than once, and before they
    were entered: however often that is, all is as it was.
    """

    precision: str

    @property
    def arrays(self) -> Mapping[str, Array]:
        """The arrays that the loss sees, by name."""

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was."""

    def presented(self) -> AbstractContextManager[object]:
        """Whatever must hold while the loss runs."""


class Copies(Protocol):
    """Copies of the tensors, all of which a loss is evaluated with in one call."""

    @property
    def places(self) -> Sequence[PerturbedTensor]:
        """Of each copy the one tensor that may be moved; it need not be put back."""

    @property
    def arrays(self) -> Any:
        """What the loss is handed."""

    def presented(self) -> AbstractContextManager[object]:
        """Whatever must hold while the loss runs."""


@runtime_checkable
class Copying(Protocol):
    """A space that makes copies of its own tensors, for a loss that was not written to take them."""

    def at_most(self) -> int:
        """How many one call may take."""

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies, of each of which the tensor of its name is to be moved."""


@runtime_checkable
class Movable(Protocol):
    """A mapping of parameters that moves them itself, where they are no arrays that NumPy can write to."""

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype among parameters and gradients."""

    def native(self) -> Space:
        """The tensors themselves."""

    def shadow(self) -> Space:
        """Float64 copies of them."""

    def tangents(self) -> Space | None:
        """Float64 copies of them whose tangents are moved, and they themselves just to that side.

        The loss is its derivative there, times the length of the move. None where there is no forward mode.
        """
