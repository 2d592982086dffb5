"""The parameters of a module as the core sees them: NumPy arrays by name, moved where they lie, on their device."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from gradguard.arrays.types import Array
from gradguard.integrations.torch.overrides.double import InDouble, StandingIn
from gradguard.integrations.torch.overrides.forward_mode import InDual, PerturbedTangent, prepare
from gradguard.integrations.torch.overrides.vectorized import Copied, Room, Vectorized
from gradguard.perturbation.protocols import Copies, PerturbedTensor, Space
from gradguard.perturbation.spaces import Moved
from gradguard.training.ranks import ALONE, Ranks

BLOCK = 2**15  # numbers: some of such blocks stay in a processor's cache together
LARGE_BLOCK = 2**24  # on an accelerator
Buffers = Callable[[], Iterable[Tensor]]
MOVABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def host(tensor: Tensor) -> Array:
    """A tensor as NumPy sees it, in place where it can; float16 and bfloat16 as float32, which holds them exactly."""
    data = tensor.detach()
    array: Array = (data.float() if data.dtype in (torch.float16, torch.bfloat16) else data).cpu().numpy()
    return array


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half the distance from 1 to the next number: 2^-24 for float32."""
    return torch.finfo(dtype).eps / 2


class Hosted(Mapping[str, Array]):
    """Tensors by name, each handed to NumPy when it is looked at."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    def __getitem__(self, name: str) -> Array:
        return host(self.tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class Gradients(Mapping[str, Array]):
    """The gradients by the names of their parameters: zeros where there is none, dense where they are sparse."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters

    def __getitem__(self, name: str) -> Array:
        parameter = self._parameters[name]
        if parameter.grad is None:
            return np.zeros(parameter.shape, np.float32)
        return host(parameter.grad.to_dense())

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class Parameters(Hosted):
    """The parameters under check, by name, which move themselves: `gradguard.perturbation.protocols.Movable`.

    Args:
        checked: The parameters under check.
        others: Further ones that the loss may read: frozen ones, or of another optimizer.
        ranks: The processes of the training.
        buffers: Those of the module, as they are when they are asked for.

    Attributes:
        autocast: What the training's forward pass casts to; None where it does not.
        ranks: As given.
    """

    def __init__(
        self,
        checked: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        ranks: Ranks = ALONE,
        buffers: Buffers = tuple,
    ) -> None:
        super().__init__(checked)
        self._others = others
        self._buffers = buffers
        self.ranks = ranks
        self.autocast: torch.dtype | None = None

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype that the gradients were computed in."""
        dtypes = {tensor.dtype for tensor in self.tensors.values()}
        dtypes |= {tensor.grad.dtype for tensor in self.tensors.values() if tensor.grad is not None}
        return max(unit_roundoff(dtype) for dtype in dtypes | ({self.autocast} if self.autocast else set()))

    def native(self) -> Space:
        """The parameters themselves."""
        return Native(self.tensors, self._buffers)

    def shadow(self) -> Space:
        """Float64 copies of all of them."""
        return Doubled(self.tensors, self._others, self._buffers)

    def tangents(self) -> Space | None:
        """Float64 copies of all of them, with tangents."""
        prepare()
        return Tangents(self.tensors, self._others, self._buffers)

    def gradients(self) -> Mapping[str, Array]:
        """Theirs."""
        return Gradients(self.tensors)

    @property
    def device(self) -> str:
        """The type of the device that they are on."""
        return next(iter(self.tensors.values())).device.type


class Native:
    """The live parameters, each moved in its own dtype on its own device."""

    precision = "native"

    def __init__(self, tensors: Mapping[str, Tensor], buffers: Buffers = tuple) -> None:
        self.arrays: Mapping[str, Array] = Hosted(tensors)
        self._tensors = tensors
        self._buffers = buffers
        self._room = Room(in_bytes(tensors))

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""
        return spacing(self._tensors[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was."""
        return Moved(PerturbedTorchTensor(self._tensors[name]))

    def presented(self) -> AbstractContextManager[object]:
        """Nothing: the loss reads the live parameters."""
        return nullcontext()

    def at_most(self) -> int:
        """How many copies of a parameter one call of the loss may take."""
        return self._room.at_most()

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of parameters, in their dtypes."""
        return copies(self._tensors, self._tensors, names, lambda: StandingIn(()), self._buffers, self._room)


class Doubled:
    """Float64 copies of the parameters on their devices, which stand in for them while the loss runs."""

    precision = "float64"

    def __init__(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], buffers: Buffers = tuple) -> None:
        self._live = tensors
        self._buffers = buffers
        self._tensors = {name: _doubled(tensor) for name, tensor in tensors.items()}
        self._room = Room(in_bytes(self._tensors))
        self.arrays: Mapping[str, Array] = Hosted(self._tensors)
        pairs = [(tensor, self._tensors[name]) for name, tensor in tensors.items()]
        pairs += [(tensor, _doubled(tensor)) for tensor in others.values() if tensor.dtype in MOVABLE]
        self._pairs = pairs
        self._usual = next(iter(tensors.values())).dtype

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next float64."""
        return spacing(self._tensors[name])

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The copy to move, for the time of a `with`; afterwards it is as it was."""
        return Moved(PerturbedTorchTensor(self._tensors[name]))

    def presented(self) -> AbstractContextManager[object]:
        """Every operation of PyTorch is handed the copies, and float64 for all else."""
        return self._in_double()

    def at_most(self) -> int:
        """How many copies of a parameter one call of the loss may take."""
        return self._room.at_most()

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of parameters, in float64."""
        return copies(self._live, self._tensors, names, self._in_double, self._buffers, self._room)

    def _in_double(self) -> InDouble:
        return InDouble(self._pairs, self._usual)


class Tangents(Doubled):
    """Float64 copies of the parameters with tangents, of which those of one tensor at a time are moved."""

    precision = "forward"

    def __init__(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], buffers: Buffers = tuple) -> None:
        super().__init__(tensors, others, buffers)
        self._moving: tuple[Tensor, PerturbedTangent] | None = None

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor whose tangent is moved, for the time of a `with`; afterwards it is 0."""
        place = PerturbedTangent.of(self._tensors[name])
        self._moving = (self._live[name], place)
        return Moved(place)

    def presented(self) -> AbstractContextManager[object]:
        """As for other float64 copies; that of the tensor that is moved carries its tangent."""
        return InDual(self._pairs, self._usual, self._moving)

    def copies(self, names: Sequence[str]) -> Copies:
        """Copies of parameters with tangents, in float64: vmap is within forward mode."""
        stacked = {name: stack(self._tensors[name], len(names)) for name in set(names)}
        tangents = {name: torch.zeros_like(copies) for name, copies in stacked.items()}
        places = [
            PerturbedTangent(stacked[name][row], tangents[name][row], self._tensors[name])
            for row, name in enumerate(names)
        ]
        copied = [Copied(self._live[name], copies, tangents[name]) for name, copies in stacked.items()]
        return Vectorized(copied, places, partial(InDual, self._pairs, self._usual), self._buffers, self._room)


def copies(
    lives: Mapping[str, Tensor],
    starts: Mapping[str, Tensor],
    names: Sequence[str],
    mode: Callable[[], StandingIn],
    buffers: Buffers,
    room: Room,
) -> Vectorized:
    """Copies of tensors, which stand in for live parameters while a loss is evaluated in a mode.

    Args:
        lives: The parameters, by name.
        starts: What the copies are of.
        names: Of each copy the tensor that may be moved.
        mode: Makes what the loss is evaluated in.
        buffers: Those that the loss may write to.
        room: How many copies there is room for.
    """
    stacked = {name: stack(starts[name], len(names)) for name in set(names)}
    sent = {name: Sent(copies.device) for name, copies in stacked.items()}
    places = [
        PerturbedTorchTensor(stacked[name][row], starts[name].detach(), sent[name]) for row, name in enumerate(names)
    ]
    copied = [Copied(lives[name], copies) for name, copies in stacked.items()]
    return Vectorized(copied, places, mode, buffers, room)


def stack(tensor: Tensor, count: int) -> Tensor:
    """Copies of a tensor on a leading axis."""
    return tensor.detach().expand(count, *tensor.shape).clone()


def in_bytes(tensors: Mapping[str, Tensor]) -> int:
    """How large they are together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.float64, copy=True)


def spacing(tensor: Tensor) -> float:
    """The distance from the largest finite entry to the next number of its dtype."""
    kind, largest = torch.finfo(tensor.dtype), 0.0
    for (piece,) in blocks(tensor.detach()):
        # One pass where all is finite, as it is in all but a training that has diverged.
        low, high = (float(end) for end in piece.aminmax())
        if not math.isfinite(low + high):
            low, high = (float(end) for end in piece.nan_to_num(0.0, 0.0, 0.0).aminmax())
        largest = max(largest, -low, high)
    least = kind.smallest_normal * kind.eps
    return float(max(kind.eps * 2.0 ** (math.frexp(largest)[1] - 1), least) if largest else least)


def blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of tensors of one shape, side by side, so that no temporary is as large as a tensor.

    They are views: what is written to one is written to its tensor. On an accelerator they are larger, since there each
    operation takes as long to begin as many numbers take.
    """
    size = BLOCK if tensors[0].device.type == "cpu" else LARGE_BLOCK
    if all(tensor.is_contiguous() for tensor in tensors):
        yield from zip(*(torch.split(tensor.view(-1), size) for tensor in tensors), strict=True)
        return
    shape = tensors[0].shape
    axis = max(range(len(shape)), key=shape.__getitem__)
    rows = max(1, size * shape[axis] // max(1, tensors[0].numel()))
    yield from zip(*(torch.split(tensor, rows, axis) for tensor in tensors), strict=True)


class Sent:
    """The numbers of directions on a device, sent once for the points of a probe."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sent: dict[str, tuple[Array, Tensor]] = {}

    def __call__(self, role: str, values: Array) -> Tensor:
        """The same numbers there."""
        sent = self._sent.get(role)
        if sent is None or sent[0] is not values:
            writable = values if values.flags.writeable else values.copy()  # PyTorch knows of no other
            sent = self._sent[role] = (values, torch.as_tensor(writable, device=self._device))
        return sent[1]


class PerturbedTorchTensor:
    """A tensor that is written to; autograd does not see it, so that a graph kept for another backward stays valid.

    It is copied when all of it is to be moved; of single entries only those are kept.

    Args:
        tensor: The tensor.
        saved: Its unmoved values, where they are kept already.
        sent: What sends directions to its device, where several places do so.
    """

    def __init__(self, tensor: Tensor, saved: Tensor | None = None, sent: Sent | None = None) -> None:
        self._tensor = tensor.data
        self._copy = saved
        self._entries: dict[tuple[int, ...], Tensor] = {}
        self._sent = sent or Sent(tensor.device)

    @property
    def _saved(self) -> Tensor:
        if self._copy is None:
            self._put_entries_back()
            self._copy = self._tensor.clone()
        return self._copy

    @cached_property
    def base(self) -> Array:
        """The unmoved values."""
        return host(self._saved)

    def write(self, values: Array) -> None:
        """Write all of it."""
        written = torch.as_tensor(np.asarray(values, np.float64)).reshape(self._saved.shape)
        self._tensor.copy_(written)

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move it to `base` + amount x vector; the products of the realised displacement with vector and gradient."""
        direction, slope = self._sent("vector", vector), self._sent("gradient", gradient)
        along = against = 0.0
        for target, start, *others in blocks(self._tensor, self._saved, direction, slope):
            products = _shifted(target, start, amount, *others)
            along, against = along + products[0], against + products[1]
        return along, against

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; the displacement that the dtype made of it."""
        if index not in self._entries:
            self._entries[index] = self._tensor[index].clone() if self._copy is None else self._copy[index].clone()
        start = float(self._entries[index])
        self._tensor[index] = start + amount
        return float(self._tensor[index]) - start

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write its unmoved values, or that of one entry."""
        if index is not None:
            self._tensor[index] = self._entries.get(index, self._tensor[index])
            return
        self._put_entries_back()
        if self._copy is not None:
            self._tensor.copy_(self._copy)

    def _put_entries_back(self) -> None:
        for index, value in self._entries.items():
            self._tensor[index] = value


def _shifted(target: Tensor, start: Tensor, amount: float, along: Tensor, against: Tensor) -> tuple[float, float]:
    """Write `start` + amount x `along`; the products of the realised displacement with `along` and `against`."""
    wide = torch.float64 if target.dtype is torch.float64 else torch.float32  # which sees the displacement as it is
    start = start.to(wide)
    torch.add(start, along.to(wide), alpha=amount, out=target)
    moved = (target - start).double()
    products = _product(moved, along), _product(moved, against)
    if all(map(math.isfinite, products)):
        return products
    moved[~start.isfinite()] = 0  # an entry that is nan or inf stays where it is
    return _product(moved, along), _product(moved, against)


def _product(one: Tensor, other: Tensor) -> float:
    """In float64: a long sum in float32 may be off by more than backprop's own rounding."""
    return float(torch.dot(one.reshape(-1), other.double().reshape(-1)))  # which autocast leaves alone, unlike `@`
