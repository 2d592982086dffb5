"""Tensors of PyTorch as the core perturbs them: on their device, in their dtype, block by block."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from gradguard.arrays import Array

PERTURBABLE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BLOCK_SIZE = 2**15
"""Entries in a block on the CPU: 128 KiB in float32, so that several blocks fit into a cache together."""
ACCELERATOR_BLOCK_SIZE = 2**24
"""Entries in a block on an accelerator: 64 MiB in float32, so that launching an operation costs little beside it."""

CHECKSUM_MODULUS = 2**53
"""Float64, in which checksums are exchanged between processes, holds all whole numbers below it."""
INTEGER_DTYPES = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer dtype of each size in bytes."""


def host(tensor: Tensor) -> Array:
    """A tensor as a NumPy array, on the same memory where that is possible; float16 and bfloat16 become float32."""
    data = tensor.detach()
    array: Array = (data.float() if data.dtype in (torch.float16, torch.bfloat16) else data).cpu().numpy()
    return array


def to_host(result: object) -> object:
    """A tensor as a NumPy array; anything else itself."""
    return host(result) if isinstance(result, Tensor) else result


class HostArrays(Mapping[str, Array]):
    """Tensors by name; each access converts one to a NumPy array.

    Attributes:
        tensors: The tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Array:
        return host(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number of a dtype: 2^-24 for float32."""
    return torch.finfo(dtype).eps / 2


def coarsest(dtypes: Iterable[torch.dtype | None]) -> torch.dtype | None:
    """The floating dtype that rounds most; None where there is none."""
    floating = [dtype for dtype in dtypes if dtype is not None and dtype.is_floating_point]
    return max(floating, key=unit_roundoff, default=None)


def spacing(tensor: Tensor) -> float:
    """The distance from the largest finite entry to the next number of its dtype."""
    kind, largest = torch.finfo(tensor.dtype), 0.0
    for (block,) in blocks(tensor.detach()):
        # One pass where all entries are finite, as they are unless a training has diverged.
        low, high = (float(end) for end in block.aminmax())
        if not math.isfinite(low + high):
            low, high = (float(end) for end in block.nan_to_num(0.0, 0.0, 0.0).aminmax())
        largest = max(largest, -low, high)
    smallest = kind.smallest_normal * kind.eps
    return float(max(kind.eps * 2.0 ** (math.frexp(largest)[1] - 1), smallest) if largest else smallest)


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same block of several tensors of one shape, so that no temporary is as large as a tensor."""
    size = BLOCK_SIZE if tensors[0].device.type == "cpu" else ACCELERATOR_BLOCK_SIZE
    if all(tensor.is_contiguous() for tensor in tensors):
        yield from zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)
        return
    shape = tensors[0].shape
    axis = max(range(len(shape)), key=shape.__getitem__)
    rows = max(1, size * shape[axis] // max(1, tensors[0].numel()))
    yield from zip(*(torch.split(tensor, rows, axis) for tensor in tensors), strict=True)


def checksum(tensor: Tensor | None) -> int:
    """A whole number below 2^53 that changes with any single bit of the tensor; computed on the tensor's device."""
    if tensor is None or not tensor.numel():
        return 0
    bits = tensor.detach().contiguous().view(INTEGER_DTYPES[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64)) % CHECKSUM_MODULUS


class DeviceArrays:
    """NumPy arrays on a device: the latest of each role is sent once, for all points that use it.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._latest: dict[str, tuple[Array, Tensor]] = {}

    def send(self, role: str, values: Array) -> Tensor:
        """The values as a tensor on the device.

        Args:
            role: What the values are: "vector" or "gradient".
            values: The values; the same object is not sent again.
        """
        latest = self._latest.get(role)
        if latest is None or latest[0] is not values:
            writable = values if values.flags.writeable else values.copy()  # PyTorch has no read-only tensors
            latest = self._latest[role] = (values, torch.as_tensor(writable, device=self._device))
        return latest[1]


class PerturbedTorchTensor:
    """A tensor that is perturbed in place: `gradguard.perturbation.protocols.PerturbedTensor`.

    Autograd does not see the writes, so that a graph which is kept for another backward pass stays valid. The first
    displacement of the whole tensor copies it; displacements of single entries keep only these.

    Args:
        tensor: The tensor.
        saved: Its unperturbed values, where there is a copy already.
        device_arrays: Sends directions to the device, where several tensors share them.
    """

    def __init__(self, tensor: Tensor, saved: Tensor | None = None, device_arrays: DeviceArrays | None = None) -> None:
        self._tensor = tensor.data
        self._copy = saved
        self._entries: dict[tuple[int, ...], Tensor] = {}
        self._device_arrays = device_arrays or DeviceArrays(tensor.device)

    @property
    def _saved(self) -> Tensor:
        if self._copy is None:
            self._restore_entries()
            self._copy = self._tensor.clone()
        return self._copy

    @cached_property
    def base(self) -> Array:
        """The unperturbed values."""
        return host(self._saved)

    def write(self, values: Array) -> None:
        """Write the whole tensor."""
        written = torch.as_tensor(np.asarray(values, np.float64)).reshape(self._saved.shape)
        self._tensor.copy_(written)

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the tensor to `base` + amount x vector.

        Returns:
            The dot products of the realized displacement with `vector` and with `gradient`.
        """
        direction = self._device_arrays.send("vector", vector)
        slope = self._device_arrays.send("gradient", gradient)
        along_vector = along_gradient = 0.0
        for target, start, *others in blocks(self._tensor, self._saved, direction, slope):
            products = _displace_block(target, start, amount, *others)
            along_vector, along_gradient = along_vector + products[0], along_gradient + products[1]
        return along_vector, along_gradient

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; the displacement that its dtype realizes."""
        if index not in self._entries:
            self._entries[index] = self._tensor[index].clone() if self._copy is None else self._copy[index].clone()
        start = float(self._entries[index])
        self._tensor[index] = start + amount
        return float(self._tensor[index]) - start

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write the unperturbed values, everywhere or at one entry."""
        if index is not None:
            self._tensor[index] = self._entries.get(index, self._tensor[index])
            return
        self._restore_entries()
        if self._copy is not None:
            self._tensor.copy_(self._copy)

    def _restore_entries(self) -> None:
        for index, value in self._entries.items():
            self._tensor[index] = value


def _displace_block(
    target: Tensor, start: Tensor, amount: float, vector: Tensor, gradient: Tensor
) -> tuple[float, float]:
    """Write `start` + amount x `vector`; the dot products of the realized displacement with vector and gradient."""
    # Wide enough for the displacement of a 16-bit dtype to be exact.
    wide = torch.float64 if target.dtype is torch.float64 else torch.float32
    start = start.to(wide)
    torch.add(start, vector.to(wide), alpha=amount, out=target)
    displacement = (target - start).double()
    products = _dot(displacement, vector), _dot(displacement, gradient)
    if all(map(math.isfinite, products)):
        return products
    displacement[~start.isfinite()] = 0  # an entry that is nan or inf stays where it is
    return _dot(displacement, vector), _dot(displacement, gradient)


def _dot(one: Tensor, other: Tensor) -> float:
    """The dot product in float64: a long sum in float32 may be off by more than backprop's own rounding."""
    return float(torch.dot(one.reshape(-1), other.double().reshape(-1)))  # autocast rounds `@`, and not `dot`
