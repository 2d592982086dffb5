"""The guard of a PyTorch module: which parameters it checks, and when in a training step."""

import itertools
import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from gradguard.arrays import Array, require_movable
from gradguard.integrations.torch.distributed.group import ddp_wrapper, find_group, unwrap
from gradguard.integrations.torch.distributed.shards import (
    ShardParameters,
    local_tensor,
    require_supported_placement,
    reshard,
    sharded_parts,
)
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.replay.evaluation import ReplayedLoss
from gradguard.integrations.torch.replay.forwards import ForwardRecorder
from gradguard.integrations.torch.replay.state import ModuleState, RandomStreams
from gradguard.integrations.torch.tensors import PERTURBABLE_DTYPES
from gradguard.loss import takes_parameters
from gradguard.perturbation import Snapshot, combined_snapshot, snapshot_rng
from gradguard.report import CheckHistory, Report, log_message
from gradguard.training import CloseOnExit, GradGuard

LOG = logging.getLogger("gradguard")

Loss = Callable[[], object]


class TorchGuard(CloseOnExit):
    """Checks the gradients of a module while it trains.

    Call `after_backward` between `loss.backward()` and `optimizer.step()`, or let `hook` do so. The loss is evaluated
    under `no_grad`, and each forward pass in it starts from what the training's started from: the same dropout masks,
    buffers and hidden states, the same autocast. After a check everything is as it was, bit for bit.

    Under `DistributedDataParallel` or `fully_shard` every rank makes a guard and calls it at the same steps. Each rank
    evaluates the loss of its own part of the batch, and the first rank writes.

    Args:
        module: The module that the training calls.
        optimizer: The optimizer whose parameters are checked; without one, all parameters that require a gradient are.
        loss: `loss()` calls the module on the current batch and returns what `backward` was called on; it may be
            passed with each call instead.
        snapshot: As for `GradGuard`, and also taken before each forward pass. PyTorch's random streams, buffers, and
            attributes of the module that are tensors or numbers do not need one.
        across: How the losses of several processes combine to the loss that the gradients are of: "mean", as
            `DistributedDataParallel` averages the gradients, or "sum".
        group: The processes that average their gradients, where the training does that itself.
        timeout: Seconds to wait for the slowest process.
        **options: Options of `GradGuard`: `every_n_steps`, `logdir`, `constants`, `on_alert` and so on.

    Attributes:
        guard: The `GradGuard` that makes the checks.
        skipped: The parameters of the module that are not checked, each with the reason.

    Raises:
        TypeError: An argument is of a kind that cannot be checked; the message names it.
        ValueError: There is nothing to check, or the value of an option is out of its range.
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
        _require_types(module, optimizer)
        self._optimizer = optimizer
        self._loss = loss if loss is None else _require_loss(loss)
        # Gathered parameters are not those of the optimizer, and `named_parameters` would return them.
        reshard(sharded_parts(module))
        inner, wrapper = unwrap(module)[-1], ddp_wrapper(module)
        ignored = set() if wrapper is None else wrapper.parameters_to_ignore
        checked, self.skipped = _choose_parameters(inner, optimizer, ignored)
        others = {name: tensor for name, tensor in inner.named_parameters() if name not in checked}
        self._group = find_group(module, group, timeout, across, options.get("reduction"))
        if self._group is not None:
            self._group.require_same_guard(checked, options | {"across": across})
            options = self._group.options(options)
        self._params: Parameters | ShardParameters = (
            Parameters(checked, others, buffers=inner.buffers)
            if self._group is None
            else self._group.parameters(checked, others)
        )
        streams, self._state = RandomStreams({tensor.device for tensor in checked.values()}), ModuleState(inner)
        user_snapshot = combined_snapshot(snapshot)
        # What an evaluation of the loss may change; NumPy's and Python's streams too, from which it may draw.
        snapshots = [self._state.capture_all, streams.capture, snapshot_rng(np.random), snapshot_rng(random)]
        self.guard = GradGuard(self._params, snapshot=[*snapshots, user_snapshot], **options)
        if self.skipped and self._params.ranks.is_first:
            skipped = "; ".join(f"{name} ({why})" for name, why in self.skipped.items())
            LOG.info("%s", log_message(f"not checked: {skipped}", more="(more in guard.skipped)"))
        capture = combined_snapshot([self._state.capture, streams.capture, user_snapshot])
        # A `DistributedDataParallel` changes buffers and inputs before it calls the module in it.
        called = module if wrapper is None else wrapper.module
        self._forwards = ForwardRecorder(called, capture, streams, self._params.device)
        self._hooks = [optimizer.register_step_post_hook(self._after_update)] if optimizer is not None else []

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return self.guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return self.guard.history

    def after_backward(
        self,
        step: int,
        loss: Loss | None = None,
        *,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report | None:
        """Check the gradients that the optimizer is about to use, if a check is due.

        Args:
            step: The training step, not before that of the last call.
            loss: `loss()` on the batch of these gradients; required unless the guard has one.
            value: The loss that the training itself computed, on this rank's part of the batch: a tensor or a number.
                It is read at a check only, so that no other step waits for the device. Where the guard's loss is
                another one, the verdict is `other_loss`, and nothing is measured.
            constants: Those that change from step to step, such as the loss scale; they override the guard's.

        Returns:
            The report, or None where the schedule or the budget skips this step.

        Raises:
            TypeError: The loss or its value is of a kind that cannot be checked.
            ValueError: There is no loss, it cannot be the one that the gradients are of, or the step goes backwards.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RankError: In a training of several processes, another rank failed or did not come.
        """
        chosen = self._loss if loss is None else _require_loss(loss)
        if chosen is None:
            raise ValueError("there is no loss; pass loss= to TorchGuard or to after_backward: loss() calls the module")
        self._state.learn_changing()
        autocast = self._forwards.autocast
        self._params.autocast = autocast.dtype if autocast is not None else None
        try:
            gradients = self._params.gradients()
            if self._group is not None and value is not None:
                value = self._group.value(value)
            return self.guard.after_backward(step, gradients, self._replayed(chosen), value=value, constants=constants)
        finally:
            self._forwards.end_step()

    def hook(self) -> None:
        """Make `optimizer.step()` call `after_backward` before it updates, with steps counted from 0.

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
        """Close the writers and remove all hooks from the module and the optimizer; a second call does nothing."""
        for handle in self._hooks:
            handle.remove()
        self._forwards.stop()
        if self._group is not None:
            self._group.stop()
        self.guard.close()

    def _replayed(self, loss: Loss) -> Loss:
        """The user's loss as the core evaluates it, on all ranks where there are several."""
        if self._group is None:
            return ReplayedLoss(loss, self._forwards)
        rank_loss = ReplayedLoss(loss, self._forwards, self._group.evaluating)
        return self._group.loss(rank_loss, self._params.tensors)

    def _after_update(self, _optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._forwards.end_step_by_update()


def _require_types(module: object, optimizer: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; expected the torch.nn.Module that the training calls")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer, or None")


def _require_loss(loss: object) -> Loss:
    if takes_parameters(loss):  # type: ignore[arg-type]  # it raises where the loss is not callable
        raise TypeError("loss wants an argument; expected loss(), such as lambda: criterion(model(x), y)")
    return loss  # type: ignore[return-value]  # as above


def _choose_parameters(
    module: nn.Module, optimizer: Optimizer | None, ignored: Collection[str]
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """The parameters to check by name, each once, and the reason for each other one.

    Args:
        module: The module with the user's names of the parameters.
        optimizer: The optimizer whose parameters are checked; None for all that require a gradient.
        ignored: The names of those that `DistributedDataParallel` ignores.

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
            checked[name] = _require_perturbable(name, parameter)
    require_movable({name: _memory_view(tensor) for name, tensor in checked.items() if tensor.device.type == "cpu"})
    if not checked:
        reasons = ", ".join(f"{name} is {why}" for name, why in skipped.items()) or "it has no parameters"
        raise ValueError(f"the module has nothing to check: {reasons}")
    return checked, skipped


def _memory_view(tensor: Tensor) -> Array:
    """An array on the memory of a tensor, with integers for bfloat16, which NumPy does not have."""
    data = local_tensor(tensor).detach()
    array: Array = (data.view(torch.int16) if data.dtype is torch.bfloat16 else data).numpy()
    return array


def _require_perturbable(name: str, parameter: nn.Parameter) -> nn.Parameter:
    if nn.parameter.is_lazy(parameter):
        raise ValueError(f"parameter {name!r} has no shape yet; call the module once before it is guarded")
    if parameter.dtype not in PERTURBABLE_DTYPES:
        raise TypeError(
            f"parameter {name!r} has dtype {parameter.dtype}; expected float16, bfloat16, float32 or float64"
        )
    require_supported_placement(name, parameter)
    if parameter.layout is not torch.strided or parameter.device.type in ("meta", "mps"):
        raise TypeError(
            f"parameter {name!r} is {parameter.layout} on {parameter.device}; expected a dense tensor on a device that "
            "computes in float64 too"
        )
    return parameter
