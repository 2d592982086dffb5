"""Accelerate: `AccelerateGuard` checks the gradients in a training loop of one's own."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from gradguard.integrations.torch.replay.functions import frozen
from gradguard.integrations.torch.step_guard import StepGuard
from gradguard.report import CheckHistory, Report
from gradguard.training import CloseOnExit

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The dtypes of mixed precision, by the names that Accelerate has for them."""


class AccelerateGuard(CloseOnExit):
    """Checks the gradients before they are clipped, on all batches that an update accumulates.

    Compute the loss of each batch by `micro_batch`, and call `accelerator.backward` in its block. When the block of the
    last batch of a window is left, the gradients are checked. A check calls the losses of the window again, from the
    state that each started from; afterwards everything is as it was. Steps are updates, counted from 0.

    Args:
        accelerator: The accelerator.
        model: What `accelerator.prepare` returned for the model.
        optimizer: What it returned for the optimizer.
        timeout: Seconds to wait for the slowest process, in a training of several.
        **options: Options of `GradGuard`: `every_n_steps`, `logdir`, `constants` and so on.

    Raises:
        TypeError: An argument is of a kind that cannot be checked, or there is no option of that name.
        ValueError: There is nothing to check, or the value of an option is out of its range.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        timeout: float = 300.0,
        **options: Any,
    ) -> None:
        if not isinstance(accelerator, Accelerator):
            raise TypeError(f"accelerator is a {type(accelerator).__name__}; expected an accelerate.Accelerator")
        self._accelerator = accelerator
        self._guard = StepGuard(
            model, _unwrapped(optimizer), options, autocast=AUTOCAST.get(accelerator.mixed_precision), timeout=timeout
        )
        self._parameters = list(model.parameters())
        self._losses: list[Callable[..., Any]] = []
        self._gradients: list[tuple[int, int] | None] = []
        self._step = 0

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return self._guard.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return self._guard.history

    @contextmanager
    def micro_batch(self, loss: Callable[..., Tensor], *args: Any) -> Iterator[Tensor]:
        """Context of the backward pass of one batch, which receives its loss.

        Args:
            loss: Computes it: `lambda: criterion(model(x), y)`. The names in it may be bound to other values later.
                A function that it calls may not read global variables that change within a window.
            *args: Its arguments, if it has any.

        Raises:
            TypeError: The loss is no tensor.
            ValueError: There are gradients from outside of such blocks.
        """
        self._require_own_gradients()
        weight = 1 / self._accelerator.gradient_accumulation_steps
        try:
            value = self._guard.run(self._step, loss, args, loss_of=_require_tensor, weight=weight, repeat=frozen(loss))
            yield _require_tensor(value)
        except BaseException:
            self._guard.drop_window()
            self._losses, self._gradients = [], []
            raise
        self._losses.append(loss)
        self._gradients = [_version(parameter.grad) for parameter in self._parameters]
        if self._accelerator.sync_gradients:
            self._check()

    def state_dict(self) -> dict[str, Any]:
        """What the checks have found, for `accelerator.register_for_checkpointing(guard)`."""
        return {"step": self._step, "guard": self._guard.guard.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: It is of other parameters.
        """
        self._guard.guard.load_state_dict(state["guard"])
        self._step = state["step"]

    def close(self) -> None:
        """Close the writers; a second call does nothing."""
        self._guard.close()

    def _check(self) -> None:
        scaler, losses, step = self._accelerator.scaler, self._losses, self._step
        self._losses, self._gradients = [], []
        self._step += 1
        self._guard.check(
            step,
            accumulation=self._accelerator.gradient_accumulation_steps,
            loss_scale=1.0 if scaler is None else scaler.get_scale(),
            is_scaled=True,
            losses=losses,
        )

    def _require_own_gradients(self) -> None:
        """Refuse gradients that no block has seen.

        Raises:
            ValueError: There are some.
        """
        gradients = [parameter.grad for parameter in self._parameters]
        if self._gradients:
            is_own = self._gradients == [_version(gradient) for gradient in gradients]
        else:
            is_own = not any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        if not is_own:
            raise ValueError(
                "there are gradients that the guard has not seen; wrap each backward pass of a window in micro_batch:\n"
                "with guard.micro_batch(lambda: criterion(model(x), y)) as loss: accelerator.backward(loss)\n"
                "and write no other gradients before optimizer.zero_grad()"
            )


def _unwrapped(optimizer: Any) -> Any:
    """The optimizer within those of Accelerate."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _version(gradient: Tensor | None) -> tuple[int, int] | None:
    """What differs where a gradient has been written to."""
    return None if gradient is None else (id(gradient), gradient._version)


def _require_tensor(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"the loss of a micro-batch is a {type(loss).__name__}; expected the tensor that accelerator.backward takes"
        )
    return loss
