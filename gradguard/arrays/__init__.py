"""Arrays: types, validation, floating-point properties, reductions, random draws, sharded arrays and named blocks."""

from gradguard.arrays.floating_point import (
    coarsest_dtype,
    quanta_of_losses,
    quantum_of_column,
    spacing,
    ulp,
    unit_roundoff,
)
from gradguard.arrays.named_blocks import Blocks, Masks, block_masks, entries_in_blocks, gates
from gradguard.arrays.random import direction_dtype, normal_unit_vector, stratified_positions, weighted_unit_vector
from gradguard.arrays.reductions import is_finite, norm_of_finite, typical_size, typical_size_among
from gradguard.arrays.sharded import ShardedArray
from gradguard.arrays.types import Array, Float64, Region
from gradguard.arrays.validation import (
    is_whole,
    require_constants,
    require_entries,
    require_movable,
)

__all__ = [
    "Array",
    "Blocks",
    "Float64",
    "Masks",
    "Region",
    "ShardedArray",
    "block_masks",
    "coarsest_dtype",
    "direction_dtype",
    "entries_in_blocks",
    "gates",
    "is_finite",
    "is_whole",
    "norm_of_finite",
    "normal_unit_vector",
    "quanta_of_losses",
    "quantum_of_column",
    "require_constants",
    "require_entries",
    "require_movable",
    "spacing",
    "stratified_positions",
    "typical_size",
    "typical_size_among",
    "ulp",
    "unit_roundoff",
    "weighted_unit_vector",
]
