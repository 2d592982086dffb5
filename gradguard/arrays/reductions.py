"""Numbers of large arrays, a block at a time: no temporary is as large as a tensor, whatever its dtype and layout."""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.sharded import across, own, summed
from gradguard.arrays.types import Array, Float64

FLOAT64 = np.dtype(np.float64)
FLAGS: Sequence[Literal["external_loop", "buffered", "zerosize_ok"]] = ("external_loop", "buffered", "zerosize_ok")
READ: Sequence[Literal["readonly", "writeonly"]] = ("readonly",)
WRITE: Sequence[Literal["readonly", "writeonly"]] = ("writeonly",)
BLOCK = 2**15  # numbers: some of such blocks stay in a processor's cache together


# No generators: where an exception of a signal's handler comes into one that is being closed, Python swallows it.


def blocks(array: Array) -> Iterator[Float64]:
    """The entries of an array in float64, in the order in which they lie in memory; a block is valid until the next."""
    pieces: Any = np.nditer([array], FLAGS, [READ], [FLOAT64], casting="same_kind", buffersize=BLOCK)
    return iter(pieces)


def written(target: Array, *others: Array) -> np.nditer:
    """Blocks of an array to write to, in its own dtype, beside those of others, in float64; to be used in a `with`."""
    dtypes: list[np.dtype[Any]] = [target.dtype, *[FLOAT64] * len(others)]
    operands, access = [target, *others], [WRITE, *([READ] * len(others))]
    return np.nditer(operands, FLAGS, access, dtypes, casting="same_kind", buffersize=BLOCK)


def in_order(array: Array) -> Iterator[tuple[slice, Float64]]:
    """The entries of an array in float64, in the order of its indices, with their places in the flat array."""
    starts = range(0, array.size, BLOCK)
    return map(partial(piece_at, array), [slice(start, min(start + BLOCK, array.size)) for start in starts])


def piece_at(array: Array, places: slice) -> tuple[slice, Float64]:
    """Some places of the flat array, and the entries there in float64."""
    return places, np.asarray(_flat(array, places.start, places.stop), np.float64)


def _flat(array: Array, start: int, stop: int) -> Array:
    """Some of `array.flat`, by rows where they do not lie in order: entry by entry takes ten times as long."""
    if array.ndim < 2 or array.flags.c_contiguous:
        return array.reshape(-1)[start:stop]
    row = array.size // len(array)
    first, last = start // row, -(-stop // row)
    if last - first == 1:
        return _flat(array[first], start - first * row, stop - first * row)
    return np.ascontiguousarray(array[first:last]).reshape(-1)[start - first * row : stop - first * row]


def bits(array: Array) -> Iterator[bytes]:
    """What this process holds of an array, bit for bit, in the order of its indices."""
    held = own(array)
    return map(partial(_bytes, held), range(0, held.size, BLOCK))


def _bytes(array: Array, start: int) -> bytes:
    return _flat(array, start, min(start + BLOCK, array.size)).tobytes()


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape and dtype are the same, bit for bit."""
    return all(map(operator.eq, bits(one), bits(other)))


def largest(array: Array) -> float:
    """The largest finite |entry|; 0 where there is none."""
    found = max((float(np.abs(_finite(piece)).max(initial=0.0)) for piece in blocks(own(array))), default=0.0)
    together = across(array)
    return found if together is None else together.largest(found)


def is_finite(array: Array) -> bool:
    """Whether no entry is nan or inf."""
    found = all(np.isfinite(piece).all() for piece in blocks(own(array)))
    together = across(array)
    return found if together is None else together.largest(float(not found)) == 0


def norm(array: Array, unit: float | None = None) -> float:
    """The Euclidean norm of the finite entries, in units of the largest: squares neither over- nor underflow.

    Args:
        array: The entries.
        unit: The largest |entry|, where it is known.
    """
    unit = largest(array) if unit is None else unit
    if unit == 0:
        return 0.0
    squares = sum(float(np.square(_finite(piece) / unit).sum()) for piece in blocks(own(array)))
    return unit * math.sqrt(summed(array, squares))


def typical_size(array: Array, fallback: float) -> float:
    """The root mean square of the finite entries, the scale on which a parameter lives; `fallback` if it is 0."""
    total = norm(array)
    if not total:
        return fallback
    count = summed(array, sum(int(np.isfinite(piece).sum()) for piece in blocks(own(array))))
    return total / math.sqrt(count) if count else fallback


def largest_places(array: Array, count: int) -> NDArray[np.intp]:
    """Where in the flat array the entries of largest size are, those first, and of equal ones the first."""
    sizes, places = np.empty(0), np.empty(0, np.intp)
    for where, piece in in_order(array):
        size = np.abs(piece)
        large = np.flatnonzero(size > sizes[-1]) if sizes.size == count else np.arange(size.size)
        sizes, places = np.concatenate([sizes, size[large]]), np.concatenate([places, where.start + large])
        kept = np.argsort(-sizes, kind="stable")[:count]
        sizes, places = sizes[kept], places[kept]
    together = across(array)
    return places if together is None else _merged(together.gather(np.concatenate([sizes, places])), count)


def at(array: Array, places: NDArray[np.intp]) -> Float64:
    """The entries at some places of the flat array."""
    found = np.asarray(array.flat[places], np.float64)
    together = across(array)
    return found if together is None else together.sum(found)


def _merged(candidates: Float64, count: int) -> NDArray[np.intp]:
    """The largest among what each process found: rows of sizes, and as many places after them."""
    sizes, places = (half.reshape(-1) for half in np.split(candidates, 2, axis=1))
    order = np.lexsort((places, -sizes))
    first = np.sort(np.unique(places[order], return_index=True)[1])[:count]
    return places[order][first].astype(np.intp)


def _finite(piece: Float64) -> Float64:
    finite = np.isfinite(piece)
    return piece if finite.all() else piece[finite]


def typical_size_among(array: Array, arrays: Mapping[str, Array]) -> float:
    """The typical size of a tensor; of one that is all zeros, the largest of the tensors it stands among, or 1."""
    return typical_size(array, 0.0) or max((typical_size(other, 0.0) for other in arrays.values()), default=0.0) or 1.0
