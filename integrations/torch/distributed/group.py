"""A training in several processes: who they are, found from its module, and the loss that all of them have together."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gradguard.arrays.types import Float64
from gradguard.integrations.torch.distributed.exchange import Kind, RankError, RankExchange, among
from gradguard.integrations.torch.distributed.replicas import Replicas
from gradguard.integrations.torch.distributed.shards import FullyShard, ranks_of
from gradguard.loss.signature import Reduction, losses_of, require_reduction
from gradguard.report.thresholds import Thresholds

COMPARED = (int, float, str, type(None), Thresholds)  # options that must be the same on all ranks
WRITES = {"logdir": None, "writers": ()}  # what the other ranks are given instead: the first one writes


class TrainingGroup:
    """The processes of a training, of which this is one.

    Args:
        ranks: Their global ranks.
        module: The module, as it was given.
        timeout: Seconds to wait for the slowest.
        across: How the losses of the ranks add up to the one that the gradients are of.
        reduction: And how the unreduced losses of one rank do.

    Attributes:
        peers: What they tell each other by.
        across: As given.
        around: What holds while a loss is evaluated.
        stop: Leaves the module alone.
        parameters: Makes those under check, with further ones that the loss may read.
    """

    def __init__(
        self,
        ranks: list[int],
        module: nn.Module,
        timeout: float,
        across: Reduction,
        reduction: Reduction | None,
    ) -> None:
        self.peers = RankExchange(ranks, timeout)
        self.across = across
        sharded = any(isinstance(parameter, DTensor) for parameter in module.parameters())
        held = FullyShard(module, self.peers) if sharded else Replicas(self.peers, wrapper_of(module))
        self._require_alike = held.require_alike
        self._reduction = reduction
        self.around = held.evaluating
        self.stop = held.stop
        self.parameters = held.parameters

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the guard on this rank: it knows how many there are, and the first one writes."""
        known = {"world_size": len(self.peers)} if len(self.peers) > 1 else {}
        constants = known | dict(given.get("constants") or {})
        theirs = {} if self.peers.is_first else WRITES
        return {**given, **theirs, "constants": constants, "reduction": self.across}

    def require_alike(self, parameters: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        """Refuse to check other tensors, or otherwise, than the other ranks do.

        Raises:
            ValueError: The message names the ranks.
        """
        shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in parameters.items()]
        settings = sorted((name, repr(value)) for name, value in options.items() if isinstance(value, COMPARED))
        for what, compared in (("parameters", shapes), ("options of TorchGuard", settings)):
            differing = self.peers.differing(Kind.OPTIONS, zlib.crc32(repr(compared).encode()))
            if differing:
                raise ValueError(
                    f"the {what} {among(differing, self.peers.ranks)}: every rank must make the same guard of the same "
                    f"module; on rank {self.peers.rank} they are {compared}"
                )

    def loss(self, own: Callable[[], object], parameters: Mapping[str, Tensor]) -> "SharedLoss":
        """The loss of one check, of all ranks.

        Args:
            own: Evaluates that of this one.
            parameters: Those under check.
        """
        return SharedLoss(own, self.peers, self._reduction, lambda: self._require_alike(parameters))


class SharedLoss:
    """The losses of all ranks at one point: each evaluates its own part of the batch.

    Args:
        own: Evaluates the loss of this rank.
        peers: The processes.
        reduction: How unreduced losses of one rank add up.
        before: What must hold before the first evaluation.
    """

    def __init__(
        self, own: Callable[[], object], peers: RankExchange, reduction: Reduction | None, before: Callable[[], None]
    ) -> None:
        self._own = own
        self._peers = peers
        self._reduction = reduction
        self._before: Callable[[], None] | None = before

    def __call__(self) -> Float64:
        """One loss a rank, shape (ranks,), the same on all of them, to the bit.

        Raises:
            PeerError: Another rank failed, or did not come.
        """
        try:
            if self._before is not None:
                self._before()
                self._before = None
            value = self._total(self._own())
        except RankError:
            raise
        except BaseException as error:
            # A forward pass that talks to a rank that has failed may fail in its turn: the first one is the cause.
            elsewhere = self._peers.failed_elsewhere() if isinstance(error, RuntimeError) else None
            if elsewhere is not None:
                raise elsewhere from error
            self._peers.announce_failure(error)
            raise
        return self._peers.exchange(Kind.LOSS, value, point=self._peers.point)[:, 0]

    def _total(self, result: object) -> float:
        losses = losses_of(result, self._reduction).astype(np.float64)
        return float(losses.mean() if self._reduction == "mean" else losses.sum())


def chain(module: nn.Module) -> list[nn.Module]:
    """A module, and what it wraps where it is compiled or distributed: the last has the names that its author gave."""
    name = "module" if isinstance(module, DistributedDataParallel) else "_orig_mod"
    inner = getattr(module, name, None)
    return [module, *chain(inner)] if isinstance(inner, nn.Module) else [module]


def wrapper_of(module: nn.Module) -> DistributedDataParallel | None:
    """What averages the gradients of a module over processes; None where nothing does."""
    return next((part for part in chain(module) if isinstance(part, DistributedDataParallel)), None)


def company_of(
    module: nn.Module, group: distributed.ProcessGroup | None, timeout: float, across: str, reduction: str | None
) -> TrainingGroup | None:
    """The processes that train a module together; None where there is but one.

    Raises:
        ValueError: `across`, `reduction` or `timeout` is out of its range.
        RuntimeError: Not all of them come here.
    """
    if across not in ("mean", "sum"):
        raise ValueError(f"across is {across!r}; expected 'mean' or 'sum'")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; expected a number of seconds above 0")
    ranks = _ranks(module, group)
    if len(ranks) < 2 and not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
        return None
    return TrainingGroup(ranks, module, timeout, across, require_reduction(reduction))  # type: ignore[arg-type]  # compared


def _ranks(module: nn.Module, group: distributed.ProcessGroup | None) -> list[int]:
    """The global ranks of those that train a module together."""
    wrapper, parameters = wrapper_of(module), module.parameters()
    sharded = next((parameter for parameter in parameters if isinstance(parameter, DTensor)), None)
    if group is None and sharded is not None:
        return ranks_of(sharded)
    group = wrapper.process_group if group is None and wrapper is not None else group
    return [] if group is None else distributed.get_process_group_ranks(group)
