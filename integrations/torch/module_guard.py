"""What the guards of a PyTorch module have in common: which parameters they check, and what a check restores."""

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from gradguard.arrays import Array, require_movable
from gradguard.integrations.torch.distributed.group import SharedLoss, ddp_wrapper, find_group, unwrap
from gradguard.integrations.torch.distributed.shards import (
    ShardParameters,
    local_tensor,
    require_supported_placement,
    reshard,
    sharded_parts,
)
from gradguard.integrations.torch.parameters import Parameters
from gradguard.integrations.torch.replay.evaluation import Context
from gradguard.integrations.torch.replay.functions import LossState
from gradguard.integrations.torch.replay.state import ModuleState, RandomStreams
from gradguard.integrations.torch.tensors import PERTURBABLE_DTYPES
from gradguard.perturbation import Snapshot, combined_snapshot, run_with_cleanup, snapshot_rng
from gradguard.report import CheckHistory, Report, log_message
from gradguard.training import CloseOnExit, GradGuard

LOG = logging.getLogger("gradguard")

Loss = Callable[[], object]


class ModuleGuard(CloseOnExit):
    """Base of the guards of a module, in one process or several.

    Args:
        module: The module that the training calls, in its wrapper where it is distributed.
        optimizer: The optimizer whose parameters are checked; without one, all parameters that require a gradient are.
        snapshot: As for `GradGuard`.
        others: Other objects whose attributes a training step changes.
        data: Objects that no step changes, into which a capture does not look.
        names: Names of parameters that are not those of `named_parameters`.
        across: How the losses of several processes combine: "mean" or "sum".
        group: The processes that average their gradients, where the training does that itself.
        timeout: Seconds to wait for the slowest process.
        options: Options of `GradGuard`.

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
        optimizer: Optimizer | None,
        options: Mapping[str, Any],
        *,
        snapshot: Snapshot | Iterable[Snapshot] | None = None,
        others: Collection[object] = (),
        data: Collection[object] = (),
        names: Mapping[Tensor, str] | None = None,
        across: str = "mean",
        group: ProcessGroup | None = None,
        timeout: float = 300.0,
    ) -> None:
        _require_types(module, optimizer)
        self._optimizer = optimizer
        # Gathered parameters are not those of the optimizer, and `named_parameters` would return them.
        reshard(sharded_parts(module))
        inner, wrapper = unwrap(module)[-1], ddp_wrapper(module)
        ignored = set() if wrapper is None else wrapper.parameters_to_ignore
        checked, self.skipped = _choose_parameters(inner, optimizer, ignored, names or {})
        self._group = find_group(module, group, timeout, across, options.get("reduction"))
        if self._group is not None:
            self._group.require_same_guard(checked, dict(options) | {"across": across})
            options = self._group.options(options)
        # Whether a wrapper averages gradients is set for each evaluation, which no capture may undo.
        self._state = ModuleState(inner, checked.values(), others, [*data, *unwrap(module)[:-1]])
        self._params: Parameters | ShardParameters = (
            Parameters(checked, self._state.constant, written=self._state.written)
            if self._group is None
            else self._group.parameters(checked, self._state.constant, self._state.written)
        )
        self._streams = RandomStreams({tensor.device for tensor in checked.values()})
        self._loss_state = LossState(*inner.modules(), self._optimizer, self)
        user_snapshot = combined_snapshot(snapshot)
        # What an evaluation of the loss may change; NumPy's and Python's streams too, from which it may draw.
        streams: list[Snapshot] = [self._streams.capture, snapshot_rng(np.random), snapshot_rng(random)]
        everything: list[Snapshot] = [self._state.capture_all, self._loss_state.capture, *streams, user_snapshot]
        self._capture = combined_snapshot([self._state.capture, *streams, user_snapshot])
        self.guard = GradGuard(self._params, snapshot=everything, **options)
        if self.skipped and self._params.ranks.is_first:
            skipped = "; ".join(f"{name} ({why})" for name, why in self.skipped.items())
            LOG.info("%s", log_message(f"not checked: {skipped}", more="(more in guard.skipped)"))

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return self.guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return self.guard.history

    def close(self) -> None:
        """Close the writers and remove all hooks; a second call does nothing."""
        if self._group is not None:
            self._group.stop()
        self.guard.close()

    def _shared(self, make_loss: Callable[[Context], Loss]) -> Loss | SharedLoss:
        """The loss as the core evaluates it, on all ranks where there are several; made for a context of evaluation."""
        if self._group is None:
            return make_loss(nullcontext)
        return self._group.loss(make_loss(self._group.evaluating), self._params.tensors)

    def _check(
        self,
        step: int,
        loss: Loss,
        value: object,
        constants: Mapping[str, float] | None,
        autocast: torch.dtype | None,
        gradients: Mapping[str, Array] | None = None,
        *,
        at_once: bool = False,
    ) -> Report | None:
        """Check the gradients as they are now, or others that are given: if a check is due, or at once."""
        self._params.autocast = autocast
        if self._group is not None and value is not None:
            value = self._group.value(value)
        chosen = self._params.gradients() if gradients is None else gradients
        check = self.guard.check_now if at_once else self.guard.after_backward
        versions = _versions(self._params.tensors)
        try:
            report = run_with_cleanup(
                lambda: check(step, chosen, loss, value=value, constants=constants),
                self._loss_state.restore,
            )
        finally:
            self._loss_state.release()
        _require_unwritten(versions, _versions(self._params.tensors))
        return report


def _versions(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """How often each parameter was written to; what a check writes does not count."""
    return {name: tensor._version for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}


def _require_unwritten(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    """Refuse that anything but the check has written to parameters while it ran.

    Raises:
        RuntimeError: Something has; the message names them.
    """
    written = [name for name, version in before.items() if after[name] != version]
    if written:
        raise RuntimeError(
            f"during the check, another thread or the loss itself wrote to the parameters {', '.join(written)}: the "
            "check moves parameters and puts them back, so that such a write may be lost; update them only after it"
        )


def _require_types(module: object, optimizer: object) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; expected the torch.nn.Module that the training calls")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; expected a torch.optim.Optimizer, or None")


def _choose_parameters(
    module: nn.Module, optimizer: Optimizer | None, ignored: Collection[str], names: Mapping[Tensor, str]
) -> tuple[dict[str, nn.Parameter], dict[str, str]]:
    """The parameters to check by name, each once, and the reason for each other one.

    Args:
        module: The module with the user's names of the parameters.
        optimizer: The optimizer whose parameters are checked; None for all that require a gradient.
        ignored: The names of those that `DistributedDataParallel` ignores.
        names: Names of parameters that are not those of `named_parameters`.

    Raises:
        TypeError: A parameter is of a kind that cannot be checked.
        ValueError: There is none to check.
    """
    updated = None if optimizer is None else {id(p) for group in optimizer.param_groups for p in group["params"]}
    checked, skipped = {}, {}
    for own_name, parameter in module.named_parameters():
        name = names.get(parameter, own_name)
        if not parameter.requires_grad:
            skipped[name] = "frozen"
        elif updated is not None and id(parameter) not in updated:
            skipped[name] = "not in the optimizer"
        elif own_name in ignored:
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
