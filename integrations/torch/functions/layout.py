"""Copies of tensors in the memory layout of the original, and in another one: what a kernel may overlook."""

import torch
from torch import Tensor


def copied(tensor: Tensor) -> Tensor:
    """A copy without a graph, with the same strides."""
    if tensor.is_contiguous():
        return tensor.detach().clone()
    memory = tensor.detach().as_strided((_reach(tensor),), (1,)).clone()
    return memory.as_strided(tensor.shape, tensor.stride(), 0)


def relaid(tensor: Tensor) -> Tensor:
    """A copy in another layout: contiguous where the tensor is not, and otherwise with gaps between its entries.

    Other entries of the tensor lie in the gaps, so that a kernel which reads them returns something plausible.
    """
    values = tensor.detach()
    return (
        torch.stack([values, values.flatten().roll(1).view_as(values)], -1)[..., 0]
        if values.is_contiguous()
        else values.contiguous()
    )


def can_be_relaid(tensor: Tensor) -> bool:
    """Whether its layout may matter to a kernel."""
    return tensor.numel() > 1 and tensor.is_floating_point()


def shares_memory(tensor: Tensor) -> bool:
    """Whether several entries lie at one place in memory, as `expand` makes them."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def memory_of_copy(tensor: Tensor) -> int:
    """The bytes that `copied` takes."""
    return (tensor.numel() if tensor.is_contiguous() else _reach(tensor)) * tensor.element_size()


def _reach(tensor: Tensor) -> int:
    """How many entries of memory lie from the first to the last of a tensor."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in sizes) if tensor.numel() else 0
