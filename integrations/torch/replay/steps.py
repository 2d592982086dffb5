"""The training steps between two updates, recorded so that the loss of all of them can be evaluated again.

The unit is what a training loop calls for one batch, such as `training_step`: it calls the module, and may draw random
numbers, count, log and keep things besides. Under accumulation several of them make one update: a window.
"""

import copy
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradguard.integrations.torch.functions.check import FunctionChecks
from gradguard.integrations.torch.functions.recorder import CallRecorder
from gradguard.integrations.torch.overrides.substitution import result_in_active_mode
from gradguard.integrations.torch.overrides.vectorized import VectorizedCopies
from gradguard.integrations.torch.replay.evaluation import Context, eager
from gradguard.integrations.torch.replay.forwards import AutocastState
from gradguard.integrations.torch.replay.metrics import MetricCalls, Results
from gradguard.integrations.torch.tensors import to_host
from gradguard.perturbation import Restore, Snapshot
from gradguard.report import FunctionReport

Step = Callable[..., Any]


@dataclass(frozen=True)
class RecordedStep:
    """One training step, on one batch.

    Attributes:
        loss: Makes the step again and returns its loss, from what was recorded.
        restore: Restores what the step started from.
        autocast: The autocast of the step.
        dtype: The default dtype of the step.
        weight: The factor on its loss in the loss of the window.
        value: Its loss in the training, with that factor.
    """

    loss: Callable[[], Tensor]
    restore: Restore
    autocast: AutocastState
    dtype: torch.dtype
    weight: float
    value: Tensor

    def replay(self) -> Tensor:
        """The loss of the step, evaluated again, with its factor."""
        self.restore()
        with self.autocast.enter_again(), _default_dtype(self.dtype):
            return _weighted(self.loss(), self.weight)


@dataclass(frozen=True)
class StartedStep:
    """What a training step starts from.

    Attributes:
        restore: Restores it.
        inputs: Its arguments.
        autocast: The autocast.
        dtype: The default dtype.
    """

    restore: Restore
    inputs: "Inputs"
    autocast: AutocastState
    dtype: torch.dtype


class StepRecorder:
    """Records the training steps of a window.

    Args:
        capture: Captures everything that a step starts from.
        metrics: The metrics that a step updates.
        device: The type of the device that the module computes on.

    Attributes:
        window: The steps since the last update.
    """

    def __init__(self, capture: Snapshot, metrics: MetricCalls, device: str) -> None:
        self._capture = capture
        self._metrics = metrics
        self._device = device
        self.window: list[RecordedStep] = []

    def run(
        self,
        step: Step,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        loss_of: Callable[[Any], Tensor | None],
        weight: float,
        repeat: Step,
    ) -> Any:
        """Make a step of the training; what it returns.

        Args:
            step: Makes it.
            args: Its arguments.
            kwargs: Its arguments by name.
            loss_of: The loss of a step from what it returned; None for a step without a backward pass.
            weight: The factor on that in the loss that the gradients are of.
            repeat: Makes it in a replay, without a backward pass.
        """
        started = self.begin(args, kwargs)
        with self._metrics.recording() as results:
            output = step(*args, **kwargs)
        loss = loss_of(output)
        if loss is not None:
            self.add(started, loss, loss_of, weight, repeat, results)
        return output

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "StartedStep":
        """What a step starts from, with arguments that it may change."""
        autocast = AutocastState.current(self._device)
        return StartedStep(self._capture(), Inputs(args, kwargs), autocast, torch.get_default_dtype())

    def add(
        self,
        started: "StartedStep",
        loss: Tensor,
        loss_of: Callable[[Any], Tensor | None],
        weight: float,
        repeat: Step,
        results: Results,
    ) -> None:
        """Add a step to the window, once its loss is known.

        Args:
            started: What `begin` returned.
            loss: Its loss in the training.
            loss_of: As of `run`.
            weight: As of `run`.
            repeat: As of `run`.
            results: What its metrics returned.
        """
        started.inputs.settle()
        again, value = self._repeating(repeat, started.inputs, loss_of, results), _weighted(loss.detach(), weight)
        self.window.append(RecordedStep(again, started.restore, started.autocast, started.dtype, weight, value))

    def _repeating(
        self, repeat: Step, inputs: "Inputs", loss_of: Callable[[Any], Tensor | None], results: Results
    ) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            args, kwargs = inputs.fresh()
            with self._metrics.repeating(results):
                value = loss_of(repeat(*args, **kwargs))
            if value is None:
                raise ValueError("the training step returned a loss, and in a replay from the same state it has none")
            return value

        return loss


class ReplayedSteps:
    """The losses of a window; each call evaluates them again.

    Args:
        window: The recorded steps.
        scale: A factor on all losses.
        silenced: Makes the context in which steps do not log.
        evaluating: Makes the context of an evaluation.
    """

    def __init__(self, window: list[RecordedStep], scale: float, silenced: Context, evaluating: Context) -> None:
        self._window = window
        self._scale = scale
        self._silenced = silenced
        self._evaluating = evaluating
        self._functions = FunctionChecks()

    def __call__(self, copies: VectorizedCopies | None = None) -> object:
        """The loss of each step, shape (steps,); in forward mode, their tangents.

        Args:
            copies: K copies of the parameters, for losses of shape (K, steps); None for those at the parameters
                themselves.
        """
        with self._evaluating(), self._silenced(), torch.no_grad(), eager():
            losses = self._losses() if copies is None else copies.losses(self._losses)
            return to_host(result_in_active_mode(losses))

    def check_functions(self) -> Sequence[FunctionReport]:
        """The check of each Function that the steps call, on the inputs and upstream gradients of this window."""

        def record(recorder: CallRecorder) -> None:
            with self._evaluating(), self._silenced(), eager():
                for step in self._window:
                    recorder.record(step.replay)

        return self._functions.check(record)

    @property
    def gradient_hooks(self) -> Sequence[str]:
        """The user's hooks that may change the gradients, once the Functions are checked."""
        return self._functions.hooks

    @property
    def value(self) -> Tensor:
        """The loss of the window that the training computed."""
        return _weighted(torch.stack([step.value for step in self._window]).sum(), self._scale)

    def _losses(self) -> Tensor:
        return _weighted(torch.stack([step.replay() for step in self._window]), self._scale)


class Inputs:
    """The arguments of a step, which may write to them, or take entries out of its batch."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._copied: dict[int, tuple[Tensor, Tensor, int | None]] = {}  # tensor, copy, version
        self._arguments = _mapped(self._keep, (args, kwargs))

    def settle(self) -> None:
        """After the step: keep copies of those tensors only to which it has written."""
        self._copied = {
            key: (tensor, copied, version)
            for key, (tensor, copied, version) in self._copied.items()
            if version is None or tensor._version != version
        }

    def fresh(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they were, in containers that may be changed."""
        args, kwargs = _mapped(self._fresh, self._arguments)
        return args, kwargs

    def _keep(self, tensor: Tensor) -> Tensor:
        version = None if tensor.is_inference() else tensor._version
        self._copied[id(tensor)] = (tensor, tensor.detach().clone(), version)
        return tensor

    def _fresh(self, tensor: Tensor) -> Tensor:
        return self._copied[id(tensor)][1].clone() if id(tensor) in self._copied else tensor


def _mapped(convert: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of nested containers with each tensor in them converted; anything else itself."""
    if isinstance(value, Tensor):
        return convert(value)
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)
        for key in list(copied):
            copied[key] = _mapped(convert, copied[key])
        return copied
    if isinstance(value, tuple | list):
        items = [_mapped(convert, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _weighted(loss: Tensor, weight: float) -> Tensor:
    return loss if weight == 1 else loss * weight


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
