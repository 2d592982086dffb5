"""Directions through several tensors at once: each is moved along a vector of its own, by a length of its own."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from gradguard.arrays import Array, Float64, reductions
from gradguard.perturbation.directions import Direction
from gradguard.perturbation.protocols import PerturbedPart, PerturbedTensor
from gradguard.perturbation.spaces import PerturbedArray

MAX_MOVED_BYTES = 2**30  # of parameters that are moved together: a copy of them restores them
MAX_PACKED = 2**13  # entries of an array for which a call of NumPy takes as long as its arithmetic
MAX_PACKED_ENTRIES = 2**20  # of all packed arrays together, which are kept in float64: 24 MiB
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
        return self.through(tensors, gradients).displace(amount)

    def through(self, tensors: Mapping[str, PerturbedTensor], gradients: Mapping[str, Array]) -> "JointMove":
        """The direction through some tensors, ready to move them to several points."""
        packs = [_Pack(self, names, tensors, gradients) for names in self._packed(tensors)]
        return JointMove(self, tensors, gradients, packs)

    def _packed(self, tensors: Mapping[str, PerturbedTensor]) -> list[list[str]]:
        """The small arrays, in groups of one dtype that a processor's cache holds."""
        groups: list[list[str]] = []
        dtype, held = None, 0
        for name in self.parts if self.entries <= MAX_PACKED_ENTRIES else ():
            tensor = tensors[name]
            if type(tensor) is PerturbedArray and 0 < tensor.array.size <= MAX_PACKED:
                if not groups or tensor.array.dtype != dtype or held + tensor.array.size > reductions.BLOCK_SIZE:
                    groups.append([])
                    dtype, held = tensor.array.dtype, 0
                groups[-1].append(name)
                held += tensor.array.size
        return groups


class JointMove:
    """A direction through some tensors.

    Args:
        direction: The direction.
        tensors: The tensors that it moves, by name.
        gradients: Their gradients.
        packs: Those that are moved together.
    """

    def __init__(
        self,
        direction: JointDirection,
        tensors: Mapping[str, PerturbedTensor],
        gradients: Mapping[str, Array],
        packs: Sequence["_Pack"],
    ) -> None:
        self._direction, self._tensors, self._gradients, self._packs = direction, tensors, gradients, packs
        rows = {name: row for row, name in enumerate(direction.parts)}
        packed = dict.fromkeys(name for pack in packs for name in pack.names)
        self._single = [name for name in rows if name not in packed]
        self._rows = [rows[name] for name in (*packed, *self._single)]

    def displace(self, amount: float) -> tuple[float, Float64]:
        """As `JointDirection.displace`."""
        found = [*(pack.displace(amount) for pack in self._packs), displace_all(self._moves(amount))]
        products = np.empty((len(self._rows), 2))
        products[self._rows] = np.concatenate(found)
        direction = self._direction
        return float(direction.lengths @ products[:, 0]) / direction.length, products[:, 1]

    def _moves(self, amount: float) -> Iterator[Move]:
        """The move of each tensor; of a large direction one vector after the other is drawn and forgotten."""
        for name in self._single:
            part = self._direction.parts[name]
            yield Move(self._tensors[name], part.direction.vector, amount * part.length, self._gradients[name])
            if self._direction.entries > MAX_KEPT_ENTRIES:
                part.direction.release()


class _Pack:
    """Small arrays of one dtype, moved by the arithmetic of one: a model may have hundreds of them.

    Args:
        direction: The direction.
        names: The arrays.
        tensors: All tensors that the direction moves.
        gradients: Their gradients.
    """

    def __init__(
        self,
        direction: JointDirection,
        names: Sequence[str],
        tensors: Mapping[str, PerturbedTensor],
        gradients: Mapping[str, Array],
    ) -> None:
        arrays = [tensor for name in names if isinstance(tensor := tensors[name], PerturbedArray)]
        parts = [direction.parts[name] for name in names]
        ends = np.cumsum([tensor.array.size for tensor in arrays]).tolist()
        self.names, self._starts = names, [0, *ends[:-1]]
        self._targets = [(tensor.array, slice(*span)) for tensor, *span in zip(arrays, self._starts, ends, strict=True)]
        self._dtype = arrays[0].array.dtype
        self._base = _flat([tensor.base for tensor in arrays])
        self._vector = _flat([part.direction.vector for part in parts])
        self._gradient = _flat([gradients[name] for name in names])
        self._lengths = np.repeat([part.length for part in parts], np.diff([0, *ends]))

    def displace(self, amount: float) -> Float64:
        """Move the arrays; the products of the realised displacement of each with its vector and its gradient."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = (self._base + amount * self._lengths * self._vector).astype(self._dtype)
            for target, span in self._targets:
                target[...] = values[span].reshape(target.shape)
            moved = values - self._base
            if not np.isfinite(moved).all():
                moved[~np.isfinite(self._base)] = 0  # an entry that is nan or inf does not move
            sums = [np.add.reduceat(moved * slopes, self._starts) for slopes in (self._vector, self._gradient)]
        return np.stack(sums, axis=1)


def _flat(arrays: Iterable[Array]) -> Float64:
    """The entries of some arrays in one, in float64."""
    return np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)


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
