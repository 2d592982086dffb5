"""Lightning: `GradGuardCallback` checks the gradients of a `LightningModule` while a `Trainer` trains it."""

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.optim import Optimizer

from gradguard.integrations.torch.replay.metrics import replaced_attribute
from gradguard.integrations.torch.step_guard import StepGuard, require_step_options
from gradguard.report import CheckHistory, Report

LOGGING_METHODS = ("log", "log_dict", "print")
"""Methods of a module by which a training step logs."""


class GradGuardCallback(Callback):
    """Checks the gradients before they are clipped, on all batches that an update accumulates.

    A check replays `training_step` with its batches, from the state that it started from. Nothing in it is logged, and
    afterwards the module, its metrics and the random streams are as they were. Steps are updates, counted from 0.

    Args:
        timeout: Seconds to wait for the slowest process, in a training of several.
        **options: Options of `GradGuard`: `every_n_steps`, `constants`, `on_alert` and so on. Without a `logdir`, the
            event file is written beside that of the trainer's logger, if that has a directory.

    Raises:
        TypeError: There is no option of that name.
    """

    def __init__(self, *, timeout: float = 300.0, **options: Any) -> None:
        require_step_options(options)
        self._timeout = timeout
        self._options = options
        self._guard: StepGuard | None = None
        self._loaded: dict[str, Any] | None = None
        self._installed = ExitStack()
        self._latest_step = -1

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return None if self._guard is None else self._guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return CheckHistory() if self._guard is None else self._guard.history

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the guard.

        Raises:
            ValueError: The callback cannot see the training steps, or not their gradients.
        """
        _require_supported(trainer, pl_module)
        model = trainer.strategy.model
        self._guard = StepGuard(
            pl_module if model is None else model,
            trainer.optimizers[0] if trainer.optimizers else None,
            {"logdir": _logdir_of(trainer), **self._options},
            silenced=functools.partial(_silenced, trainer, pl_module),
            timeout=self._timeout,
        )
        self._latest_step = -1
        if self._loaded is not None:
            self._guard.guard.load_state_dict(self._loaded)
            self._loaded = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the training step of this batch: until its end, the module calls it through the guard."""
        guard, training_step = self._guard, pl_module.training_step
        if guard is None:
            return
        weight = 1 / trainer.accumulate_grad_batches

        @functools.wraps(training_step)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            return guard.run(trainer.global_step, training_step, args, kwargs, loss_of=_loss_of, weight=weight)

        self._installed.close()
        self._installed.enter_context(replaced_attribute(pl_module, "training_step", recorded))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check the gradients, which are accumulated and not yet clipped."""
        if self._guard is None:
            return
        if trainer.global_step == self._latest_step:  # an optimizer that calls its closure several times for an update
            self._guard.drop_window()
            return
        self._latest_step = trainer.global_step
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._guard.check(
            trainer.global_step,
            accumulation=trainer.accumulate_grad_batches,
            loss_scale=1.0 if scaler is None else scaler.get_scale(),
            # A fused optimizer unscales the gradients within its step.
            is_scaled=getattr(optimizer, "_step_supports_amp_scaling", False),
        )

    def on_train_batch_end(self, *_args: Any, **_kwargs: Any) -> None:
        """Give the module its own training step again."""
        self._installed.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the writers."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """What the checks have found, for the checkpoint."""
        return self._loaded or {} if self._guard is None else self._guard.guard.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint, as soon as the training starts."""
        self._loaded = state_dict or None

    def _close(self) -> None:
        self._installed.close()
        if self._guard is not None:
            self._guard.close()


def _require_supported(trainer: Trainer, module: LightningModule) -> None:
    """Refuse trainings whose steps or gradients the callback does not see.

    Raises:
        ValueError: It is one; the message says what to do.
    """
    if not module.automatic_optimization:
        raise ValueError(
            f"{type(module).__name__} uses manual optimization, whose steps GradGuardCallback does not see; instead, "
            "call TorchGuard(...).after_backward (gradguard.integrations.torch) between manual_backward and "
            "optimizer.step"
        )
    if is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True):
        raise ValueError(
            "training_step(dataloader_iter) fetches its batches itself, so it cannot be repeated; take the batch "
            "as an argument: training_step(batch, batch_idx)"
        )
    strategy = trainer.strategy
    if strategy.handles_gradient_accumulation or isinstance(strategy.model, FullyShardedDataParallel):
        raise ValueError(
            f"{type(strategy).__name__} keeps the gradients to itself; GradGuardCallback works with one device, "
            "strategy='ddp', and ModelParallelStrategy, which uses fully_shard"
        )


def _loss_of(output: Any) -> Tensor | None:
    loss = output.get("loss") if isinstance(output, Mapping) else output
    return loss if isinstance(loss, Tensor) else None


def _logdir_of(trainer: Trainer) -> str | None:
    """The directory of the first logger that has one for its run."""
    found = (getattr(logger, "log_dir", None) for logger in trainer.loggers)
    return next((directory for directory in found if directory), None)


@contextmanager
def _silenced(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Context in which a training step logs nothing."""
    loggers = trainer.loggers
    with ExitStack() as replaced:
        for method in LOGGING_METHODS:
            replaced.enter_context(replaced_attribute(module, method, _nothing))
        replaced.callback(setattr, trainer, "loggers", loggers)
        trainer.loggers = [DummyLogger() for _ in loggers]
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Instead of a method that logs."""
