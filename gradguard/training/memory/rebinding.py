"""Parameters that the training binds anew, while the loss reads other arrays than the guard: `W = W - lr * dW`."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from gradguard.arrays import ShardedArray
from gradguard.examination import rebound
from gradguard.measurement import MeasurementContext
from gradguard.report import TensorReport

SUMMED = 1024  # entries of a tensor, at equal distances, of which a checksum is made, at most


def rebound_since(
    context: MeasurementContext, before: Mapping[str, int], names: Sequence[str], is_over: Callable[[], bool]
) -> dict[str, TensorReport]:
    """The reports of those tensors that the training has bound anew, and the loss reads elsewhere.

    An update by a gradient that is not zero would have changed them since the last check.

    Args:
        context: What to measure with.
        before: The checksums of the last check.
        names: The tensors that may have been bound anew.
        is_over: Whether the time is over.
    """
    unchanged = [name for name, now in checksums(context, names).items() if before.get(name) == now]
    return rebound(context, unchanged, is_over)


def checksums(context: MeasurementContext, names: Iterable[str]) -> dict[str, int]:
    """A checksum of some entries of those tensors that an update changes; sharded ones are not bound anew."""
    arrays = {name: context.arrays[name] for name in names if context.sizes[name].norm}
    return {
        name: zlib.crc32(array.flat[:: -(-array.size // SUMMED)].tobytes())
        for name, array in arrays.items()
        if not isinstance(array, ShardedArray)
    }
