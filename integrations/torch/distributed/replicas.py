"""Parameters that every process holds as a whole, as under `DistributedDataParallel`, and whether the ranks agree."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradguard.arrays import Array
from gradguard.integrations.torch.distributed.exchange import ExchangeKind, RankExchange, describe_difference
from gradguard.integrations.torch.distributed.points import ALONG_DIRECTION, WHOLE_TENSOR, Perturbations
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.replay.forwards import ForwardHook
from gradguard.integrations.torch.spaces import Tensors
from gradguard.integrations.torch.tensors import CHECKSUM_MODULUS, checksum
from gradguard.perturbation import PerturbedTensor, Space

MAX_TENSORS_IN_MESSAGE = 3  # enough to see which kind of tensor differs; the message counts the others
NOT_SYNCHRONISED = (
    "its last forward pass before the check ran within no_sync(), so its gradients are not averaged; "
    "end no_sync() before the last forward pass of a step, and check after the backward() of that pass"
)
WHY_GRADIENTS_DIFFER = (
    "they were not averaged over the ranks, or one of them changed its own afterwards: a no_sync() left open, a "
    "backward pass of the module within, or clipping and scaling that depend on the rank"
)
WHY_PARAMETERS_DIFFER = "a checkpoint was loaded, or a parameter written, on some of the ranks alone"


class ReplicaParameters(Parameters):
    """Parameters of which every rank holds a copy and perturbs it in the same way.

    Args:
        checked: The parameters under check.
        others: Returns other parameters that the loss may read.
        exchange: The exchange of numbers between the ranks.
        written: Returns what the loss may write to.
    """

    def __init__(
        self, checked: Mapping[str, Tensor], others: Tensors, exchange: RankExchange, written: Tensors
    ) -> None:
        super().__init__(checked, others, exchange, written)
        self._exchange = exchange

    def native(self) -> Space:
        """The space of the live parameters."""
        return TrackedSpace(super().native(), self._exchange)

    def float64_copies(self) -> Space:
        """The space of float64 copies of all parameters."""
        return TrackedSpace(super().float64_copies(), self._exchange)

    def tangents(self) -> None:
        """No forward mode: where it failed in the forward pass of one rank, the other ranks would wait for that."""

    def exact_gradients(self, loss: Callable[[], object], reduction: str | None) -> None:
        """No reverse pass, for the same reason."""


class TrackedSpace:
    """A space that records each perturbation for the exchange, whose ranks compare them with each loss.

    Args:
        space: The space.
        exchange: The exchange of numbers between the ranks.
    """

    def __init__(self, space: Space, exchange: RankExchange) -> None:
        self.precision = space.precision
        self.arrays: Mapping[str, Array] = space.arrays
        self.spacing = space.spacing
        self.installed = space.installed
        self._space = space
        self._exchange = exchange

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor, to be perturbed within a `with`, which restores it."""
        number = list(self.arrays).index(name)
        return _TrackedMove(self._space.moving(name), self._exchange.perturbations, number)


class _TrackedMove(AbstractContextManager[PerturbedTensor]):
    def __init__(
        self, move: AbstractContextManager[PerturbedTensor], perturbations: Perturbations, number: int
    ) -> None:
        self._move = move
        self._perturbations = perturbations
        self._number = number

    def __enter__(self) -> PerturbedTensor:
        return PerturbedReplica(self._move.__enter__(), self._perturbations, self._number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._perturbations.forget(self._number)
        self._move.__exit__(kind, error, trace)


class PerturbedReplica:
    """A `PerturbedTensor` that records each perturbation for the exchange.

    Args:
        tensor: The tensor of this rank.
        perturbations: The tensors that this rank has perturbed.
        number: The number of the tensor among the parameters.
    """

    def __init__(self, tensor: PerturbedTensor, perturbations: Perturbations, number: int) -> None:
        self._tensor = tensor
        self._perturbations = perturbations
        self._number = number

    @property
    def base(self) -> Array:  # noqa: D102 - as in PerturbedTensor
        return self._tensor.base

    def write(self, values: Array) -> None:  # noqa: D102 - as in PerturbedTensor
        self._perturbations.record(self._number, WHOLE_TENSOR)
        self._tensor.write(values)

    def displace(self, vector: Array, amount: float, gradient: Array) -> tuple[float, float]:  # noqa: D102 - as in PerturbedTensor
        self._perturbations.record(self._number, ALONG_DIRECTION, amount)
        return self._tensor.displace(vector, amount, gradient)

    def displace_entry(self, index: tuple[int, ...], amount: float) -> float:  # noqa: D102 - as in PerturbedTensor
        entry = float(np.ravel_multi_index(index, self.base.shape))
        self._perturbations.record(self._number, entry, amount)
        return self._tensor.displace_entry(index, amount)

    def restore(self, index: tuple[int, ...] | None = None) -> None:  # noqa: D102 - as in PerturbedTensor
        self._perturbations.forget(self._number)
        self._tensor.restore(index)


class Replicas:
    """A module of which every process holds a copy.

    Args:
        exchange: The exchange of numbers between the ranks.
        wrapper: The wrapper that averages the gradients; None where the training does so itself.
    """

    def __init__(self, exchange: RankExchange, wrapper: DistributedDataParallel | None) -> None:
        self._exchange = exchange
        self._wrapper = wrapper
        self._is_synchronized = True  # the gradients of the latest forward pass
        self._hooks = [] if wrapper is None else [wrapper.register_forward_pre_hook(ForwardHook(self._before_forward))]
        exchange.before_check = self._require_synchronized

    def stop(self) -> None:
        """Remove the hooks from the module."""
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The context of an evaluation, without a broadcast of buffers and without an average of gradients."""
        if self._wrapper is None:
            yield
            return
        wrapper, is_synchronized = self._wrapper, self._is_synchronized
        before = wrapper.require_forward_param_sync, wrapper.require_backward_grad_sync
        wrapper.require_forward_param_sync = wrapper.require_backward_grad_sync = False
        try:
            yield
        finally:
            wrapper.require_forward_param_sync, wrapper.require_backward_grad_sync = before
            self._is_synchronized = is_synchronized

    def parameters(self, checked: Mapping[str, Tensor], others: Tensors, written: Tensors) -> ReplicaParameters:
        """The mapping of the parameters under check; the loss may read `others`, and write to what is `written`."""
        return ReplicaParameters(checked, others, self._exchange, written)

    def require_comparable(self, parameters: Mapping[str, Tensor]) -> None:
        """Refuse gradients or parameters that are not the same on all ranks, bit for bit.

        Raises:
            ValueError: They differ; the message names the ranks and the tensors.
        """
        gradients = {name: _gradient(parameter) for name, parameter in parameters.items()}
        self._require_equal("gradients", gradients, WHY_GRADIENTS_DIFFER)
        self._require_equal("parameters", parameters, WHY_PARAMETERS_DIFFER)

    def _require_equal(self, what: str, tensors: Mapping[str, Tensor | None], why: str) -> None:
        checksums = {name: checksum(tensor) for name, tensor in tensors.items()}
        if not self._exchange.differing(ExchangeKind.CHECKSUMS, _combined(list(checksums.values()))):
            return
        ranks = {name: self._exchange.differing(ExchangeKind.CHECKSUMS, value) for name, value in checksums.items()}
        names = [name for name in tensors if ranks[name]]
        more = len(names) - MAX_TENSORS_IN_MESSAGE
        listed = ", ".join(names[:MAX_TENSORS_IN_MESSAGE]) + (f" and {more} more" if more > 0 else "")
        differing = sorted({rank for name in names for rank in ranks[name]})
        raise ValueError(f"the {what} {describe_difference(differing, self._exchange.ranks)} ({listed}): {why}")

    def _before_forward(self, wrapper: nn.Module, _inputs: object, _more: object = None) -> None:
        if torch.is_grad_enabled():
            self._is_synchronized = bool(wrapper.require_backward_grad_sync)

    def _require_synchronized(self) -> None:
        if not self._is_synchronized:
            raise ValueError(f"the gradients of rank {self._exchange.rank} were not synchronised: {NOT_SYNCHRONISED}")


def _combined(checksums: Sequence[int]) -> int:
    """One checksum of many, which changes with their order too."""
    return sum(i * value for i, value in enumerate(checksums, 1)) % CHECKSUM_MODULUS


def _gradient(parameter: Tensor) -> Tensor | None:
    return None if parameter.grad is None else parameter.grad.to_dense()
