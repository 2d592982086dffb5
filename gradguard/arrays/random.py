"""Random directions and entries of an array."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import reductions, sharded
from gradguard.arrays.reductions import BLOCK, in_order, piece_at
from gradguard.arrays.sharded import across
from gradguard.arrays.types import Array

KEPT = 2**15  # numbers of a direction, up to which it is not drawn anew
POOL = 2**17  # entries of a tensor that strata are made of, at most


def drawn_by_size(array: Array, rng: np.random.Generator) -> int:
    """A place in the flat array, drawn in proportion to |entry|; any where all are 0."""
    together = across(array)
    sums = np.array([float(np.abs(piece).sum()) for _, piece in in_order(array)])
    sums = sums if together is None else together.sum(sums)
    if not sums.sum() > 0:
        return int(rng.integers(array.size))
    start = BLOCK * int(rng.choice(sums.size, p=sums / sums.sum()))
    where, piece = piece_at(array, slice(start, min(start + BLOCK, array.size)))
    sizes = np.abs(piece) if together is None else together.sum(np.abs(piece))
    return int(where.start + rng.choice(sizes.size, p=sizes / sizes.sum()))


def weighted_unit_vector(gradient: Array, largest: float, rng: np.random.Generator) -> Array:
    """The gradient with each entry weighted by U(0, 2), scaled to length 1; a normal vector where it is 0.

    Args:
        gradient: The gradient.
        largest: Its largest |entry|.
        rng: Draws the weights.
    """
    weighted = sharded.zeros_like(gradient, direction_dtype(gradient))
    flat, squares = weighted.reshape(-1), 0.0
    for where, piece in reductions.in_order(gradient) if largest > 0 else ():
        weights = 2 * rng.random(piece.size)
        weights *= piece / largest
        flat[where] = weights
        squares += float(weights @ weights)
    return _scaled(weighted, sharded.summed(gradient, squares)) if largest > 0 else normal_unit_vector(gradient, rng)


def normal_unit_vector(gradient: Array, rng: np.random.Generator) -> Array:
    """A vector of independent normal entries, of the gradient's shape, scaled to length 1."""
    drawn = np.asarray(rng.standard_normal(gradient.shape, direction_dtype(gradient)))
    return _scaled(drawn, sum(float(piece @ piece) for piece in reductions.blocks(drawn)))


def _scaled(vector: Array, squares: float) -> Array:
    """To a length of 1, of which the square is known."""
    vector /= math.sqrt(squares)
    return vector


def direction_dtype(gradient: Array) -> Any:
    """The dtype of a direction: what counts is the displacement that the tensor's dtype makes of it."""
    return np.float64 if gradient.dtype.itemsize > 4 else np.float32


def stratified_places(gradient: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Places in the flat array: all, or `count` of them.

    A fifth are the largest |entry|, a fifth are drawn uniformly, and the rest come one from each stratum over |entry|.
    """
    if gradient.size <= count:
        return np.arange(gradient.size)
    fifth = -(-count // 5)
    largest = reductions.largest_places(gradient, fifth)
    pool = np.arange(gradient.size) if gradient.size <= POOL else np.unique(rng.integers(gradient.size, size=POOL))
    rest = np.setdiff1d(pool, largest)
    size = np.abs(reductions.at(gradient, rest))
    rest = rest[np.argsort(-size, kind="stable")]
    strata = np.array_split(rest, max(0, count - 2 * fifth) or 1)[: max(0, count - 2 * fifth)]
    stratified = np.array([rng.choice(stratum) for stratum in strata if stratum.size], dtype=np.intp)
    others = np.setdiff1d(rest, stratified)
    uniform = rng.choice(others, min(count - largest.size - stratified.size, others.size), replace=False)
    return np.concatenate([largest, stratified, uniform])
