"""Reductions of large arrays, one block at a time: no temporary is as large as a tensor, in any dtype and layout.

Of a sharded array each function reduces the whole, so that all processes get the same number.
"""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.sharded import collectives_of, local_part, sum_over_processes
from gradguard.arrays.types import Array, Float64

FLOAT64 = np.dtype(np.float64)
NDITER_FLAGS: Sequence[Literal["external_loop", "buffered", "zerosize_ok"]] = (
    "external_loop",
    "buffered",
    "zerosize_ok",
)
READ: Sequence[Literal["readonly", "writeonly"]] = ("readonly",)
WRITE: Sequence[Literal["readonly", "writeonly"]] = ("writeonly",)
SAFE = 2.0**-900  # a larger sum of squares lost none of them to underflow that matters
BLOCK_SIZE = 2**15  # entries: a few blocks of float64 fit a processor's cache together


# No generators here: an exception that a signal handler raises while a generator is closed is swallowed by Python.


def blocks(array: Array) -> Iterator[Float64]:
    """The entries of an array in float64, in any order, to be read; a block is valid until the next one."""
    if array.size <= BLOCK_SIZE:  # an iterator takes longer to make than to use
        return iter((np.asarray(array, np.float64).reshape(-1),))
    pieces: Any = np.nditer([array], NDITER_FLAGS, [READ], [FLOAT64], casting="same_kind", buffersize=BLOCK_SIZE)
    return iter(pieces)


def writable_blocks(target: Array, *others: Array) -> np.nditer:
    """Blocks of `target` to write to, in its dtype, with the blocks of `others` in float64; to be used in a `with`."""
    dtypes: list[np.dtype[Any]] = [target.dtype, *[FLOAT64] * len(others)]
    operands, access = [target, *others], [WRITE, *([READ] * len(others))]
    return np.nditer(operands, NDITER_FLAGS, access, dtypes, casting="same_kind", buffersize=BLOCK_SIZE)


def indexed_blocks(array: Array) -> Iterator[tuple[slice, Float64]]:
    """The entries of an array in float64, in index order, each block with its positions in the flat array."""
    starts = range(0, array.size, BLOCK_SIZE)
    return map(partial(block_at, array), [slice(start, min(start + BLOCK_SIZE, array.size)) for start in starts])


def block_at(array: Array, positions: slice) -> tuple[slice, Float64]:
    """Some positions in the flat array, and the entries there in float64."""
    return positions, np.asarray(_flat(array, positions.start, positions.stop), np.float64)


def _flat(array: Array, start: int, stop: int) -> Array:
    """A slice of `array.flat`; where that is not contiguous, by rows: entry by entry takes ten times as long."""
    if array.ndim < 2 or array.flags.c_contiguous:
        return array.reshape(-1)[start:stop]
    row = array.size // len(array)
    first, last = start // row, -(-stop // row)
    if last - first == 1:
        return _flat(array[first], start - first * row, stop - first * row)
    return np.ascontiguousarray(array[first:last]).reshape(-1)[start - first * row : stop - first * row]


def byte_blocks(array: Array) -> Iterator[bytes]:
    """The bytes of what this process holds of an array, in index order."""
    local = local_part(array)
    return map(partial(_bytes, local), range(0, local.size, BLOCK_SIZE))


def _bytes(array: Array, start: int) -> bytes:
    return _flat(array, start, min(start + BLOCK_SIZE, array.size)).tobytes()


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same, bit for bit, in this process."""
    return all(map(operator.eq, byte_blocks(one), byte_blocks(other)))


def _square(array: Array) -> float:
    """The sum of the squares of a small array in one call; nan where it must be computed with more care."""
    if array.size > BLOCK_SIZE or collectives_of(array) is not None:
        return math.nan
    flat = np.asarray(array, np.float64).reshape(-1)
    with np.errstate(over="ignore"):
        square = float(flat @ flat)
    return square if SAFE < square < 1 / SAFE else math.nan


def largest_magnitude(array: Array) -> float:
    """The largest finite |entry|; 0 if there is none."""
    largest = max((float(np.abs(_finite(block)).max(initial=0.0)) for block in blocks(local_part(array))), default=0.0)
    collectives = collectives_of(array)
    return largest if collectives is None else collectives.largest(largest)


def count_at_least(array: Array, size: float) -> int:
    """How many entries have at least this size."""
    return int(
        sum_over_processes(array, sum(int((np.abs(block) >= size).sum()) for block in blocks(local_part(array))))
    )


def is_finite(array: Array) -> bool:
    """Whether no entry is nan or inf."""
    if not math.isnan(_square(array)):
        return True
    is_finite_here = all(np.isfinite(block).all() for block in blocks(local_part(array)))
    collectives = collectives_of(array)
    return is_finite_here if collectives is None else collectives.largest(float(not is_finite_here)) == 0


def norm_of_finite(array: Array, unit: float | None = None) -> float:
    """The Euclidean norm of the finite entries; `gradguard.statistics.discrepancy.norm` counts inf and nan too.

    It is computed in units of the largest |entry|, so that no square overflows or underflows.

    Args:
        array: The entries.
        unit: The largest finite |entry|, if it is known already.
    """
    square = _square(array)
    if not math.isnan(square):
        return math.sqrt(square)
    unit = largest_magnitude(array) if unit is None else unit
    if unit == 0:
        return 0.0
    squares = sum(float(np.square(_finite(block) / unit).sum()) for block in blocks(local_part(array)))
    return unit * math.sqrt(sum_over_processes(array, squares))


def inner_product(one: Array, other: Array) -> float:
    """The sum of the products of the entries of two arrays of one shape."""
    pieces: Any = np.nditer(
        [local_part(one), local_part(other)],
        NDITER_FLAGS,
        [READ, READ],
        [FLOAT64] * 2,
        casting="same_kind",
        buffersize=BLOCK_SIZE,
    )
    return sum_over_processes(other, float(sum(a @ b for a, b in pieces)))


def typical_size(array: Array, fallback: float) -> float:
    """The root mean square of the finite entries, which steps are measured in; `fallback` if it is 0."""
    square = _square(array)
    if not math.isnan(square):
        return math.sqrt(square / array.size)
    norm = norm_of_finite(array)
    if not norm:
        return fallback
    count = sum_over_processes(array, sum(int(np.isfinite(block).sum()) for block in blocks(local_part(array))))
    return norm / math.sqrt(count) if count else fallback


def typical_size_among(array: Array, arrays: Mapping[str, Array]) -> float:
    """The typical size of an array; of one that is all zeros, the largest typical size of the others, or 1."""
    return typical_size(array, 0.0) or max((typical_size(other, 0.0) for other in arrays.values()), default=0.0) or 1.0


def largest_positions(array: Array, count: int) -> NDArray[np.intp]:
    """Positions in the flat array of the `count` entries of largest size, in falling order; of equal ones the first."""
    sizes, positions = np.empty(0), np.empty(0, np.intp)
    for where, block in indexed_blocks(array):
        size = np.abs(block)
        large = np.flatnonzero(size > sizes[-1]) if sizes.size == count else np.arange(size.size)
        sizes, positions = np.concatenate([sizes, size[large]]), np.concatenate([positions, where.start + large])
        order = np.argsort(-sizes, kind="stable")[:count]
        sizes, positions = sizes[order], positions[order]
    collectives = collectives_of(array)
    if collectives is None:
        return positions
    return _merged_positions(collectives.gather(np.concatenate([sizes, positions])), count)


def _merged_positions(candidates: Float64, count: int) -> NDArray[np.intp]:
    """The `count` largest among the candidates of all processes.

    Args:
        candidates: For each process a row of sizes and then as many positions, shape (processes, 2 k).
        count: How many to return.
    """
    sizes, positions = (half.reshape(-1) for half in np.split(candidates, 2, axis=1))
    order = np.lexsort((positions, -sizes))
    first = np.sort(np.unique(positions[order], return_index=True)[1])[:count]
    return positions[order][first].astype(np.intp)


def entries_at(array: Array, positions: NDArray[np.intp]) -> Float64:
    """The entries at some positions of the flat array."""
    entries = np.asarray(array.flat[positions], np.float64)
    collectives = collectives_of(array)
    return entries if collectives is None else collectives.sum(entries)


def _finite(block: Float64) -> Float64:
    finite = np.isfinite(block)
    return block if finite.all() else block[finite]
