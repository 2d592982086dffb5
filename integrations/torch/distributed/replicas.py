"""Parameters that every process holds whole, as under `DistributedDataParallel`: whether they, and gradients, agree."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradguard.arrays.types import Array
from gradguard.integrations.torch.distributed.exchange import ALONG, ANYWHERE, NOWHERE, Kind, RankExchange, among
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.replay.forwards import Hook
from gradguard.perturbation.protocols import PerturbedTensor, Space

NAMED = 3  # tensors in a message
EXACT = 2**53  # whole numbers that float64 holds
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

NOT_SYNCHRONISED = (
    "its last forward pass before the check ran within no_sync(), so that its gradients are its own and no average; "
    "end no_sync() before the last forward pass of a step, and check after that one's backward()"
)
WHY_GRADIENTS_DIFFER = (
    "they were not averaged over the ranks, or one of them changed its own afterwards: a no_sync() left open, a "
    "backward pass of the module within, or clipping and scaling that depend on the rank"
)
WHY_PARAMETERS_DIFFER = "a checkpoint was loaded, or a parameter written, on some of the ranks alone"


class ReplicaParameters(Parameters):
    """Whole parameters, which every rank moves alike.

    Args:
        checked: The parameters under check.
        others: Further ones that the loss may read.
        peers: The processes.
    """

    def __init__(self, checked: Mapping[str, Tensor], others: Mapping[str, Tensor], peers: RankExchange) -> None:
        super().__init__(checked, others, peers)
        self._peers = peers

    def native(self) -> Space:
        """The parameters themselves."""
        return FollowedSpace(super().native(), self._peers)

    def shadow(self) -> Space:
        """Float64 copies of all of them."""
        return FollowedSpace(super().shadow(), self._peers)

    def tangents(self) -> None:
        """None: where one rank's forward pass refused them, the others would wait."""


class FollowedSpace:
    """A space whose moves the other ranks are told with each loss, so that none goes another way unseen."""

    def __init__(self, space: Space, peers: RankExchange) -> None:
        self.precision = space.precision
        self.arrays: Mapping[str, Array] = space.arrays
        self.spacing = space.spacing
        self.presented = space.presented
        self._space = space
        self._peers = peers

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was."""
        return _Followed(self._space.moving(name), self._peers, float(list(self.arrays).index(name)))


class _Followed(AbstractContextManager[PerturbedTensor]):
    def __init__(self, move: AbstractContextManager[PerturbedTensor], peers: RankExchange, number: float) -> None:
        self._move = move
        self._peers = peers
        self._number = number

    def __enter__(self) -> PerturbedTensor:
        return PerturbedReplica(self._move.__enter__(), self._peers, self._number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._peers.point = NOWHERE
        self._move.__exit__(kind, error, trace)


class PerturbedReplica:
    """A place that says where it is moved to."""

    def __init__(self, place: PerturbedTensor, peers: RankExchange, number: float) -> None:
        self._place = place
        self._peers = peers
        self._number = number

    @property
    def base(self) -> Array:  # noqa: D102 - as in Place
        return self._place.base

    def write(self, values: Array) -> None:  # noqa: D102 - as in Place
        self._peers.point = (self._number, ANYWHERE, 0.0)
        self._place.write(values)

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:  # noqa: D102 - as in Place
        self._peers.point = (self._number, ALONG, amount)
        return self._place.displace(vector, amount, gradient)

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:  # noqa: D102 - as in Place
        self._peers.point = (self._number, float(np.ravel_multi_index(index, self.base.shape)), amount)
        return self._place.displace_entry(index, amount)

    def restore(self, index: tuple[int, ...] | None = None) -> None:  # noqa: D102 - as in Place
        self._peers.point = NOWHERE
        self._place.restore(index)


class Replicas:
    """Whole parameters in several processes.

    Args:
        peers: The processes.
        wrapper: What averages the gradients; None where the training does so by itself.
    """

    def __init__(self, peers: RankExchange, wrapper: DistributedDataParallel | None) -> None:
        self._peers = peers
        self._wrapper = wrapper
        self._synchronises = True
        self._hooks = [] if wrapper is None else [wrapper.register_forward_pre_hook(Hook(self._called))]
        peers.before_check = self._require_synchronised

    def stop(self) -> None:
        """Leave the module alone."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """While a loss is evaluated no buffers are sent around: each rank starts from those of its training."""
        if self._wrapper is None:
            yield
            return
        before = self._wrapper.require_forward_param_sync
        self._wrapper.require_forward_param_sync = False
        try:
            yield
        finally:
            self._wrapper.require_forward_param_sync = before

    def parameters(self, checked: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> ReplicaParameters:
        """Those under check, and further ones that the loss may read."""
        return ReplicaParameters(checked, others, self._peers)

    def require_alike(self, parameters: Mapping[str, Tensor]) -> None:
        """Refuse gradients or parameters that are not the same on all ranks, bit for bit.

        Raises:
            ValueError: The message names ranks and tensors.
        """
        gradients = {name: _gradient(parameter) for name, parameter in parameters.items()}
        self._require("gradients", gradients, WHY_GRADIENTS_DIFFER)
        self._require("parameters", parameters, WHY_PARAMETERS_DIFFER)

    def _require(self, what: str, tensors: Mapping[str, Tensor | None], why: str) -> None:
        sums = [checksum(tensor) for tensor in tensors.values()]
        if not self._peers.differing(Kind.CHECKSUMS, _together(sums)):
            return
        found = {
            name: ranks
            for name, value in zip(tensors, sums, strict=True)
            if (ranks := self._peers.differing(Kind.CHECKSUMS, value))
        }
        shown = ", ".join(list(found)[:NAMED]) + (f" and {len(found) - NAMED} more" if len(found) > NAMED else "")
        differing = sorted({rank for ranks in found.values() for rank in ranks})
        raise ValueError(f"the {what} {among(differing, self._peers.ranks)} ({shown}): {why}")

    def _called(self, wrapper: nn.Module, _inputs: object, _more: object = None) -> None:
        if torch.is_grad_enabled():
            self._synchronises = bool(wrapper.require_backward_grad_sync)

    def _require_synchronised(self) -> None:
        if not self._synchronises:
            raise ValueError(f"the gradients of rank {self._peers.rank} were not synchronised: {NOT_SYNCHRONISED}")


def checksum(tensor: Tensor | None) -> int:
    """A whole number below 2^53 that a change of any single bit changes; it is summed where the tensor lies."""
    if tensor is None or not tensor.numel():
        return 0
    bits = tensor.detach().contiguous().view(BITS[tensor.element_size()])
    return int(bits.sum(dtype=torch.int64)) % EXACT


def _together(sums: Sequence[int]) -> int:
    return sum(place * value for place, value in enumerate(sums, 1)) % EXACT


def _gradient(parameter: Tensor) -> Tensor | None:
    return None if parameter.grad is None else parameter.grad.to_dense()
