"""Named blocks of a tensor: index expressions by name, or the equal gates of a fused LSTM tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gates:
    """The equal blocks of a fused tensor along one axis, in their order.

    Attributes:
        names: Their names.
        axis: The axis that is divided; negative ones count from the last.
    """

    names: tuple[str, ...]
    axis: int

    def of_shape(self, shape: tuple[int, ...]) -> dict[str, tuple[slice, ...]]:
        """The index expression of each block in a tensor of that shape, by name.

        Raises:
            ValueError: the axis does not exist, or does not divide into that many blocks.
        """
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(f"gates has axis {self.axis}, and the shape {shape} has {len(shape)} axes")
        length, count = shape[self.axis], len(self.names)
        if length % count:
            raise ValueError(f"axis {self.axis} of shape {shape} has length {length}, not divisible into {count} gates")
        lead = (slice(None),) * (self.axis % len(shape))
        width = length // count
        return {name: (*lead, slice(i * width, (i + 1) * width)) for i, name in enumerate(self.names)}


def gates(names: Sequence[str], axis: int) -> Gates:
    """Name the equal blocks of a fused LSTM tensor, in their order: `gates("ifog", axis=1)`.

    Raises:
        ValueError: there are no names, or one stands twice.
    """
    if not names or len(set(names)) != len(names):
        raise ValueError(f"gates was given the names {list(names)}; expected at least one, each once")
    return Gates(tuple(names), axis)


Blocks = Mapping[str, Gates | Mapping[str, Any]]
Masks = Mapping[str, Mapping[str, NDArray[np.bool_]]]


def block_masks(
    blocks: Blocks | None, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """For each tensor with named blocks, a mask over its entries for each block.

    Args:
        blocks: What the user passed: gates, or index expressions by name, for some tensors.
        shapes: The shapes of all tensors.

    Raises:
        ValueError: a tensor is unknown, or a block does not fit its shape or has no entries.
    """
    masks = {}
    for tensor, named in (blocks or {}).items():
        if tensor not in shapes:
            raise ValueError(f"blocks names the tensor {tensor!r}; expected one of {', '.join(shapes)}")
        try:
            expressions = named.of_shape(shapes[tensor]) if isinstance(named, Gates) else dict(named)
        except ValueError as error:
            raise ValueError(f"blocks of {tensor!r}: {error}") from None
        masks[tensor] = {name: _mask(tensor, name, index, shapes[tensor]) for name, index in expressions.items()}
    return masks


def entries_in_blocks(masks: Masks, tensor: str, index: Sequence[tuple[int, ...]]) -> dict[str, NDArray[np.bool_]]:
    """For each named block of a tensor, which of the m entries at `index` it holds, shape (m,)."""
    return {
        name: np.array([mask[entry] for entry in index], dtype=bool) for name, mask in masks.get(tensor, {}).items()
    }


def _mask(tensor: str, name: str, index: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    try:
        mask[index] = True
    except (IndexError, ValueError, TypeError) as error:
        raise ValueError(f"block {name!r} of {tensor!r} does not fit the shape {shape}: {error}") from None
    if not mask.any():
        raise ValueError(f"block {name!r} of {tensor!r} holds no entry of the shape {shape}")
    return mask
