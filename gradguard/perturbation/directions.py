"""Directions to move a tensor along: one entry, weighted gradients, or Gaussian vectors.

A probe is one direction in the space of one tensor. All are unit vectors, so that a directional derivative and the
derivative of an entry are on one scale.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import (
    Array,
    norm_of_finite,
    normal_unit_vector,
    random,
    reductions,
    stratified_positions,
    weighted_unit_vector,
)
from gradguard.perturbation.protocols import PerturbedTensor

BLOCK_POOL = 32  # entries of a block, of which those with the largest |g| are measured
MAX_KEPT_DIRECTION = 2**15  # entries of a direction, up to which it is kept; a larger one is drawn again when needed


class Probe(Protocol):
    """One direction in the space of a tensor."""

    def displace(self, tensor: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move a tensor by amount x direction, as its dtype rounds that.

        Returns:
            The length of the realised displacement along the direction, and the change of the loss that `gradient`
            predicts for it.
        """

    def reset(self, tensor: PerturbedTensor) -> None:
        """Put back what `displace` moved."""

    def release(self) -> None:
        """Free large memory until the next `displace`."""


@dataclass(frozen=True, slots=True)
class EntryProbe:
    """The direction along one entry.

    Attributes:
        index: The entry.
    """

    index: tuple[int, ...]

    def displace(self, tensor: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the entry; returns the realised displacement, and the entry's gradient times that."""
        displacement = tensor.displace_entry(self.index, amount)
        return displacement, float(gradient[self.index]) * displacement

    def reset(self, tensor: PerturbedTensor) -> None:
        """Put the entry back."""
        tensor.restore(self.index)

    def release(self) -> None:
        """An index takes no memory to speak of."""


@dataclass(slots=True)
class Direction:
    """The direction of a unit vector of the tensor's shape.

    A large vector is drawn again for each difference, always the same: many directions take the memory of one.

    Attributes:
        draw: Draws the vector, the same one at each call.
    """

    draw: Callable[[], Array]
    _vector: Array | None = None

    @property
    def vector(self) -> Array:
        """The unit vector."""
        if self._vector is None:
            self._vector = self.draw()
        return self._vector

    def displace(self, tensor: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the tensor; returns the inner products of the realised displacement with the vector and `gradient`."""
        return tensor.displace(self.vector, amount, gradient)

    def reset(self, tensor: PerturbedTensor) -> None:
        """Put the tensor back."""
        tensor.restore()

    def release(self) -> None:
        """Forget a large vector."""
        if self._vector is not None and self._vector.size > MAX_KEPT_DIRECTION:
            self._vector = None


def aligned(gradient: Array, rng: np.random.Generator) -> Direction:
    """A direction along the gradient, each entry weighted by U(0, 2): it resolves an error of scale best.

    It is blind to entries whose gradient is 0. The weights keep 0.87 of the slope, and differ enough that no two
    directions share their rounding errors.
    """
    largest = reductions.largest_magnitude(gradient)
    return _drawn(gradient, rng, lambda own: weighted_unit_vector(gradient, largest, own))


def gaussian(gradient: Array, rng: np.random.Generator) -> Direction:
    """A direction along a Gaussian vector: it shows entries that the gradient misses."""
    return _drawn(gradient, rng, lambda own: normal_unit_vector(gradient, own))


def _drawn(gradient: Array, rng: np.random.Generator, draw: Callable[[np.random.Generator], Array]) -> Direction:
    """A direction; a small one is drawn at once, since a generator of its own takes longer to make than the vector."""
    if gradient.size <= MAX_KEPT_DIRECTION:
        vector = draw(rng)
        return Direction(lambda: vector)
    seed = int(rng.integers(2**63))
    return Direction(lambda: draw(np.random.default_rng(seed)))


def confined(direction: Direction, inside: NDArray[np.bool_], rng: np.random.Generator) -> Direction:
    """A direction without its entries outside a mask, scaled to length 1 again; a Gaussian one where none is left."""
    seed = int(rng.integers(2**63))

    def draw() -> Array:
        vector = direction.draw()
        vector[~inside] = 0
        length = norm_of_finite(vector)
        if not length > 0:
            vector = normal_unit_vector(vector, np.random.default_rng(seed))
            vector[~inside] = 0
            length = norm_of_finite(vector)
        vector /= length
        return vector

    return Direction(draw)


def stratified_entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """`count` entries of a tensor, or all: those of largest |g|, one from each stratum of |g|, some drawn uniformly."""
    return _entries_at(stratified_positions(gradient, count, rng), gradient.shape)


def entries_of_blocks(
    gradient: Array,
    blocks: Iterable[NDArray[np.bool_]],
    count: int,
    drawn: Iterable[EntryProbe],
    rng: np.random.Generator,
) -> list[EntryProbe]:
    """Further entries, of each block of which fewer than `count` were drawn: the largest |g| of some at random.

    Args:
        gradient: The gradient.
        blocks: Masks over the tensor.
        count: How many entries of each block there should be.
        drawn: The entries that were drawn already.
        rng: Draws the others.
    """
    indices = [probe.index for probe in drawn]
    positions: list[int] = []
    for mask in blocks:
        lacking = count - sum(bool(mask[index]) for index in indices)
        if lacking > 0:
            inside = np.flatnonzero(mask)
            pool = rng.choice(inside, min(BLOCK_POOL, inside.size), replace=False)
            order = np.argsort(-np.abs(reductions.entries_at(gradient, pool)), kind="stable")
            positions += pool[order][:lacking].tolist()
    return [probe for probe in _entries_at(sorted(set(positions)), gradient.shape) if probe.index not in indices]


def random_entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """`count` different entries, or all: half are drawn in proportion to |g|, half uniformly.

    Large entries show an error best, and bugs hide in small ones.
    """
    positions: set[int] = set()
    while len(positions) < min(count, gradient.size):
        by_size = rng.random() < 0.5
        positions.add(random.draw_position_by_size(gradient, rng) if by_size else int(rng.integers(gradient.size)))
    return _entries_at(sorted(positions), gradient.shape)


def _entries_at(positions: Iterable[int], shape: tuple[int, ...]) -> list[EntryProbe]:
    return [EntryProbe(tuple(int(i) for i in np.unravel_index(position, shape))) for position in positions]
