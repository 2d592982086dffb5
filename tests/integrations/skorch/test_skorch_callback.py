"""The callback while nets of skorch are fitted: it finds the fault, and changes nothing."""

import copy
import pickle
from typing import Any

import pytest

pytest.importorskip("skorch")

import numpy as np
import torch
from busy_network import BATCH, OPTIONS, TENSORS, WRONG, Network, bugs, left_on, names_the_factor, same, samples, seed
from sklearn.base import clone
from skorch import NeuralNet
from skorch.callbacks import GradientNormClipping
from torch import Tensor, nn

from gradguard.integrations.skorch import GradGuardCallback

pytestmark = pytest.mark.usefixtures("quiet")

BATCHES = 7


class Net(NeuralNet):
    """A loss with a penalty, which it records."""

    def get_loss(self, y_pred: Tensor, y_true: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The loss."""
        penalty = 0.01 * self.module_.out.weight.square().sum()
        self.history.record_batch("penalty", penalty.detach())
        self.penalties = [*getattr(self, "penalties", []), float(penalty.detach())]
        return super().get_loss(y_pred, y_true, *args, **kwargs) + penalty


class Weighted(NeuralNet):
    """A step that weighs its loss where it calls backward, as nets with an accelerator do."""

    def train_step_single(self, batch: Any, **fit_params: Any) -> Any:
        """The loss that is returned is twice the one that the gradients are of."""
        self._set_training(True)
        loss = self.get_loss(self.infer(batch[0], **fit_params), batch[1], X=batch[0], training=True)
        (loss / 2).backward()
        return {"loss": loss, "y_pred": batch[1]}


class Accumulating(NeuralNet):
    """A step that updates at every second batch."""

    def train_step(self, batch: Any, **fit_params: Any) -> Any:
        """As the pages of skorch show."""
        step = self.train_step_single(batch, **fit_params)
        if len(self.history[-1, "batches"]) % 2 == 0:
            self.optimizer_.step()
            self.optimizer_.zero_grad()
        return step


def fitted(*callbacks: Any, kind: type[NeuralNet] = Net, network: Any = None, **options: Any) -> Any:
    """A net after some epochs."""
    seed()
    given = {
        "optimizer": torch.optim.Adam,
        "lr": 1e-2,
        "batch_size": BATCH,
        "train_split": None,
        "verbose": 0,
        "max_epochs": 1,
    }
    modules = {f"module__{name}": value for name, value in (network or {}).items()}
    net = kind(Network, nn.CrossEntropyLoss, callbacks=list(callbacks), **{**given, **modules, **options})
    x, y = samples(BATCH * BATCHES)
    return net.fit(x.numpy(), y.numpy())


def left_by(net: Any) -> list[Any]:
    """All that a training leaves on the net, on its module and in its history."""
    history = [{name: value for name, value in row.items() if name != "dur"} for row in net.history]
    names = [sorted(name for name in vars(net) if name != "callbacks"), getattr(net, "penalties", None)]
    return [*left_on(net.module_), history, names, list(net.optimizer_.state_dict()["state"].values())]


@pytest.mark.parametrize("first", [True, False])
def test_a_factor_is_named_at_the_first_check(first: bool) -> None:
    """Before clipping, wherever in the list of callbacks that is."""
    callback, clipping = GradGuardCallback(every_n_steps=100, **OPTIONS), GradientNormClipping(1e-3)
    fitted(*([callback, clipping] if first else [clipping, callback]), network={"faulty": True})
    assert [row.step for row in callback.history] == [0]
    assert callback.history[0].verdicts.keys() == TENSORS
    assert names_the_factor(callback.report), str(callback.report)


def test_a_training_is_the_same_with_the_callback() -> None:
    """Weights, statistics, containers of module and net, history, optimizer and streams, bit for bit."""
    options = {"network": {"busy": True}, "max_epochs": 2}
    callback, clipping = GradGuardCallback(every_n_steps=4, **OPTIONS), GradientNormClipping(0.1)
    without, under_guard = left_by(fitted(clipping, **options)), left_by(fitted(callback, clipping, **options))
    assert [same(*pair) for pair in zip(without, under_guard, strict=True)] == [True] * len(without)
    assert [row.step for row in callback.history] == [0, 4, 8, 12]
    assert {str(row.verdict) for row in callback.history} <= {"ok", "float_precision"}


def test_an_optimizer_that_evaluates_several_times_is_checked_once_a_batch() -> None:
    """At the parameters that the batch starts from."""
    callback = GradGuardCallback(every_n_steps=3, **OPTIONS)
    fitted(callback, optimizer=torch.optim.LBFGS, optimizer__max_iter=3, lr=0.1)
    assert [row.step for row in callback.history] == [0, 3, 6]
    assert not any(map(bugs, callback.history))


def test_copies_of_a_net_check_on_and_clones_begin_anew() -> None:
    """With the same options; what was told is not told again by a copy."""
    callback = GradGuardCallback(every_n_steps=BATCHES, on_alert=Alerts(), **OPTIONS)
    net = fitted(callback, network={"faulty": True})
    assert {alert.tensor for alert in Alerts.all} == WRONG
    told = len(Alerts.all)
    x, y = (values.numpy() for values in samples(BATCH * BATCHES))
    for copied in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):  # noqa: S301 - it is our own
        again = guarded(copied.partial_fit(x, y))
        assert [row.step for row in again.history] == [BATCHES]
        assert bugs(again.history[0]) == WRONG
    assert len(Alerts.all) == told
    anew = guarded(clone(net).fit(x, y))
    assert [row.step for row in anew.history] == [0]
    assert bugs(anew.history[0]) == WRONG
    assert len(Alerts.all) == 2 * told


def guarded(net: NeuralNet) -> GradGuardCallback:
    """The callback of a net."""
    (callback,) = [each for _, each in net.callbacks_ if isinstance(each, GradGuardCallback)]
    return callback


class Alerts:
    """What all of its objects were called with."""

    all: list[Any] = []  # noqa: RUF012 - of all copies together

    def __call__(self, alert: Any) -> None:
        """One alert."""
        self.all.append(alert)


def test_a_loss_that_is_not_the_one_of_backward_is_no_bug() -> None:
    """The report says by how much they differ."""
    callback = GradGuardCallback(every_n_steps=100, **OPTIONS)
    fitted(callback, kind=Weighted)
    assert callback.report.verdict == "other_loss"
    assert "value= is 2 times the loss of the check" in str(callback.report)


def test_accumulated_gradients_are_refused() -> None:
    """They are of more batches than the callback sees as one."""
    with pytest.raises(ValueError, match=r"gradients of earlier batches.*TorchGuard"):
        fitted(GradGuardCallback(**OPTIONS), kind=Accumulating)


def test_an_unknown_option_is_refused_where_the_callback_is_made() -> None:
    """The message lists the options."""
    with pytest.raises(TypeError, match=r"no option 'every'; the options are every_n_steps"):
        GradGuardCallback(every=3)


def test_an_exception_in_a_replay_leaves_the_net_as_it_was() -> None:
    """Its module, its containers and its methods."""
    calls = []

    class Stopping(Net):
        def get_loss(self, *args: Any, **kwargs: Any) -> Tensor:
            calls.append(len(args))
            if len(calls) == 15:
                raise ZeroDivisionError
            return super().get_loss(*args, **kwargs)

    seed()
    net = Stopping(
        Network,
        nn.CrossEntropyLoss,
        callbacks=[GradGuardCallback(every_n_steps=1, **OPTIONS)],
        module__busy=True,
        train_split=None,
        verbose=0,
        batch_size=BATCH,
    ).initialize()
    before = [parameter.detach().clone() for parameter in net.module_.parameters() if parameter.requires_grad]
    x, y = samples(BATCH)
    with pytest.raises(ZeroDivisionError):
        net.partial_fit(np.asarray(x), np.asarray(y))
    after = [parameter.detach() for parameter in net.module_.parameters() if parameter.requires_grad]
    assert same(before, after)
    assert net.module_.counts["calls"] == len(net.module_.outputs) == len(net.penalties) == 1
    assert not {"train_step_single"} & vars(net).keys()
