"""Trainings in which the callback would see other gradients than the optimizer are refused; nothing is left over."""

import copy
from typing import Any

import pytest

pytest.importorskip("lightning")

from busy_network import OPTIONS, same, seed
from lightning_trainings import Module, fit

from gradguard.integrations.lightning import GradGuardCallback

pytestmark = pytest.mark.usefixtures("quiet")


class Interrupt(BaseException):
    """As a signal raises it."""


def test_manual_optimization_is_refused_before_the_first_step() -> None:
    """The message says what to use instead."""

    class Manual(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    module = Manual()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r"manual optimization.*TorchGuard"):
        fit(module, GradGuardCallback(**OPTIONS))
    assert same(before, module.state_dict())


def test_a_step_that_fetches_its_batches_is_refused() -> None:
    """It could not be repeated."""

    class Fetching(Module):
        def training_step(self, dataloader_iter: Any) -> Any:
            batch, _, index = next(dataloader_iter)
            return super().training_step(batch, index)

    with pytest.raises(ValueError, match=r"dataloader_iter.*training_step\(batch, batch_idx\)"):
        fit(Fetching(), GradGuardCallback(**OPTIONS))


def test_an_unknown_option_is_refused_where_the_callback_is_made() -> None:
    """The message lists the options."""
    with pytest.raises(TypeError, match=r"no option 'every_n_batches'; the options are every_n_steps, .*logdir"):
        GradGuardCallback(every_n_batches=1)


def test_an_exception_in_a_replay_leaves_the_module_as_it_was() -> None:
    """Weights, statistics and containers, and its own methods."""
    calls = []

    class Stopping(Module):
        def training_step(self, batch: Any, index: int) -> Any:
            calls.append(index)
            if len(calls) == 15:
                raise Interrupt
            return super().training_step(batch, index)

    seed()
    module = Stopping(busy=True)
    before = [parameter.detach().clone() for parameter in module.parameters() if parameter.requires_grad]
    with pytest.raises(Interrupt):
        fit(module, GradGuardCallback(every_n_steps=1, **OPTIONS))
    assert same(before, [parameter.detach() for parameter in module.parameters() if parameter.requires_grad])
    assert module.network.counts["calls"] == len(module.network.outputs) == 1
    assert not {"training_step", "log", "log_dict", "print"} & vars(module).keys()
