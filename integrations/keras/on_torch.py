"""The checks of a Keras model on PyTorch: of the gradients that its optimizer is given, or on a probe batch."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import torch
from torch import Tensor

from gradguard.arrays import Array
from gradguard.environment import on_exception
from gradguard.integrations.torch.module_guard import ModuleGuard
from gradguard.integrations.torch.overrides.backward import WithoutBackward
from gradguard.integrations.torch.replay.evaluation import Context
from gradguard.integrations.torch.replay.forwards import AutocastState
from gradguard.integrations.torch.replay.metrics import replaced_attribute
from gradguard.integrations.torch.replay.steps import RecordedStep, ReplayedSteps
from gradguard.integrations.torch.step_guard import StepGuard
from gradguard.integrations.torch.tensors import host


class TrainStepGuard:
    """Checks the gradients of each batch where `train_step` hands them to the optimizer.

    Args:
        model: The Keras model.
        options: Options of `GradGuard`.

    Raises:
        ValueError: The training step is compiled.
    """

    def __init__(self, model: Any, options: Mapping[str, Any]) -> None:
        if model.jit_compile is True:
            raise ValueError(
                "the training step is compiled (jit_compile=True), so its gradients are not accessible; compile "
                "the model with jit_compile=False, or pass probe=(x, y)"
            )
        self._model = model
        self._steps = StepGuard(model, None, options, names=_names(model), silenced=functools.partial(_silenced, model))
        self.guard = self._steps.guard
        self._step = 0
        self._installed = ExitStack()
        self._installed.enter_context(replaced_attribute(model, "train_step", self._recording(model.train_step)))

    def after_batch(self) -> None:
        """Nothing: the check was made within the training step."""

    def close(self) -> None:
        """Close the writers, and give the model its own training step again."""
        self._installed.close()
        self._steps.close()

    def _recording(self, train_step: Callable[..., Any]) -> Callable[..., Any]:
        optimizer = self._model.optimizer

        @functools.wraps(train_step)
        def recorded(data: Any) -> Any:
            started, apply = self._steps.begin(self._step, data), optimizer.apply
            losses: list[Tensor] = []

            def scaled(loss: Tensor) -> Tensor:
                result: Tensor = scale_loss(loss)
                losses.append(result.detach())
                return result

            def checked(*args: Any, **kwargs: Any) -> Any:
                if losses:
                    if started is not None:
                        self._steps.add(started, losses[-1], functools.partial(loss_without_backward, train_step))
                    losses.clear()
                    self._step += 1
                    with torch.enable_grad():
                        self._steps.check(self._step - 1)
                return apply(*args, **kwargs)

            scale_loss = optimizer.scale_loss
            with (
                on_exception(self.close),
                replaced_attribute(optimizer, "scale_loss", scaled),
                replaced_attribute(optimizer, "apply", checked),
            ):
                return train_step(data)

        return recorded


class TorchProbeGuard(ModuleGuard):
    """Checks the gradient of the loss on a probe batch, which it computes itself where a check is due.

    Args:
        model: The Keras model.
        probe: The batch.
        note: What every report says besides.
        options: Options of `GradGuard`.
    """

    def __init__(self, model: Any, probe: tuple[Any, ...], note: str, options: Mapping[str, Any]) -> None:
        super().__init__(model, None, {**options, "reduction": "sum"}, names=_names(model))
        self._params.note = note
        self._model = model
        batch = keras.tree.map_structure(keras.ops.convert_to_tensor, probe)
        self._loss = functools.partial(loss_without_backward, model.train_step, batch)
        self._step = 0

    def after_batch(self) -> None:
        """Check, if a check is due."""
        autocast = AutocastState.current(self._params.device)
        step = RecordedStep(self._loss, _nothing, autocast, torch.get_default_dtype(), 1.0, torch.zeros(()))
        silenced = functools.partial(_silenced, self._model)

        def replayed(evaluating: Context = nullcontext) -> ReplayedSteps:
            return ReplayedSteps([step], 1.0, silenced, evaluating)

        self._step += 1
        gradients = _ProbeGradients(self._params.tensors, self._gradients)
        self._check(self._step - 1, self._shared(replayed), None, None, None, gradients)

    def _gradients(self) -> list[Tensor | None]:
        """The gradients by the backward pass of the model, after which everything is as it was."""
        restore = self._state.capture_all(), self._capture()
        try:
            with torch.enable_grad(), _silenced(self._model):
                found = torch.autograd.grad(self._loss(), list(self._params.tensors.values()), allow_unused=True)
        finally:
            for each in restore:
                each()
        return list(found)


class _ProbeGradients(Mapping[str, Array]):
    """Gradients by name, computed together when the first one is read: only then a check is due."""

    def __init__(self, tensors: Mapping[str, Tensor], compute: Callable[[], list[Tensor | None]]) -> None:
        self._tensors = tensors
        self._compute = compute

    @functools.cached_property
    def _arrays(self) -> dict[str, Array]:
        pairs = zip(self._tensors.items(), self._compute(), strict=True)
        return {name: host(torch.zeros_like(t) if gradient is None else gradient) for (name, t), gradient in pairs}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def loss_without_backward(train_step: Callable[[Any], Any], data: Any) -> Tensor:
    """The loss on which a training step calls `backward`, without the backward pass.

    Raises:
        ValueError: It does not call `backward`.
    """
    with WithoutBackward() as mode:
        train_step(data)
    if not mode.losses:
        raise ValueError("train_step does not call loss.backward(), so that GradGuardCallback does not see its loss")
    total: Tensor = functools.reduce(torch.add, mode.losses)
    return total


def _names(model: Any) -> dict[Tensor, str]:
    """The paths of the variables, such as "dense/kernel"."""
    return {variable.value: variable.path for variable in model.variables}


@contextmanager
def _silenced(model: Any) -> Iterator[None]:
    """Context in which a training step keeps the gradients, updates nothing and counts no metric."""
    with ExitStack() as replaced:
        replaced.enter_context(replaced_attribute(model, "zero_grad", _nothing))
        replaced.enter_context(replaced_attribute(model, "compute_metrics", _no_metrics))
        replaced.enter_context(replaced_attribute(model.optimizer, "apply", _nothing))
        for metric in (model._loss_tracker, *model.metrics):
            replaced.enter_context(replaced_attribute(metric, "update_state", _nothing))
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Instead of a method that updates something."""


def _no_metrics(*_args: Any, **_kwargs: Any) -> dict[str, Any]:
    """Instead of the metrics of a batch."""
    return {}
