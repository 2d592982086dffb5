"""Random directions through an array, and random positions in it."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import reductions, sharded
from gradguard.arrays.reductions import BLOCK_SIZE, block_at, indexed_blocks
from gradguard.arrays.sharded import collectives_of
from gradguard.arrays.types import Array

STRATA_POOL = 2**17  # entries, at most, that are sorted into strata: a larger array is sampled first


def draw_position_by_size(array: Array, rng: np.random.Generator) -> int:
    """A position in the flat array, drawn in proportion to |entry|; uniformly if all entries are 0."""
    collectives = collectives_of(array)
    sums = np.array([float(np.abs(block).sum()) for _, block in indexed_blocks(array)])
    sums = sums if collectives is None else collectives.sum(sums)
    if not sums.sum() > 0:
        return int(rng.integers(array.size))
    start = BLOCK_SIZE * int(rng.choice(sums.size, p=sums / sums.sum()))
    where, block = block_at(array, slice(start, min(start + BLOCK_SIZE, array.size)))
    sizes = np.abs(block) if collectives is None else collectives.sum(np.abs(block))
    return int(where.start + rng.choice(sizes.size, p=sizes / sizes.sum()))


def weighted_unit_vector(gradient: Array, largest: float, rng: np.random.Generator) -> Array:
    """The gradient with each entry weighted by U(0, 2), scaled to length 1; a normal vector where the gradient is 0.

    Args:
        gradient: The gradient.
        largest: Its largest |entry|.
        rng: Draws the weights.
    """
    if not largest > 0:
        return normal_unit_vector(gradient, rng)
    weighted = sharded.zeros_like(gradient, direction_dtype(gradient))
    flat, squares = weighted.reshape(-1), 0.0
    for where, block in indexed_blocks(gradient):
        weights = 2 * rng.random(block.size)
        weights *= block / largest
        flat[where] = weights
        squares += float(weights @ weights)
    return _normalized(weighted, sharded.sum_over_processes(gradient, squares))


def normal_unit_vector(gradient: Array, rng: np.random.Generator) -> Array:
    """A vector of independent normal entries in the gradient's shape, scaled to length 1."""
    vector = np.asarray(rng.standard_normal(gradient.shape, direction_dtype(gradient)))
    return _normalized(vector, sum(float(block @ block) for block in reductions.blocks(vector)))


def _normalized(vector: Array, square: float) -> Array:
    """A vector, divided in place by the root of its squared length."""
    vector /= math.sqrt(square)
    return vector


def direction_dtype(gradient: Array) -> Any:
    """The dtype of a direction: float32 is enough, since only the displacement that the tensor's dtype makes counts."""
    return np.float64 if gradient.dtype.itemsize > 4 else np.float32


def stratified_positions(gradient: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """`count` positions in the flat array, or all of them.

    A fifth are the largest |entry|, a fifth are drawn uniformly, and the rest come one from each stratum over |entry|.
    """
    if gradient.size <= count:
        return np.arange(gradient.size)
    fifth = -(-count // 5)
    largest = reductions.largest_positions(gradient, fifth)
    rest = np.setdiff1d(_pool(gradient.size, rng), largest)
    size = np.abs(reductions.entries_at(gradient, rest))
    rest = rest[np.argsort(-size, kind="stable")]
    strata = max(0, count - 2 * fifth)
    of_strata = np.array_split(rest, strata or 1)[:strata]
    stratified = np.array([rng.choice(stratum) for stratum in of_strata if stratum.size], dtype=np.intp)
    others = np.setdiff1d(rest, stratified)
    uniform = rng.choice(others, min(count - largest.size - stratified.size, others.size), replace=False)
    return np.concatenate([largest, stratified, uniform])


def _pool(size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """All positions of a flat array, or about `STRATA_POOL` of them."""
    return np.arange(size) if size <= STRATA_POOL else np.unique(rng.integers(size, size=STRATA_POOL))
