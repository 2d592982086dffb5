"""Which way to move a tensor: along one entry, along its gradient, or anywhere.

A probe is one direction in the space of one tensor. All are unit vectors, so that a directional derivative and the
derivative of an entry are on one scale.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gradguard import blockwise, parted
from gradguard.parameters import Place
from gradguard.parted import Array

KEPT = 2**15  # numbers of a direction, up to which it is not drawn anew
POOL = 2**17  # entries of a tensor that strata are made of, at most


class Probe(Protocol):
    """One direction in the space of a tensor."""

    def shift(self, place: Place, amount: float, gradient: Array) -> tuple[float, float]:
        """Move a tensor by amount x direction, as its dtype rounds that.

        Returns:
            The length of the realised displacement along the direction, and the change of the loss that `gradient`
            predicts for it.
        """

    def reset(self, place: Place) -> None:
        """Put back what `shift` moved."""

    def release(self) -> None:
        """Let go of what takes memory, until the next `shift`."""


@dataclass(frozen=True, slots=True)
class EntryProbe:
    """Along one entry."""

    index: tuple[int, ...]

    def shift(self, place: Place, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the entry; the displacement, and the entry's gradient times that."""
        moved = place.shift_entry(self.index, amount)
        return moved, float(gradient[self.index]) * moved

    def reset(self, place: Place) -> None:
        """Put the entry back."""
        place.put_back(self.index)

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

    def shift(self, place: Place, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the tensor; the displacement's component along the vector, and its inner product with the gradient."""
        return place.shift(self.vector, amount, gradient)

    def reset(self, place: Place) -> None:
        """Put the tensor back."""
        place.put_back()

    def release(self) -> None:
        """Forget a large vector."""
        if self._drawn is not None and self._drawn.size > KEPT:
            self._drawn = None


def aligned(gradient: Array, rng: np.random.Generator) -> Direction:
    """Along the gradient, each entry weighted anew: it resolves an error of scale best, and is blind where g is 0.

    Weights between 0 and 2 keep 0.87 of the slope, and differ enough that no two probes share their roundings.
    """
    seed, largest = int(rng.integers(2**63)), blockwise.largest(gradient)
    return Direction(lambda: _weighted(gradient, largest, np.random.default_rng(seed)))


def gaussian(gradient: Array, rng: np.random.Generator) -> Direction:
    """Along a Gaussian vector: it sees a gradient that is missing."""
    seed = int(rng.integers(2**63))
    return Direction(lambda: _normal(gradient, np.random.default_rng(seed)))


def _weighted(gradient: Array, largest: float, rng: np.random.Generator) -> Array:
    weighted = parted.zeros_like(gradient, wide(gradient))
    flat, squares = weighted.reshape(-1), 0.0
    for where, piece in blockwise.in_order(gradient) if largest > 0 else ():
        weights = 2 * rng.random(piece.size)
        weights *= piece / largest
        flat[where] = weights
        squares += float(weights @ weights)
    return _scaled(weighted, parted.summed(gradient, squares)) if largest > 0 else _normal(gradient, rng)


def _normal(gradient: Array, rng: np.random.Generator) -> Array:
    drawn = np.asarray(rng.standard_normal(gradient.shape, wide(gradient)))
    return _scaled(drawn, sum(float(piece @ piece) for piece in blockwise.blocks(drawn)))


def _scaled(vector: Array, squares: float) -> Array:
    """To a length of 1, of which the square is known."""
    vector /= math.sqrt(squares)
    return vector


def wide(gradient: Array) -> Any:
    """The dtype of a direction: what counts is the displacement that the tensor's dtype makes of it."""
    return np.float64 if gradient.dtype.itemsize > 4 else np.float32


def entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """All entries of a tensor, or `count` of them: the largest |g|, strata over |g|, and some drawn uniformly."""
    return _at(_sample(gradient, count, rng), gradient.shape)


def some_entries(gradient: Array, count: int, rng: np.random.Generator) -> list[EntryProbe]:
    """Different entries, drawn half by |g|, half uniformly: large ones show best, bugs hide in small ones."""
    drawn: set[int] = set()
    while len(drawn) < min(count, gradient.size):
        by_size = rng.random() < 0.5
        drawn.add(blockwise.drawn_by_size(gradient, rng) if by_size else int(rng.integers(gradient.size)))
    return _at(sorted(drawn), gradient.shape)


def _at(places: Iterable[int], shape: tuple[int, ...]) -> list[EntryProbe]:
    return [EntryProbe(tuple(int(i) for i in np.unravel_index(place, shape))) for place in places]


def _sample(gradient: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    if gradient.size <= count:
        return np.arange(gradient.size)
    fifth = -(-count // 5)
    largest = blockwise.largest_places(gradient, fifth)
    pool = np.arange(gradient.size) if gradient.size <= POOL else np.unique(rng.integers(gradient.size, size=POOL))
    rest = np.setdiff1d(pool, largest)
    size = np.abs(blockwise.at(gradient, rest))
    rest = rest[np.argsort(-size, kind="stable")]
    strata = np.array_split(rest, max(0, count - 2 * fifth) or 1)[: max(0, count - 2 * fifth)]
    stratified = np.array([rng.choice(stratum) for stratum in strata if stratum.size], dtype=np.intp)
    others = np.setdiff1d(rest, stratified)
    uniform = rng.choice(others, min(count - largest.size - stratified.size, others.size), replace=False)
    return np.concatenate([largest, stratified, uniform])
