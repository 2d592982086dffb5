"""The callback for PyTorch: which parameters of a module are checked, and where in the step."""

import itertools
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from gradguard.arrays.types import Array
from gradguard.arrays.validation import require_movable
from gradguard.integrations.torch.distributed.group import chain, company_of, wrapper_of
from gradguard.integrations.torch.distributed.shards import (
    ShardParameters,
    local,
    require_placed,
    reshard,
    sharded_parts,
)
from gradguard.integrations.torch.parameters import MOVABLE, Parameters
from gradguard.integrations.torch.replay.evaluation import Evaluation
from gradguard.integrations.torch.replay.forwards import Forwards
from gradguard.integrations.torch.replay.state import Carried, Streams
from gradguard.loss.signature import takes_parameters
from gradguard.perturbation.snapshots import Snapshot, snapshot_rng, together
from gradguard.report.results import Report
from gradguard.training.callback import CloseOnExit, GradGuard, HistoryRow
from gradguard.training.ranks import ALONE

LOG = logging.getLogger("gradguard")

Loss = Callable[[], object]


class TorchGuard(CloseOnExit):
    """Checks the gradients of a module while it trains.

    Call `after_backward` between `loss.backward()` and `optimizer.step()`, or let `hook` do so. The loss is evaluated
    under `no_grad`, each time from where the training's forward pass started: the same dropout masks, buffers and
    hidden states, the same autocast. Afterwards all is as it was, bit for bit.

    Under `DistributedDataParallel` every rank makes one and calls it at the same steps: each evaluates the loss of its
    own part of the batch, and the first one writes.

    Args:
        module: The module that the training calls.
        optimizer: Whose parameters are checked; without one, all that require a gradient.
        loss: `loss()` calls the module on the current batch and returns what `backward` was called on; may be given
            with each call instead.
        snapshot: As of `GradGuard`, and taken before each forward pass too; PyTorch's own random streams, buffers, and
            attributes of the module that are tensors or numbers, need none.
        across: How the losses of several processes add up to the one that the gradients are of: "mean", as
            `DistributedDataParallel` averages them, or "sum".
        group: The processes that average their gradients, where the training does that itself.
        timeout: Seconds to wait for the slowest of them.
        **options: Those of `GradGuard`: `every_n_steps`, `logdir`, `constants`, `on_alert` and so on.

    Attributes:
        guard: The `GradGuard` that does the work.
        skipped: The parameters of the module that are not checked, each with the reason.

    Raises:
        TypeError: Something is of a kind that cannot be checked; the message names it.
        ValueError: There is nothing to check, or an option's value does not fit.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer | None = None,
        loss: Loss | None = None,
        *,
        snapshot: Snapshot | Iterable[Snapshot] | None = None,
        across: str = "mean",
        group: ProcessGroup | None = None,
        timeout: float = 300.0,
        **options: Any,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"module is a {type(module).__name__}; expected the torch.nn.Module that the training calls"
            )
        if optimizer is not None and not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer, or None")
        self._optimizer = optimizer
        self._loss = loss if loss is None else _require_loss(loss)
        reshard(sharded_parts(module))  # while they are gathered, the module shows others than the optimizer has
        inner, wrapper = chain(module)[-1], wrapper_of(module)
        ignored = set() if wrapper is None else wrapper.parameters_to_ignore
        checked, self.skipped = _chosen(inner, optimizer, ignored)
        others = {name: tensor for name, tensor in inner.named_parameters() if name not in checked}
        self._company = company_of(module, group, timeout, across, options.get("reduction"))
        if self._company is not None:
            self._company.require_alike(checked, options | {"across": across})
            options = self._company.options(options)
        ranks = ALONE if self._company is None else self._company.peers
        self._params: Parameters | ShardParameters = (
            Parameters(checked, others, buffers=inner.buffers)
            if self._company is None
            else self._company.parameters(checked, others)
        )
        streams, self._carried = Streams({tensor.device for tensor in checked.values()}), Carried(inner)
        others_streams = [snapshot_rng(np.random), snapshot_rng(random)]
        extra = together(snapshot)
        self.guard = GradGuard(
            self._params, snapshot=[self._carried.capture_all, streams.capture, *others_streams, extra], **options
        )
        if self.skipped and ranks.is_first:
            LOG.info("not checked: %s", "; ".join(f"{name} ({why})" for name, why in self.skipped.items()))
        capture = together([self._carried.capture, streams.capture, extra])
        # A distributed module changes buffers and inputs before it calls the one within.
        called = module if wrapper is None else wrapper.module
        self._forwards = Forwards(called, capture, streams, self._params.device)
        self._hooks = [optimizer.register_step_post_hook(self._updated)] if optimizer is not None else []

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return self.guard.report

    @property
    def history(self) -> deque[HistoryRow]:
        """One row a check."""
        return self.guard.history

    def after_backward(
        self, step: int, loss: Loss | None = None, *, constants: Mapping[str, float] | None = None
    ) -> Report | None:
        """Check the gradients that the optimizer is about to use, if a check is due.

        Args:
            step: The training step; it never goes backwards.
            loss: `loss()` on the batch that the gradients are of; needed unless it was given to the guard.
            constants: Of this step, where they change, such as the loss scale.

        Returns:
            The report, or None when the schedule or the budget skips this step.

        Raises:
            TypeError: The loss is of a kind that cannot be checked.
            ValueError: There is no loss, it cannot be the one that the gradients are of, or steps go backwards.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
        """
        chosen = self._loss if loss is None else _require_loss(loss)
        if chosen is None:
            raise ValueError("there is no loss; pass loss= to TorchGuard or to after_backward: loss() calls the module")
        self._carried.learn()
        autocast = self._forwards.autocast
        self._params.autocast = autocast.dtype if autocast is not None else None
        try:
            gradients = self._params.gradients()
            return self.guard.after_backward(step, gradients, self._evaluated(chosen), constants=constants)
        finally:
            self._forwards.over()

    def hook(self) -> None:
        """Check from within `optimizer.step()`, before it updates; steps are counted from 0.

        Raises:
            ValueError: There is no optimizer, or no loss was given to the guard.
        """
        if self._optimizer is None or self._loss is None:
            raise ValueError(
                "hook() needs TorchGuard(module, optimizer, loss=...): the optimizer to hook, and the loss"
            )
        steps = itertools.count()

        def before_step(_optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if any(argument is not None for argument in (*args[1:], *kwargs.values())):  # the first is the optimizer
                raise ValueError(
                    "optimizer.step is called with a closure, which computes the gradients within the step; call "
                    "guard.after_backward(step) at the end of the closure instead of guard.hook()"
                )
            self.after_backward(next(steps))

        self._hooks.append(self._optimizer.register_step_pre_hook(before_step))

    def close(self) -> None:
        """Close the writers and leave module and optimizer alone; once is enough, twice does no harm."""
        for handle in self._hooks:
            handle.remove()
        self._forwards.stop()
        if self._company is not None:
            self._company.stop()
        self.guard.close()

    def _evaluated(self, loss: Loss) -> Loss:
        if self._company is None:
            return Evaluation(loss, self._forwards)
        own = Evaluation(loss, self._forwards, self._company.around)
        return self._company.loss(own, self._params.tensors)

    def _updated(self, _optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._forwards.over()


def _require_loss(loss: object) -> Loss:
    if takes_parameters(loss):  # type: ignore[arg-type]  # it is asked whether it is callable
        raise TypeError("loss wants an argument; expected loss(), such as lambda: criterion(model(x), y)")
    return loss  # type: ignore[return-value]  # as above


def _chosen(
    module: nn.Module, optimizer: Optimizer | None, ignored: Collection[str]
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """The parameters to check by name, each once, and why not the others.

    Raises:
        TypeError: A parameter is of a kind that cannot be checked.
        ValueError: There is none to check.
    """
    updated = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    checked, skipped = {}, {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            skipped[name] = "frozen"
        elif updated is not None and id(parameter) not in updated:
            skipped[name] = "not in the optimizer"
        elif name in ignored:
            skipped[name] = "ignored by DistributedDataParallel"
        else:
            checked[name] = _require_movable(name, parameter)
    require_movable({name: _memory(tensor) for name, tensor in checked.items() if tensor.device.type == "cpu"})
    if not checked:
        told = ", ".join(f"{name} is {why}" for name, why in skipped.items()) or "it has no parameters"
        raise ValueError(f"the module has nothing to check: {told}")
    return checked, skipped


def _memory(tensor: Tensor) -> Array:
    """Where it lies, for NumPy, which has no bfloat16."""
    data = local(tensor).detach()
    array: Array = (data.view(torch.int16) if data.dtype is torch.bfloat16 else data).numpy()
    return array


def _require_movable(name: str, parameter: nn.Parameter) -> nn.Parameter:
    if nn.parameter.is_lazy(parameter):
        raise ValueError(f"parameter {name!r} has no shape yet; call the module once before it is guarded")
    if parameter.dtype not in MOVABLE:
        raise TypeError(
            f"parameter {name!r} has dtype {parameter.dtype}; expected float16, bfloat16, float32 or float64"
        )
    require_placed(name, parameter)
    if parameter.layout is not torch.strided or parameter.device.type in ("meta", "mps"):
        raise TypeError(
            f"parameter {name!r} is {parameter.layout} on {parameter.device}; expected a dense tensor on a device that "
            "computes in float64 too"
        )
    return parameter
