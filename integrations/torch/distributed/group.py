"""The processes that train a module together, and the loss of all of them."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gradguard.arrays import Float64
from gradguard.differences import RoundedValue, require_one_number
from gradguard.functions import CallsFunctions
from gradguard.integrations.torch.distributed.exchange import ExchangeKind, RankError, RankExchange, describe_difference
from gradguard.integrations.torch.distributed.replicas import Replicas
from gradguard.integrations.torch.distributed.shards import FullyShardedModule, global_ranks
from gradguard.loss import Reduction, losses_of, require_reduction
from gradguard.report import FunctionReport, Thresholds

COMPARED_OPTION_TYPES = (int, float, str, type(None), Thresholds)
"""Options of these types must be the same on all ranks; others cannot be compared."""
NO_WRITERS = {"logdir": None, "writers": ()}
"""Options of every rank but the first, which alone writes."""


class TrainingGroup:
    """The processes that train a module together, seen from one of them.

    Args:
        ranks: Their global ranks.
        module: The module, as it was given to the guard.
        timeout: Seconds to wait for the slowest rank.
        across: How the losses of the ranks combine to the loss that the gradients are of.
        reduction: How the unreduced losses of one rank combine to its loss.

    Attributes:
        exchange: The exchange of numbers between the ranks.
        across: As given.
        evaluating: Makes the context of an evaluation of the loss.
        stop: Removes all hooks from the module.
        parameters: Makes the mapping of parameters: from those under check, others that the loss may read, and what
            returns the tensors that it may write to.
    """

    def __init__(
        self,
        ranks: list[int],
        module: nn.Module,
        timeout: float,
        across: Reduction,
        reduction: Reduction | None,
    ) -> None:
        self.exchange = RankExchange(ranks, timeout)
        self.across = across
        layout = (
            FullyShardedModule(module, self.exchange)
            if has_sharded_parameters(module)
            else Replicas(self.exchange, ddp_wrapper(module))
        )
        self._is_replicated = isinstance(layout, Replicas)
        self._require_comparable = layout.require_comparable
        self._reduction = reduction
        self.evaluating = layout.evaluating
        self.stop = layout.stop
        self.parameters = layout.parameters

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of the guard on this rank: those of the user with `world_size`, and writers on the first rank."""
        world_size = {"world_size": len(self.exchange)} if len(self.exchange) > 1 else {}
        constants = world_size | dict(options.get("constants") or {})
        writers = {} if self.exchange.is_first else NO_WRITERS
        return {**options, **writers, "constants": constants, "reduction": self.across}

    def require_same_guard(self, parameters: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        """Refuse parameters or options that differ between the ranks.

        Raises:
            ValueError: They differ; the message names the ranks.
        """
        shapes = [(name, tuple(tensor.shape), str(tensor.dtype)) for name, tensor in parameters.items()]
        settings = sorted(
            (name, repr(value))
            for name, value in options.items()
            if isinstance(value, COMPARED_OPTION_TYPES) and name not in NO_WRITERS
        )
        for what, compared in (("parameters", shapes), ("options of TorchGuard", settings)):
            differing = self.exchange.differing(ExchangeKind.OPTIONS, zlib.crc32(repr(compared).encode()))
            if differing:
                raise ValueError(
                    f"the {what} {describe_difference(differing, self.exchange.ranks)}: every rank must make the same "
                    f"guard of the same module; on rank {self.exchange.rank} they are {compared}"
                )

    def value(self, rank_value: object) -> "SharedValue":
        """The loss that the training computed on all ranks, from that of this rank, which is not read yet.

        Raises:
            TypeError: It is not one number.
        """
        require_one_number(rank_value)
        return SharedValue(rank_value, self.exchange, self.across)

    def loss(self, rank_loss: Callable[[], object], parameters: Mapping[str, Tensor]) -> "SharedLoss":
        """The loss of one check on all ranks.

        Args:
            rank_loss: Evaluates the loss of this rank.
            parameters: The parameters under check.
        """
        functions = rank_loss if self._is_replicated and isinstance(rank_loss, CallsFunctions) else None
        compare = functools.partial(self._require_comparable, parameters)
        return SharedLoss(rank_loss, self.exchange, self._reduction, compare, functions)


class SharedLoss:
    """The losses of all ranks at one point: each rank evaluates the loss of its own part of the batch.

    Args:
        rank_loss: Evaluates the loss of this rank.
        exchange: The exchange of numbers between the ranks.
        reduction: How the unreduced losses of one rank combine to its loss.
        before_first: Called before the first evaluation; it raises where the ranks cannot check together.
        functions: What checks the Functions that the loss of this rank calls; None where a forward and backward pass
            besides the training's would disturb it, as with sharded parameters.

    Attributes:
        is_repeatable: False: the other ranks would not repeat a call that raised on this one.
    """

    is_repeatable = False

    def __init__(
        self,
        rank_loss: Callable[[], object],
        exchange: RankExchange,
        reduction: Reduction | None,
        before_first: Callable[[], None],
        functions: CallsFunctions | None = None,
    ) -> None:
        self._functions = functions
        self._rank_loss = rank_loss
        self._exchange = exchange
        self._reduction = reduction
        self._before_first: Callable[[], None] | None = before_first

    def __call__(self) -> Float64:
        """The loss of each rank, shape (ranks,): the same on all ranks, bit for bit.

        Raises:
            RankError: Another rank failed, or did not come.
        """
        try:
            if self._before_first is not None:
                self._before_first()
                self._before_first = None
            value = self._reduce(self._rank_loss())
        except RankError:
            raise
        except BaseException as error:
            # A forward pass that waits for a rank that has failed may fail in turn: that rank's error is the cause.
            cause = self._exchange.failure_of_another_rank() if isinstance(error, RuntimeError) else None
            if cause is not None:
                raise cause from error
            self._exchange.announce_failure(error)
            raise
        return self._exchange.exchange(ExchangeKind.LOSS, value, point=self._exchange.perturbations.point)[:, 0]

    def check_functions(self) -> Sequence[FunctionReport]:
        """The check of each Function that the loss of this rank calls.

        All ranks make a forward and a backward pass, in which modules may communicate; then each checks alone.
        """
        return () if self._functions is None else self._functions.check_functions()

    @property
    def gradient_hooks(self) -> Sequence[str]:
        """The user's hooks that may change the gradients, once the Functions are checked."""
        hooks: Sequence[str] = getattr(self._functions, "gradient_hooks", ())
        return hooks

    def _reduce(self, result: object) -> float:
        losses = losses_of(result, self._reduction).astype(np.float64)
        return float(losses.mean() if self._reduction == "mean" else losses.sum())


class SharedValue:
    """The loss that the training computed on all ranks; `float` of it exchanges the values, on all ranks at once.

    Args:
        rank_value: The loss of this rank.
        exchange: The exchange of numbers between the ranks.
        across: How the losses of the ranks combine.
    """

    def __init__(self, rank_value: object, exchange: RankExchange, across: Reduction) -> None:
        self._rank_value = rank_value
        self._exchange = exchange
        self._across = across
        self.dtype = getattr(rank_value, "dtype", "")

    def __float__(self) -> float:
        rows = self._exchange.exchange(ExchangeKind.LOSS, RoundedValue.of(self._rank_value).value)[:, 0]
        return float(rows.mean() if self._across == "mean" else rows.sum())


def unwrap(module: nn.Module) -> list[nn.Module]:
    """A module and the modules that it wraps, where it is compiled or distributed.

    The last one is that of the user, with the user's names of the parameters.
    """
    name = "module" if isinstance(module, DistributedDataParallel) else "_orig_mod"
    inner = getattr(module, name, None)
    return [module, *unwrap(inner)] if isinstance(inner, nn.Module) else [module]


def ddp_wrapper(module: nn.Module) -> DistributedDataParallel | None:
    """The `DistributedDataParallel` around a module, which averages its gradients; None where there is none."""
    return next((part for part in unwrap(module) if isinstance(part, DistributedDataParallel)), None)


def has_sharded_parameters(module: nn.Module) -> bool:
    """Whether any parameter is spread over processes."""
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def find_group(
    module: nn.Module, group: distributed.ProcessGroup | None, timeout: float, across: str, reduction: str | None
) -> TrainingGroup | None:
    """The processes that train a module together; None where there is only one.

    Raises:
        ValueError: `across`, `reduction` or `timeout` is out of its range.
        RuntimeError: Not every rank makes its guard within the timeout.
    """
    if across not in ("mean", "sum"):
        raise ValueError(f"across is {across!r}; expected 'mean' or 'sum'")
    if not timeout > 0:
        raise ValueError(f"timeout is {timeout!r}; expected a number of seconds above 0")
    ranks = _find_ranks(module, group)
    if len(ranks) < 2 and not has_sharded_parameters(module):
        return None
    return TrainingGroup(ranks, module, timeout, across, require_reduction(reduction))  # type: ignore[arg-type]  # compared


def _find_ranks(module: nn.Module, group: distributed.ProcessGroup | None) -> list[int]:
    """The global ranks of the processes that train a module together; none where it is not distributed."""
    wrapper, parameters = ddp_wrapper(module), module.parameters()
    sharded = next((parameter for parameter in parameters if isinstance(parameter, DTensor)), None)
    if group is None and sharded is not None:
        return global_ranks(sharded)
    group = wrapper.process_group if group is None and wrapper is not None else group
    return [] if group is None else distributed.get_process_group_ranks(group)
