"""Which way to move a tensor: along one entry, along its gradient, or anywhere.

A probe is one direction in the space of one tensor. All are unit vectors, so that a directional derivative and the
derivative of an entry are on one scale.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradguard.arrays import random, reductions
from gradguard.arrays.random import normal_unit_vector, stratified_positions, weighted_unit_vector
from gradguard.arrays.types import Array
from gradguard.perturbation.protocols import PerturbedTensor

MAX_KEPT_DIRECTION = 2**15  # entries of a direction, up to which it is kept; a larger one is drawn again when needed


class Probe(Protocol):
    """One direction in the space of a tensor."""

    def displace(self, place: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move a tensor by amount x direction, as its dtype rounds that.

        Returns:
            The length of the realised displacement along the direction, and the change of the loss that `gradient`
            predicts for it.
        """

    def reset(self, place: PerturbedTensor) -> None:
        """Put back what `displace` moved."""

    def release(self) -> None:
        """Let go of what takes memory, until the next `displace`."""


@dataclass(frozen=True, slots=True)
class EntryProbe:
    """Along one entry."""

    index: tuple[int, ...]

    def displace(self, place: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the entry; the displacement, and the entry's gradient times that."""
        moved = place.displace_entry(self.index, amount)
        return moved, float(gradient[self.index]) * moved

    def reset(self, place: PerturbedTensor) -> None:
        """Put the entry back."""
        place.restore(self.index)

    def release(self) -> None:
        """Nothing: an index takes none."""


@dataclass(slots=True)
class Direction:
    """Along a unit vector of the tensor's shape.

    A large one is drawn anew for each difference, always the same: many directions take the memory of one.
    """

    draw: Callable[[], Array]
    _drawn: Array | None = None

    @property
    def vector(self) -> Array:
        """The unit vector."""
        if self._drawn is None:
            self._drawn = self.draw()
        return self._drawn

    def displace(self, place: PerturbedTensor, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the tensor; the displacement's component along the vector, and its inner product with the gradient."""
        return place.displace(self.vector, amount, gradient)

    def reset(self, place: PerturbedTensor) -> None:
        """Put the tensor back."""
        place.restore()

    def release(self) -> None:
        """Forget a large vector."""
        if self._drawn is not None and self._drawn.size > MAX_KEPT_DIRECTION:
            self._drawn = None


def aligned(gradient: Array, rng: np.random.Generator) -> Direction:
    """Along the gradient, each entry weighted anew: it resolves an error of scale best, and is blind where g is 0.

    Weights between 0 and 2 keep 0.87 of the slope, and differ enough that no two probes share their roundings.
    """
    seed, largest = int(rng.integers(2**63)), reductions.largest_magnitude(gradient)
    return Direction(lambda: weighted_unit_vector(gradient, largest, np.random.default_rng(seed)))


def gaussian(gradient: Array, rng: np.random.Generator) -> Direction:
    """Along a Gaussian vector: it sees a gradient that is missing."""
    seed = int(rng.integers(2**63))
    return Direction(lambda: normal_unit_vector(gradient, np.random.default_rng(seed)))


def entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """All entries of a tensor, or `count` of them: the largest |g|, strata over |g|, and some drawn uniformly."""
    return _at(stratified_positions(gradient, count, rng), gradient.shape)


def some_entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """Different entries, drawn half by |g|, half uniformly: large ones show best, bugs hide in small ones."""
    drawn: set[int] = set()
    while len(drawn) < min(count, gradient.size):
        by_size = rng.random() < 0.5
        drawn.add(random.draw_position_by_size(gradient, rng) if by_size else int(rng.integers(gradient.size)))
    return _at(sorted(drawn), gradient.shape)


def _at(places: Iterable[int], shape: tuple[int, ...]) -> list[EntryProbe]:
    return [EntryProbe(tuple(int(i) for i in np.unravel_index(place, shape))) for place in places]
