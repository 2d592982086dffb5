"""Transformers: `GradGuardCallback` checks the gradients of a model while a `Trainer` trains it."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from gradguard.environment import on_exception
from gradguard.integrations.torch.replay.metrics import replaced_attribute
from gradguard.integrations.torch.step_guard import StepGuard, require_step_options
from gradguard.report import CheckHistory, Report

STATE = "gradguard"
"""The name under which the state of the checks is in `trainer_state.json`."""
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of mixed precision, by the names that Accelerate has for them."""


class GradGuardCallback(TrainerCallback):
    """Checks the gradients before they are clipped, on all batches that an update accumulates.

    A check makes the training steps again, up to the loss that they hand to `accelerator.backward`, with their batches
    and from the state that they started from. Nothing in it is logged, and afterwards the model, the trainer and the
    random streams are as they were. Steps are updates, counted from 0.

    Args:
        trainer: The trainer that the callback is added to: a callback of Transformers sees neither its batches nor its
            losses.
        timeout: Seconds to wait for the slowest process, in a training of several.
        **options: Options of `GradGuard`: `every_n_steps`, `constants`, `on_alert` and so on. Without a `logdir`, the
            event file is written beside that of the `TensorBoardCallback`, if there is one.

    Raises:
        TypeError: `trainer` is something else, or there is no option of that name.
    """

    def __init__(self, trainer: Trainer, *, timeout: float = 300.0, **options: Any) -> None:
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"trainer is a {type(trainer).__name__}; expected the transformers.Trainer that the callback is added "
                "to: trainer.add_callback(GradGuardCallback(trainer))"
            )
        require_step_options(options)
        self._trainer = trainer
        self._timeout = timeout
        self._options = options
        self._guard: StepGuard | None = None
        self._installed = ExitStack()

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return None if self._guard is None else self._guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return CheckHistory() if self._guard is None else self._guard.history

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make the guard, and see the training steps of the trainer from now on.

        Raises:
            ValueError: The callback was made for another trainer, or does not see its gradients.
        """
        trainer = self._trainer
        if state is not trainer.state:
            raise ValueError(
                "GradGuardCallback was added to another Trainer than it was made with; make it with the one that "
                "trains: trainer.add_callback(GradGuardCallback(trainer))"
            )
        _require_supported(trainer)
        self._close()  # a training may begin again, with a smaller batch
        accelerator = trainer.accelerator
        self._guard = StepGuard(
            trainer.model_wrapped,
            getattr(trainer.optimizer, "optimizer", trainer.optimizer),
            {"logdir": _logdir_of(trainer), **self._options},
            others=[trainer],
            data=[trainer.train_dataset, trainer.eval_dataset],
            silenced=lambda: replaced_attribute(trainer, "log", _nothing),
            autocast=AUTOCAST.get(accelerator.mixed_precision),
            timeout=self._timeout,
        )
        if saved := state.stateful_callbacks.get(STATE):
            self._guard.guard.load_state_dict(saved)
        self._installed.enter_context(
            replaced_attribute(trainer, "training_step", self._recording(trainer.training_step))
        )
        self._installed.enter_context(
            replaced_attribute(accelerator, "clip_grad_norm_", self._checking(accelerator.clip_grad_norm_))
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Hand what the checks have found to the checkpoint, if there will be one."""
        if control.should_save and self._guard is not None:
            state.stateful_callbacks[STATE] = self._guard.guard.state_dict()

    on_epoch_end = on_step_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the writers, and leave the trainer as it was."""
        self._close()

    def _recording(self, training_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The trainer's training step, recorded."""
        accelerator = self._trainer.accelerator

        def repeat(*args: Any, **kwargs: Any) -> tuple[Tensor, list[Tensor]]:
            with _losses(accelerator, lambda _loss, **_kwargs: None) as losses:
                return training_step(*args, **kwargs), losses

        def step(*args: Any, **kwargs: Any) -> tuple[Tensor, list[Tensor]]:
            with _losses(accelerator, accelerator.backward) as losses:
                return training_step(*args, **kwargs), losses

        @functools.wraps(training_step)
        def recorded(*args: Any, **kwargs: Any) -> Tensor:
            weight = 1 / accelerator.gradient_accumulation_steps
            with on_exception(self._close):  # then no callback is told
                output: tuple[Tensor, list[Tensor]] = self._required.run(
                    self._trainer.state.global_step, step, args, kwargs, loss_of=_total, weight=weight, repeat=repeat
                )
            return output[0]

        return recorded

    def _checking(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        """Accelerate's clipping, before which the gradients are checked; it is called also where nothing is clipped."""

        @functools.wraps(clip)
        def checked(*args: Any, **kwargs: Any) -> Any:
            with on_exception(self._close):  # then no callback is told
                self._check()
            return clip(*args, **kwargs)

        return checked

    def _check(self) -> None:
        trainer = self._trainer
        scaler = trainer.accelerator.scaler
        self._required.check(
            trainer.state.global_step,
            accumulation=trainer.args.gradient_accumulation_steps,
            loss_scale=1.0 if scaler is None else scaler.get_scale(),
            is_scaled=True,
        )

    @property
    def _required(self) -> StepGuard:
        assert self._guard is not None  # noqa: S101 - what calls it is installed after the guard is made
        return self._guard

    def _close(self) -> None:
        self._installed.close()
        if self._guard is not None:
            self._guard.close()


def _require_supported(trainer: Trainer) -> None:
    """Refuse trainings that keep their gradients to themselves.

    Raises:
        ValueError: It is one.
    """
    if trainer.is_deepspeed_enabled or (
        trainer.is_fsdp_enabled and getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1) == 1
    ):
        raise ValueError(
            "DeepSpeed and FSDP 1 keep the gradients to themselves; GradGuardCallback works with one process, with "
            "DistributedDataParallel and with FSDP 2"
        )


def _total(output: tuple[Tensor, list[Tensor]]) -> Tensor | None:
    """The loss of a training step: the sum of what it handed to `backward`."""
    _, losses = output
    return functools.reduce(torch.add, losses) if losses else None


@contextmanager
def _losses(accelerator: Any, backward: Callable[..., Any]) -> Iterator[list[Tensor]]:
    """Context in which the accelerator notes the losses that it is given, and then does something else with them."""
    losses: list[Tensor] = []

    def noting(loss: Tensor, **kwargs: Any) -> Any:
        losses.append(loss)
        return backward(loss, **kwargs)

    with replaced_attribute(accelerator, "backward", noting):
        yield losses


def _logdir_of(trainer: Trainer) -> str | None:
    """The directory of the events of Transformers' own callback; None where there is none."""
    writers = [each.tb_writer for each in trainer.callback_handler.callbacks if isinstance(each, TensorBoardCallback)]
    return next((writer.log_dir for writer in writers if writer is not None), None)


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Instead of a method that logs."""
