"""The guard of a module whose training loop belongs to a framework: it replays whole training steps.

The integrations of frameworks are thin modules over it: they say what a training step is, which of its losses the
gradients are of, where the gradients are clean, and what a replay must not log.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradguard.integrations.torch.distributed.group import unwrap
from gradguard.integrations.torch.module_guard import ModuleGuard
from gradguard.integrations.torch.replay.evaluation import Context
from gradguard.integrations.torch.replay.metrics import MetricCalls
from gradguard.integrations.torch.replay.steps import ReplayedSteps, StartedStep, StepRecorder
from gradguard.perturbation import Snapshot
from gradguard.report import Report
from gradguard.training import require_options

OWN_OPTIONS = ("reduction",)
"""Options of `GradGuard` that belong to the step guard: the loss of a window is the sum of those of its steps."""


class StepGuard(ModuleGuard):
    """Checks the gradients that the training steps of a window leave.

    Make each training step by `run`, and call `check` where the gradients are accumulated and not yet clipped.

    Args:
        module: The module that the training calls, in its wrapper where it is distributed.
        optimizer: The optimizer whose parameters are checked.
        options: Options of `GradGuard`, as the user gave them.
        others: Other objects whose attributes a training step changes, such as the trainer that makes it.
        data: Objects that no step changes, into which a capture does not look.
        silenced: Makes the context in which a training step does not log.
        autocast: The dtype of an autocast that the training steps enter themselves.
        snapshot: As for `GradGuard`, and also taken before each training step.
        names: Names of parameters that are not those of `named_parameters`.
        timeout: Seconds to wait for the slowest process.

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
        others: Collection[object] = (),
        data: Collection[object] = (),
        silenced: Context = nullcontext,
        autocast: torch.dtype | None = None,
        snapshot: Snapshot | Iterable[Snapshot] | None = None,
        names: Mapping[Tensor, str] | None = None,
        timeout: float = 300.0,
    ) -> None:
        require_step_options(options)
        super().__init__(
            module,
            optimizer,
            {**options, "reduction": "sum"},
            snapshot=snapshot,
            others=others,
            data=data,
            names=names,
            timeout=timeout,
        )
        self._records: bool | None = None  # None before the first step of a window
        self._silenced = silenced
        self._autocast = autocast
        self._steps = StepRecorder(self._capture, MetricCalls(unwrap(module)[-1]), self._params.device)

    def run(
        self,
        update: int,
        step: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        loss_of: Callable[[Any], Tensor | None] = lambda output: output,
        weight: float = 1.0,
        repeat: Callable[..., Any] | None = None,
    ) -> Any:
        """Make a training step, recorded so that it can be replayed if a check may come; what it returns.

        Args:
            update: The number of the update that it is a part of, with which `check` will be called.
            step: Makes the step.
            args: Its arguments.
            kwargs: Its arguments by name.
            loss_of: The loss in what a step returned; None for a step that has none.
            weight: The factor on it in the loss that the gradients are of: one over the number of steps, where the
                framework divides by that.
            repeat: Makes the step in a replay, without a backward pass; as `step` unless given.
        """
        named = dict(kwargs or {})
        if not self._records_window(update):
            return step(*args, **named)
        return self._steps.run(step, args, named, loss_of, weight, step if repeat is None else repeat)

    def begin(self, update: int, *args: Any) -> StartedStep | None:
        """What a training step with these arguments starts from, where its gradients must be checked before it ends.

        None where no check may come.
        """
        return self._steps.begin(args, {}) if self._records_window(update) else None

    def add(self, started: StartedStep, loss: Tensor, repeat: Callable[..., Tensor]) -> None:
        """Add a step to the window, whose gradients are there.

        Args:
            started: What `begin` returned.
            loss: The loss of the step.
            repeat: Makes the step in a replay and returns its loss.
        """
        self._steps.add(started, loss, lambda output: output, 1.0, repeat, {})

    def check(
        self,
        step: int,
        *,
        accumulation: int = 1,
        loss_scale: float = 1.0,
        is_scaled: bool = False,
        losses: object = None,
    ) -> Report | None:
        """Check the gradients of the window, if a check is due; the next training step begins a new window.

        Args:
            step: The number of the update.
            accumulation: How many steps a whole window has, by which a ratio may be explained.
            loss_scale: The factor of a gradient scaler.
            is_scaled: Whether the gradients still have this factor.
            losses: Functions of the user that the steps call, whose containers a replay may write to.

        Returns:
            The report; None where no check is due, or no training step was recorded.
        """
        window, records = self._steps.window, self._records
        self.drop_window()
        if not window:
            if records is False:
                self.guard.skip_step(step)
            return None
        self._state.learn_changing()
        self._loss_state.loss = losses
        scale = loss_scale if is_scaled else 1.0
        numbers = {"accumulation": accumulation, "window": len(window), "loss_scale": loss_scale}
        constants = {name: number for name, number in numbers.items() if number != 1}
        dtypes = [each.autocast.dtype for each in window if each.autocast.dtype is not None]

        def replayed(evaluating: Context) -> ReplayedSteps:
            return ReplayedSteps(window, scale, self._silenced, evaluating)

        value = replayed(nullcontext).value
        return self._check(step, self._shared(replayed), value, constants, dtypes[-1] if dtypes else self._autocast)

    def drop_window(self) -> None:
        """Forget the recorded steps; the next one begins a new window."""
        self._steps.window, self._records = [], None

    def _records_window(self, update: int) -> bool:
        """Whether the steps of the present window are recorded: all of them, or none."""
        if self._records is None:
            self._records = self.guard.may_check(update)
        return self._records


def require_step_options(options: Mapping[str, Any]) -> None:
    """Refuse names of options that `GradGuard` does not have, or that belong to the step guard.

    Raises:
        TypeError: There is one; the message lists the valid ones.
    """
    require_options(options, OWN_OPTIONS)
