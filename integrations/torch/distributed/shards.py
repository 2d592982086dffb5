"""Parameters of which every process holds a part, as `fully_shard` leaves them: moved where they lie."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gradguard.arrays.sharded import Part
from gradguard.arrays.types import Array, Float64, Region
from gradguard.integrations.torch.distributed.exchange import ALONG, ANYWHERE, NOWHERE, Kind, RankExchange
from gradguard.integrations.torch.parameters import PerturbedTorchTensor, host, spacing
from gradguard.perturbation.protocols import PerturbedTensor
from gradguard.perturbation.spaces import Moved

NO_FLOAT64 = "fully_shard gathers the parameters in their own dtype, so that no float64 copies can stand in for them"
NOT_REDUCED = (
    "set_requires_gradient_sync(False) holds for the last backward pass before the check, so that the gradients are "
    "not those of all ranks; set it to True before the last one of a step, and check after that"
)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def require_placed(name: str, tensor: Tensor) -> None:
    """Refuse what is neither held whole nor split along an axis.

    Raises:
        TypeError: The message names the placement.
    """
    for placement in tensor.placements if isinstance(tensor, DTensor) else ():
        if type(placement) not in (Shard, Replicate):
            raise TypeError(f"parameter {name!r} is placed as {placement}; expected Shard or Replicate")


def ranks_of(tensor: DTensor) -> list[int]:
    """The global ranks that hold a tensor together."""
    return sorted(tensor.device_mesh.mesh.flatten().tolist())


class Sharding:
    """How one tensor is spread over the processes: `gradguard.arrays.sharded.Across`.

    Args:
        peers: The processes.
        tensor: Any tensor that is spread as this one is.

    Attributes:
        region: What this process holds.
    """

    def __init__(self, peers: RankExchange, tensor: DTensor) -> None:
        self._peers = peers
        self.shape = tuple(tensor.shape)
        sizes, starts = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        self.region: Region = tuple(slice(i, i + n) for i, n in zip(starts, sizes, strict=True))
        coordinate = tensor.device_mesh.get_coordinate() or ()
        copies = (place for place, how in zip(coordinate, tensor.placements, strict=False) if how.is_replicate())
        self._counts = not any(copies)

    def sum(self, values: Float64) -> Float64:
        """The sums over the processes; of those that hold the same region, the first counts."""
        return self._peers.sum(values if self._counts else np.zeros_like(values))

    def largest(self, value: float) -> float:
        """The largest of the processes' values."""
        return float(self._peers.exchange(Kind.SUM, value)[:, 0].max())

    def gather(self, values: Float64) -> Float64:
        """The values of each."""
        return self._peers.gather(values)

    def part(self, own: Array) -> Part:
        """The whole tensor, as far as this process knows it."""
        return Part.of(self.shape, self.region, own, self)

    def within(self, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """Where an entry of the whole lies in this process's region; None where it does not."""
        if all(held.start <= i < held.stop for i, held in zip(index, self.region, strict=True)):
            return tuple(i - held.start for i, held in zip(index, self.region, strict=True))
        return None


class PerturbedShard:
    """A `PerturbedTensor` of which this process writes its part, as the others write theirs."""

    def __init__(self, tensor: DTensor, sharding: Sharding, peers: RankExchange, number: int) -> None:
        local = tensor.to_local()
        self._inner = PerturbedTorchTensor(local)
        self._own = host(local).copy()
        self._sharding = sharding
        self._peers = peers
        self._number = float(number)
        self._slices: dict[str, tuple[Array, Array]] = {}

    @cached_property
    def base(self) -> Array:
        """The unmoved values, zeros where other processes hold them."""
        return self._sharding.part(self._own)

    def write(self, values: Array) -> None:
        """Write all of it."""
        self._peers.point = (self._number, ANYWHERE, 0.0)
        self._inner.write(np.asarray(values)[self._sharding.region])

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move it to `base` + amount x vector; the products of the realised displacement with vector and gradient."""
        self._peers.point = (self._number, ALONG, amount)
        own = self._inner.displace(self._slice("vector", vector), amount, self._slice("gradient", gradient))
        along, against = self._sharding.sum(np.array(own))
        return float(along), float(against)

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; the displacement that the dtype made of it."""
        self._peers.point = (self._number, float(np.ravel_multi_index(index, self._sharding.shape)), amount)
        here = self._sharding.within(index)
        moved = 0.0 if here is None else self._inner.displace_entry(here, amount)
        return float(self._sharding.sum(np.array([moved]))[0])

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write its unmoved values, or that of one entry."""
        self._peers.point = NOWHERE
        here = None if index is None else self._sharding.within(index)
        if index is None or here is not None:
            self._inner.restore(here)

    def _slice(self, role: str, values: Array) -> Array:
        """This process's part of a direction, the same object for the points of a probe."""
        known = self._slices.get(role)
        if known is None or known[0] is not values:
            own = np.ascontiguousarray(np.asarray(values)[self._sharding.region], np.float64)
            known = self._slices[role] = (values, own)
        return known[1]


class Parts(Mapping[str, Array]):
    """Tensors by name, each of which NumPy sees this process's part of."""

    def __init__(self, tensors: Mapping[str, Tensor], shardings: Mapping[str, Sharding]) -> None:
        self._tensors = tensors
        self._shardings = shardings

    def __getitem__(self, name: str) -> Array:
        tensor = self._tensors[name]
        return self._shardings[name].part(host(tensor.to_local())) if isinstance(tensor, DTensor) else host(tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class PartGradients(Parts):
    """The gradients by the names of their parameters, as the parameters are spread; zeros where there is none."""

    def __getitem__(self, name: str) -> Array:
        parameter = self._tensors[name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if not isinstance(parameter, DTensor):
            return host(gradient.to_dense())
        if not isinstance(gradient, DTensor) or gradient.placements != parameter.placements:
            raise TypeError(f"the gradient of {name!r} is not spread over the ranks as the parameter is")
        return self._shardings[name].part(host(gradient.to_local()))


class ShardParameters(Parts):
    """The parameters under check, which move themselves: `gradguard.perturbation.protocols.Movable`.

    Args:
        checked: By name.
        peers: The processes.

    Attributes:
        tensors: As given.
        ranks: The processes.
        autocast: What the forward pass casts to; None where it does not.
    """

    def __init__(self, checked: Mapping[str, Tensor], peers: RankExchange) -> None:
        shardings = {name: Sharding(peers, tensor) for name, tensor in checked.items() if isinstance(tensor, DTensor)}
        super().__init__(checked, shardings)
        self.tensors = checked
        self.ranks = peers
        self.autocast: torch.dtype | None = None

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype that the gradients were computed in."""
        dtypes = {tensor.dtype for tensor in self.tensors.values()} | ({self.autocast} if self.autocast else set())
        return max(torch.finfo(dtype).eps / 2 for dtype in dtypes)

    @property
    def device(self) -> str:
        """The type of the device that they are on."""
        return next(iter(self.tensors.values())).device.type

    def gradients(self) -> Mapping[str, Array]:
        """Theirs."""
        return PartGradients(self.tensors, self._shardings)

    def native(self) -> "ShardSpace":
        """The parameters themselves."""
        return ShardSpace(self.tensors, self._shardings, self.ranks, "native")

    def shadow(self) -> "ShardSpace":
        """What says that there are no float64 copies."""
        return ShardSpace(self.tensors, self._shardings, self.ranks, "float64")

    def tangents(self) -> None:
        """There are none without float64 copies."""


class ShardSpace:
    """The live parameters, of which each process moves its own part: `gradguard.perturbation.protocols.Space`."""

    def __init__(
        self, tensors: Mapping[str, Tensor], shardings: Mapping[str, Sharding], peers: RankExchange, precision: str
    ) -> None:
        self.arrays: Mapping[str, Array] = Parts(tensors, shardings)
        self.precision = precision
        self._tensors = tensors
        self._shardings = shardings
        self._peers = peers

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""
        tensor = self._tensors[name]
        if isinstance(tensor, DTensor):
            return self._shardings[name].largest(spacing(tensor.to_local()))
        return spacing(tensor)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was."""
        tensor, number = self._tensors[name], list(self._tensors).index(name)
        if isinstance(tensor, DTensor):
            return Moved(PerturbedShard(tensor, self._shardings[name], self._peers, number))
        return Moved(PerturbedTorchTensor(tensor))

    @contextmanager
    def presented(self) -> Iterator[None]:
        """The loss reads the live parameters.

        Raises:
            TypeError: Float64 copies were asked for.
        """
        if self.precision == "float64":
            raise TypeError(NO_FLOAT64)
        yield


class FullyShard:
    """What `fully_shard` made of a module and its parts: each forward pass must gather its parameters anew.

    Args:
        module: The module.
        peers: The processes.
    """

    def __init__(self, module: nn.Module, peers: RankExchange) -> None:
        self._parts = sharded_parts(module)
        self._peers = peers
        peers.before_check = self._require_reduced

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """A forward pass without a backward pass leaves some of them gathered: as they were moved."""
        reshard(self._parts)
        try:
            yield
        finally:
            reshard(self._parts)

    def parameters(self, checked: Mapping[str, Tensor], _others: Mapping[str, Tensor]) -> ShardParameters:
        """Those under check."""
        return ShardParameters(checked, self._peers)

    def require_alike(self, _parameters: Mapping[str, Tensor]) -> None:
        """No two ranks hold the same."""

    def stop(self) -> None:
        """Nothing is attached."""

    def _require_reduced(self) -> None:
        groups = [group for part in self._parts for group in _groups(part)]
        if any(not getattr(group, "reduce_grads", True) for group in groups):
            raise ValueError(f"the gradients of rank {self._peers.rank} were not synchronised: {NOT_REDUCED}")


def sharded_parts(module: nn.Module) -> list[FSDPModule]:
    """The parts of a module that `fully_shard` was called on, the module included."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def reshard(parts: list[FSDPModule]) -> None:
    """Free what was gathered, so that the sharded parameters are those that count."""
    for part in parts:
        for group in _groups(part):  # a forward pass that raised has left it in the middle of one
            if hasattr(group, "_training_state"):
                group._training_state = type(group._training_state).IDLE
        part.reshard()


def _groups(part: FSDPModule) -> list[Any]:
    """PyTorch's own record of the parameters that a part gathers together."""
    state = part._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)
    one = getattr(state, "_fsdp_param_group", None)
    return list(several) if several is not None else [one] if one is not None else []
