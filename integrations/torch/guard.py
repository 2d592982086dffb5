"""The guard of a PyTorch module: which parameters it checks, and when in a training step."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from gradguard.integrations.torch.distributed.group import ddp_wrapper, unwrap
from gradguard.integrations.torch.module_guard import LOG, Loss, ModuleGuard
from gradguard.integrations.torch.replay.evaluation import NotRepeatedError, ReplayedLoss
from gradguard.integrations.torch.replay.forwards import ForwardRecorder
from gradguard.loss import takes_parameters
from gradguard.perturbation import Snapshot
from gradguard.report import Report, Verdict, log_message


class TorchGuard(ModuleGuard):
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
        snapshot: As for `GradGuard`, and also taken before each forward pass. Random streams, buffers, attributes of
            the module and the containers that these hold do not need one.
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
        self._loss = loss if loss is None else _require_loss(loss)
        super().__init__(module, optimizer, options, snapshot=snapshot, across=across, group=group, timeout=timeout)
        wrapper = ddp_wrapper(module)
        # A `DistributedDataParallel` changes buffers and inputs before it calls the module in it.
        called = unwrap(module)[0] if wrapper is None else wrapper.module
        self._forwards = ForwardRecorder(called, self._capture, self._streams, self._params.device)
        self._hooks = [optimizer.register_step_post_hook(self._after_update)] if optimizer is not None else []

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
            The report, or None where the schedule or the budget skips this step, or the loss no longer repeats the
            forward passes of the training as it did at earlier checks.

        Raises:
            TypeError: The loss or its value is of a kind that cannot be checked.
            ValueError: There is no loss, it cannot be the one that the gradients are of, or the step goes backwards.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RankError: In a training of several processes, another rank failed or did not come.
        """
        return self._checked(step, loss, value, constants, at_once=False)

    def check_now(
        self,
        step: int,
        loss: Loss | None = None,
        *,
        value: object = None,
        constants: Mapping[str, float] | None = None,
    ) -> Report | None:
        """Check the gradients at once, as `GradGuard.check_now` does; otherwise as `after_backward`.

        Args:
            step: The training step, not before that of the last call.
            loss: As for `after_backward`.
            value: As for `after_backward`.
            constants: As for `after_backward`.

        Returns:
            The report, or None where the loss no longer repeats the forward passes of the training.

        Raises:
            TypeError: As `after_backward`.
            ValueError: As `after_backward`.
            GradientError: A bug is confirmed, and `on_alert` is "raise".
            RankError: As `after_backward`.
        """
        return self._checked(step, loss, value, constants, at_once=True)

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
        super().close()

    def _checked(
        self, step: int, loss: Loss | None, value: object, constants: Mapping[str, float] | None, *, at_once: bool
    ) -> Report | None:
        chosen = self._loss if loss is None else _require_loss(loss)
        if chosen is None:
            raise ValueError("there is no loss; pass loss= to TorchGuard or to after_backward: loss() calls the module")
        self._state.learn_changing()
        self._loss_state.loss = chosen
        autocast = self._forwards.autocast
        try:
            dtype = autocast.dtype if autocast is not None else None
            return self._check(step, self._replayed(chosen), value, constants, dtype, at_once=at_once)
        except NotRepeatedError as error:
            if self.report is None or self.report.verdict is Verdict.other_loss:  # it is attached wrongly
                raise
            LOG.warning("%s", log_message(f"step {step} was not checked: {error}"))
            return None
        finally:
            self._forwards.end_step()

    def _replayed(self, loss: Loss) -> Loss:
        """The user's loss as the core evaluates it, on all ranks where there are several."""
        return self._shared(lambda evaluating: ReplayedLoss(loss, self._forwards, evaluating))

    def _after_update(self, _optimizer: Optimizer, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        self._forwards.end_step_by_update()


def _require_loss(loss: object) -> Loss:
    if takes_parameters(loss):  # type: ignore[arg-type]  # it raises where the loss is not callable
        raise TypeError("loss takes an argument; expected loss(), such as lambda: criterion(model(x), y)")
    return loss  # type: ignore[return-value]  # as above
