"""skorch: `GradGuardCallback` checks the gradients of a net while it is fitted."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor

from gradguard.environment import on_exception
from gradguard.integrations.torch.overrides.backward import WithoutBackward
from gradguard.integrations.torch.replay.metrics import replaced_attribute
from gradguard.integrations.torch.step_guard import StepGuard, require_step_options
from gradguard.report import CheckHistory, Report

RECORDING_METHODS = ("new_epoch", "new_batch", "record", "record_batch")
"""Methods of a net's history by which a training step writes to it."""


class GradGuardCallback(Callback):
    """Checks the gradients of each batch as the backward pass leaves them, before any callback clips them.

    A check makes the training step again, up to the loss that it calls `backward` on, from the state that it started
    from. Nothing in it is recorded, and afterwards the net and the random streams are as they were. Steps are batches,
    counted from 0.

    Args:
        **options: Options of `GradGuard`: `every_n_steps`, `logdir`, `constants` and so on.

    Raises:
        TypeError: There is no option of that name.
    """

    def __init__(self, **options: Any) -> None:
        require_step_options(options)
        # Attributes without a trailing underscore are the options with which skorch makes a clone.
        self.__dict__.update(options)
        self.initialize()

    @property
    def report(self) -> Report | None:
        """The latest report."""
        return None if self.guard_ is None else self.guard_.report

    @property
    def history(self) -> CheckHistory:
        """A row for each of the latest checks."""
        return CheckHistory() if self.guard_ is None else self.guard_.history

    def initialize(self) -> "GradGuardCallback":
        """Forget earlier trainings."""
        self.guard_: StepGuard | None = None
        self.installed_ = ExitStack()
        self.loaded_: dict[str, Any] | None = None
        self.step_ = 0
        return self

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Make the guard.

        Raises:
            ValueError: The net has several modules or optimizers.
        """
        if len(net._modules) > 1 or len(net._optimizers) > 1:
            raise ValueError(
                f"the net has the modules {', '.join(net._modules)} and the optimizers {', '.join(net._optimizers)}; "
                "GradGuardCallback checks nets with one of each; make a gradguard.integrations.torch.TorchGuard for "
                "each module instead"
            )
        state = self.loaded_ if self.guard_ is None else self.guard_.guard.state_dict()
        self.guard_ = StepGuard(
            net.module_,
            net.optimizer_,
            self.get_params(deep=False),
            others=[net],
            data=[net.history],
            silenced=functools.partial(_silenced, net),
        )
        if state:
            self.guard_.guard.load_state_dict(state)

    def on_batch_begin(self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Record the training step of this batch: until its end, the net makes it through the guard."""
        if training and self.guard_ is not None:
            self.installed_.close()
            step = self._checked(net, net.train_step_single)
            self.installed_.enter_context(replaced_attribute(net, "train_step_single", step))

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any) -> None:
        """Give the net its own training step again."""
        self.installed_.close()

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:  # noqa: N803
        """Close the writers."""
        self._close()

    def __getstate__(self) -> dict[str, Any]:
        state = None if self.guard_ is None else self.guard_.guard.state_dict()
        return vars(self) | {"guard_": None, "installed_": None, "loaded_": state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state | {"installed_": ExitStack()})

    def _checked(self, net: NeuralNet, train_step_single: Callable[..., Any]) -> Callable[..., Any]:
        """The training step, recorded, and its gradients checked once it has computed them."""
        is_checked = False

        def repeat(*args: Any, **kwargs: Any) -> dict[str, Any]:
            with WithoutBackward() as mode:
                output: dict[str, Any] = train_step_single(*args, **kwargs)
            return output | {"loss": functools.reduce(torch.add, mode.losses)} if mode.losses else output

        @functools.wraps(train_step_single)
        def checked(*args: Any, **kwargs: Any) -> Any:
            nonlocal is_checked
            if is_checked:  # an optimizer that calls its closure several times for a batch
                return train_step_single(*args, **kwargs)
            is_checked = True
            with on_exception(self._close):
                assert self.guard_ is not None  # noqa: S101 - it was there when this function was made
                _require_no_gradients(net)
                output = self.guard_.run(self.step_, train_step_single, args, kwargs, loss_of=_loss_of, repeat=repeat)
                self.step_ += 1
                self.guard_.check(self.step_ - 1)
            return output

        return checked

    def _close(self) -> None:
        self.installed_.close()
        if self.guard_ is not None:
            self.guard_.close()


def _loss_of(output: dict[str, Any]) -> Tensor:
    loss: Tensor = output["loss"]
    return loss


def _require_no_gradients(net: NeuralNet) -> None:
    """Refuse gradients of earlier batches.

    Raises:
        ValueError: There are some.
    """
    gradients = [parameter.grad for parameter in net.module_.parameters()]
    if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
        raise ValueError(
            "there are gradients of earlier batches: the train_step of this net accumulates them, which "
            "GradGuardCallback does not follow; use a gradguard.integrations.torch.TorchGuard within that train_step"
        )


@contextmanager
def _silenced(net: NeuralNet) -> Iterator[None]:
    """Context in which a training step records nothing in the net's history."""
    with ExitStack() as replaced:
        for method in RECORDING_METHODS:
            replaced.enter_context(replaced_attribute(net.history, method, _nothing))
        yield


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """Instead of a method that records."""
