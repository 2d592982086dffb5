"""Directions through several tensors at once: each is moved along a vector of its own, by a length of its own."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from gradguard.arrays import Array, Float64
from gradguard.perturbation.directions import Direction
from gradguard.perturbation.protocols import PerturbedPart, PerturbedTensor

MAX_MOVED_BYTES = 2**30  # of parameters that are moved together: a copy of them restores them
MAX_KEPT_ENTRIES = 2**22  # of all vectors together, up to which they are kept between the points: 16 MiB in float32


@dataclass(frozen=True, slots=True)
class Move:
    """How far one tensor is moved.

    Attributes:
        tensor: The tensor, which its space lets be moved.
        vector: The direction, of the shape of the tensor.
        amount: How far along it.
        gradient: The gradient of the tensor.
    """

    tensor: PerturbedTensor
    vector: Array
    amount: float
    gradient: Array


@cache
def _is_part(kind: type) -> bool:
    """Whether tensors of a type are parts: asking that of a protocol takes longer than moving a small tensor."""
    return issubclass(kind, PerturbedPart)


def displace_all(moves: Iterable[Move]) -> Float64:
    """Move several tensors, each to `base` + amount x vector.

    Of tensors that are spread over processes, all products are added up at once: a direction through a hundred tensors
    sends as few messages as one through two.

    Args:
        moves: One for each tensor; they are taken one at a time, so that one vector after the other may be drawn.

    Returns:
        The products of the realised displacement of each tensor with its vector and its gradient, shape (n, 2).
    """
    products: list[tuple[float, float]] = []
    parts: list[tuple[int, PerturbedPart]] = []
    for i, move in enumerate(moves):
        if _is_part(type(move.tensor)) and isinstance(move.tensor, PerturbedPart):
            parts.append((i, move.tensor))
            products.append(move.tensor.displace_part(move.vector, move.amount, move.gradient))
        else:
            products.append(move.tensor.displace(move.vector, move.amount, move.gradient))
    totals = np.array(products, np.float64).reshape(-1, 2)
    if parts:
        rows = [i for i, _ in parts]
        totals[rows] = parts[0][1].sum_parts(totals[rows])
    return totals


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one tensor in a joint direction.

    Attributes:
        direction: A unit vector of the tensor's shape.
        length: How far the tensor moves along it, with a sign, where the joint direction moves by 1.
    """

    direction: Direction
    length: float


@dataclass(frozen=True, eq=False)
class JointDirection:
    """A direction through several tensors.

    Attributes:
        parts: The part of each tensor, by name.
        entries: The number of entries of all tensors together.
    """

    parts: Mapping[str, Part]
    entries: int

    @cached_property
    def lengths(self) -> Float64:
        """The length of each part, shape (T,)."""
        return np.array([part.length for part in self.parts.values()])

    @cached_property
    def length(self) -> float:
        """The Euclidean length of the whole direction."""
        return math.sqrt(float(self.lengths @ self.lengths))

    def release(self) -> None:
        """Free the vectors of large tensors until the next `displace`."""
        for part in self.parts.values():
            part.direction.release()

    def displace(
        self, tensors: Mapping[str, PerturbedTensor], amount: float, gradients: Mapping[str, Array]
    ) -> tuple[float, Float64]:
        """Move all tensors by `amount` times the direction, as their dtypes round that.

        Returns:
            The realised displacement along the direction as a unit vector, and the change of the loss that the
            gradient of each tensor predicts for it, shape (T,).
        """
        products = displace_all(self._moves(tensors, amount, gradients))
        return float(self.lengths @ products[:, 0]) / self.length, products[:, 1]

    def _moves(
        self, tensors: Mapping[str, PerturbedTensor], amount: float, gradients: Mapping[str, Array]
    ) -> Iterator[Move]:
        """The move of each tensor; of a large direction one vector after the other is drawn and forgotten."""
        for name, part in self.parts.items():
            yield Move(tensors[name], part.direction.vector, amount * part.length, gradients[name])
            if self.entries > MAX_KEPT_ENTRIES:
                part.direction.release()


def groups_to_move(arrays: Mapping[str, Array]) -> list[tuple[str, ...]]:
    """The tensors in groups of neighbours, each to be moved together; tensors without entries are left out.

    A probe keeps a copy of what it moves. Groups of large models therefore take turns.
    """
    groups: list[list[str]] = []
    held = 0
    for name, array in arrays.items():
        if not array.size:
            continue
        if not groups or held + array.nbytes > MAX_MOVED_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += array.nbytes
    return [tuple(group) for group in groups]
