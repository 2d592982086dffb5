"""Parameters of which every process holds a part, as under `fully_shard`: each process perturbs its own part."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gradguard.arrays import Array, Float64, Region, ShardedArray
from gradguard.integrations.torch.distributed.exchange import ExchangeKind, RankExchange
from gradguard.integrations.torch.distributed.points import ALONG_DIRECTION, WHOLE_TENSOR
from gradguard.integrations.torch.tensors import PerturbedTorchTensor, host, spacing, unit_roundoff
from gradguard.perturbation import Moved, PerturbedTensor

NO_FLOAT64 = "fully_shard gathers the parameters in their own dtype, so float64 copies cannot replace them"
NOT_REDUCED = (
    "set_requires_gradient_sync(False) was in force in the last backward pass, so the gradients are not those of all "
    "ranks; set it to True before the last backward pass of a step, and check after it"
)


def local_tensor(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def require_supported_placement(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is neither replicated nor split along an axis.

    Raises:
        TypeError: It has another placement, which the message names.
    """
    for placement in tensor.placements if isinstance(tensor, DTensor) else ():
        if type(placement) not in (Shard, Replicate):
            raise TypeError(f"parameter {name!r} is placed as {placement}; expected Shard or Replicate")


def global_ranks(tensor: DTensor) -> list[int]:
    """The global ranks of the processes that hold a tensor together."""
    return sorted(tensor.device_mesh.mesh.flatten().tolist())


class Sharding:
    """How one tensor is spread over the processes: `gradguard.arrays.sharded.Collectives`.

    Args:
        exchange: The exchange of numbers between the ranks.
        tensor: The tensor.

    Attributes:
        shape: The shape of the whole tensor.
        region: The region of the whole that this process holds.
    """

    def __init__(self, exchange: RankExchange, tensor: DTensor) -> None:
        self._exchange = exchange
        self.shape = tuple(tensor.shape)
        sizes, starts = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
        self.region: Region = tuple(slice(i, i + n) for i, n in zip(starts, sizes, strict=True))
        coordinate = tensor.device_mesh.get_coordinate() or ()
        replicas = (i for i, how in zip(coordinate, tensor.placements, strict=False) if how.is_replicate())
        self._is_first_replica = not any(replicas)

    def sum(self, values: Float64) -> Float64:
        """The sums over the processes; of processes that hold the same region, only the first one contributes."""
        return self._exchange.sum(self.contribution(values))

    def contribution(self, values: Float64) -> Float64:
        """What this process contributes to the sums: zeros where another one holds the same region before it."""
        return values if self._is_first_replica else np.zeros_like(values)

    def largest(self, value: float) -> float:
        """The largest of the processes' values."""
        return float(self._exchange.exchange(ExchangeKind.SUM, value)[:, 0].max())

    def gather(self, values: Float64) -> Float64:
        """The values of each process, shape (processes, n)."""
        return self._exchange.gather(values)

    def part(self, own: Array) -> ShardedArray:
        """An array of the whole shape, with this process's values in its region."""
        return ShardedArray.of(self.shape, self.region, own, self)

    def local_index(self, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """The index of an entry within this process's region; None where another process holds the entry."""
        if all(held.start <= i < held.stop for i, held in zip(index, self.region, strict=True)):
            return tuple(i - held.start for i, held in zip(index, self.region, strict=True))
        return None


class PerturbedShard:
    """A `PerturbedTensor` of which each process perturbs its own part.

    Args:
        tensor: The tensor.
        sharding: How it is spread over the processes.
        exchange: The exchange of numbers between the ranks.
        number: The number of the tensor among the parameters.
    """

    def __init__(self, tensor: DTensor, sharding: Sharding, exchange: RankExchange, number: int) -> None:
        local = tensor.to_local()
        self._inner = PerturbedTorchTensor(local)
        self._own = host(local).copy()
        self._sharding = sharding
        self._exchange = exchange
        self._perturbations = exchange.perturbations
        self._number = number
        self._slices: dict[str, tuple[Array, Array]] = {}

    @cached_property
    def base(self) -> Array:
        """The unperturbed values, with zeros where other processes hold them."""
        return self._sharding.part(self._own)

    def write(self, values: Array) -> None:
        """Write the whole tensor."""
        self._perturbations.record(self._number, WHOLE_TENSOR)
        self._inner.write(np.asarray(values)[self._sharding.region])

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move the tensor to `base` + amount x vector.

        Returns:
            The dot products of the realized displacement of the whole tensor with `vector` and with `gradient`.
        """
        along_vector, along_gradient = self.sum_parts(np.array(self.displace_part(vector, amount, gradient)))
        return float(along_vector), float(along_gradient)

    def displace_part(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:
        """Move this process's part of the tensor; what it contributes to the dot products of `displace`."""
        self._perturbations.record(self._number, ALONG_DIRECTION, amount)
        own = self._inner.displace(self._slice("vector", vector), amount, self._slice("gradient", gradient))
        along_vector, along_gradient = self._sharding.contribution(np.array(own))
        return float(along_vector), float(along_gradient)

    def sum_parts(self, products: Float64) -> Float64:
        """The sums over the processes, of contributions to the products of any tensors."""
        return self._exchange.sum(products)

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:
        """Move one entry by `amount`; the displacement that its dtype realizes."""
        entry = float(np.ravel_multi_index(index, self._sharding.shape))
        self._perturbations.record(self._number, entry, amount)
        local = self._sharding.local_index(index)
        displacement = 0.0 if local is None else self._inner.displace_entry(local, amount)
        return float(self._sharding.sum(np.array([displacement]))[0])

    def restore(self, index: tuple[int, ...] | None = None) -> None:
        """Write the unperturbed values, everywhere or at one entry."""
        self._perturbations.forget(self._number)
        local = None if index is None else self._sharding.local_index(index)
        if index is None or local is not None:
            self._inner.restore(local)

    def _slice(self, role: str, values: Array) -> Array:
        """This process's part of a direction: one object for all points along it, which is sent to a device once."""
        latest = self._slices.get(role)
        if latest is None or latest[0] is not values:
            own = np.ascontiguousarray(np.asarray(values)[self._sharding.region], np.float64)
            latest = self._slices[role] = (values, own)
        return latest[1]


class ShardArrays(Mapping[str, Array]):
    """Tensors by name; each access makes an array of the whole shape with this process's values.

    Args:
        tensors: The tensors.
        shardings: How each of the sharded ones is spread over the processes.
    """

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


class ShardGradients(ShardArrays):
    """The gradients by the names of their parameters, spread as these are; zeros where there is none."""

    def __getitem__(self, name: str) -> Array:
        parameter = self._tensors[name]
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if not isinstance(parameter, DTensor):
            return host(gradient.to_dense())
        if not isinstance(gradient, DTensor) or gradient.placements != parameter.placements:
            raise TypeError(f"the gradient of {name!r} is not spread over the ranks as the parameter is")
        return self._shardings[name].part(host(gradient.to_local()))


class ShardParameters(ShardArrays):
    """The parameters under check, by name: `gradguard.perturbation.protocols.MovableParameters`.

    Args:
        checked: The parameters under check.
        exchange: The exchange of numbers between the ranks.

    Attributes:
        tensors: The parameters under check.
        ranks: The processes of the training.
        autocast: The dtype to which autocast converts in the training's forward pass; None without autocast.
        note: What the explanation of each report says besides.
    """

    def __init__(self, checked: Mapping[str, Tensor], exchange: RankExchange) -> None:
        shardings = {
            name: Sharding(exchange, tensor) for name, tensor in checked.items() if isinstance(tensor, DTensor)
        }
        super().__init__(checked, shardings)
        self.tensors = checked
        self.ranks = exchange
        self.autocast: torch.dtype | None = None
        self.note = ""

    @property
    def unit(self) -> float:
        """The unit roundoff of the coarsest dtype in which the gradients were computed."""
        dtypes = {tensor.dtype for tensor in self.tensors.values()} | ({self.autocast} if self.autocast else set())
        return max(unit_roundoff(dtype) for dtype in dtypes)

    @property
    def device(self) -> str:
        """The type of the device that holds the parameters, such as "cpu" or "cuda"."""
        return next(iter(self.tensors.values())).device.type

    def gradients(self) -> Mapping[str, Array]:
        """The gradients of the parameters."""
        return ShardGradients(self.tensors, self._shardings)

    def native(self) -> "ShardSpace":
        """The space of the live parameters."""
        return ShardSpace(self.tensors, self._shardings, self.ranks, "native")

    def float64_copies(self) -> "ShardSpace":
        """A space that cannot evaluate the loss: there are no float64 copies."""
        return ShardSpace(self.tensors, self._shardings, self.ranks, "float64")

    def tangents(self) -> None:
        """No forward mode, since there are no float64 copies."""

    def exact_gradients(self, loss: Callable[[], object], reduction: str | None) -> None:
        """No reverse pass, for the same reason."""


class ShardSpace:
    """The live parameters, of which each process perturbs its own part: `gradguard.perturbation.protocols.Space`.

    Args:
        tensors: The parameters by name.
        shardings: How each of the sharded ones is spread over the processes.
        exchange: The exchange of numbers between the ranks.
        precision: "native", or "float64" for a space that refuses to evaluate the loss.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], shardings: Mapping[str, Sharding], exchange: RankExchange, precision: str
    ) -> None:
        self.arrays: Mapping[str, Array] = ShardArrays(tensors, shardings)
        self.precision = precision
        self._tensors = tensors
        self._shardings = shardings
        self._exchange = exchange

    def spacing(self, name: str) -> float:
        """The distance from the largest entry of a tensor to the next number of its dtype."""
        tensor = self._tensors[name]
        if isinstance(tensor, DTensor):
            return self._shardings[name].largest(spacing(tensor.to_local()))
        return spacing(tensor)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor, to be perturbed within a `with`, which restores it."""
        tensor, number = self._tensors[name], list(self._tensors).index(name)
        if isinstance(tensor, DTensor):
            return Moved(PerturbedShard(tensor, self._shardings[name], self._exchange, number))
        return Moved(PerturbedTorchTensor(tensor))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The context of an evaluation, in which the loss reads the live parameters.

        Raises:
            TypeError: The precision is "float64".
        """
        if self.precision == "float64":
            raise TypeError(NO_FLOAT64)
        yield


class FullyShardedModule:
    """A module whose parameters `fully_shard` has spread over the processes.

    Args:
        module: The module.
        exchange: The exchange of numbers between the ranks.
    """

    def __init__(self, module: nn.Module, exchange: RankExchange) -> None:
        self._parts = sharded_parts(module)
        self._exchange = exchange
        exchange.before_check = self._require_reduced

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The context of an evaluation, in which each forward pass gathers the parameters as they are now.

        A forward pass without a backward pass leaves some parameters gathered, with the values of that moment.
        """
        reshard(self._parts)
        try:
            yield
        finally:
            reshard(self._parts)

    def parameters(self, checked: Mapping[str, Tensor], _others: object, _written: object) -> ShardParameters:
        """The mapping of the parameters under check."""
        return ShardParameters(checked, self._exchange)

    def require_comparable(self, _parameters: Mapping[str, Tensor]) -> None:
        """Nothing to compare: the ranks hold different parts."""

    def stop(self) -> None:
        """Nothing to remove: the module has no hooks of the guard."""

    def _require_reduced(self) -> None:
        groups = [group for part in self._parts for group in _groups(part)]
        if any(not getattr(group, "reduce_grads", True) for group in groups):
            raise ValueError(f"the gradients of rank {self._exchange.rank} were not synchronised: {NOT_REDUCED}")


def sharded_parts(module: nn.Module) -> list[FSDPModule]:
    """The modules on which `fully_shard` was called, among a module and its parts."""
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


def reshard(parts: list[FSDPModule]) -> None:
    """Free the gathered parameters, so that the next forward pass gathers the sharded ones again."""
    for part in parts:
        for group in _groups(part):  # after a forward pass that raised, the group is still in its state of that pass
            if hasattr(group, "_training_state"):
                group._training_state = type(group._training_state).IDLE
        part.reshard()


def _groups(part: FSDPModule) -> list[Any]:
    """PyTorch's records of the parameters that a part gathers together; private, and named differently by version."""
    state = part._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)
    one = getattr(state, "_fsdp_param_group", None)
    return list(several) if several is not None else [one] if one is not None else []
