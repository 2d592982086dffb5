"""Law 1: whatever happens in a check, everything is as it was."""

import itertools
import random

import numpy as np
import pytest
from checked_lstm import WAYS, Loss, Params, loss_of, network, reduction_of
from recorder import Recorder

from gradguard import Report, check
from gradguard.testing import LSTM, random_batch


class BoomError(Exception):
    """Something that goes wrong inside the loss."""


class Fragile:
    """A tiny LSTM whose loss raises once, at the evaluation it is told."""

    def __init__(self, takes: bool) -> None:
        self.model, self.batch = LSTM(2, 1, 2), random_batch(2, 1, inputs=2, outputs=2)
        self.objects = dict(self.model.params)
        self.before = {name: array.tobytes() for name, array in self.objects.items()}
        self.loss: Loss = self.at if takes else lambda: self.at(self.model.params)
        self.error: BaseException | None = None
        self.calls, self.fails_at = Recorder(), 0

    def at(self, params: Params) -> object:
        """The loss at some parameters."""
        self.calls.append()
        if self.error is not None and len(self.calls) == self.fails_at:
            raise self.error
        return self.model.loss(self.batch, params)

    def check(self, precision: str) -> Report:
        """A check of all its tensors."""
        return check(
            self.model.params, self.model.loss_and_grads(self.batch)[1], self.loss, precision=precision, entries=2
        )


@pytest.mark.parametrize("takes", [False, True], ids=["loss()", "loss(params)"])
@pytest.mark.parametrize("precision", ["native", "float64"])
def test_whenever_the_loss_raises_the_parameters_are_as_they_were(precision: str, takes: bool) -> None:
    """The same objects with the same bytes, for an error and for Ctrl-C, at evaluations all through a check (law 1)."""
    fragile = Fragile(takes)
    total = fragile.check(precision).evaluations
    assert len(fragile.calls) == total
    places = [1, 2, 5, 14, 23, *np.linspace(30, total, 7).astype(int)]
    for place, error in zip(places, itertools.cycle((BoomError(), KeyboardInterrupt())), strict=False):
        fragile.calls, fragile.fails_at, fragile.error = Recorder(), place, error
        refusals = (ValueError,) if precision == "float64" else ()
        with pytest.raises((type(error), *refusals)) as raised:
            fragile.check(precision)
        assert isinstance(raised.value, type(error)) or "raises BoomError" in str(raised.value)
        assert list(fragile.model.params) == list(fragile.objects)
        for name, array in fragile.objects.items():
            assert fragile.model.params[name] is array
            assert array.tobytes() == fragile.before[name]


@pytest.mark.parametrize(("precision", "takes", "form"), WAYS)
def test_a_check_changes_nothing(precision: str, takes: bool, form: str) -> None:
    """Parameters, gradients, random streams and NumPy's error state are bit for bit what they were."""
    model, batch, grads = network()
    arrays = {**model.params, **{f"gradient of {name}": grad for name, grad in grads.items()}}
    before = {name: array.tobytes() for name, array in arrays.items()}
    streams = str(np.random.get_state()), str(random.getstate()), str(np.geterr())  # noqa: NPY002 - users have it
    loss = loss_of(model, batch, takes, form)
    check(model.params, grads, loss, precision=precision, reduction=reduction_of(form), entries=5)
    assert before == {name: array.tobytes() for name, array in arrays.items()}
    assert streams == (str(np.random.get_state()), str(random.getstate()), str(np.geterr()))  # noqa: NPY002 - the same
