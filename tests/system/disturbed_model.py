"""A model whose every evaluation disturbs something, under a guard that must put it back."""

import random
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from signal_storm import StopError

from gradguard import GradGuard, snapshot_attributes, snapshot_rng
from gradguard.perturbation.snapshots import Snapshot, combined_snapshot

FORMS = ["native", "float64 by swap", "float64 by swap, OrderedDict"]


class BurntError(StopError):
    """What the loss raises: not what a signal raises, since a loss that raises twice is taken for undefined there."""


class Model:
    """A small model with everything that an evaluation of its loss disturbs."""

    def __init__(self, form: str) -> None:
        mapping = OrderedDict if "OrderedDict" in form else dict
        self.params: Any = mapping(w=np.array([0.3, -0.7], np.float32), v=np.array([[0.2, 0.5]], np.float32))
        self.objects = dict(self.params)
        self.grads = {name: np.empty_like(param) for name, param in self.params.items()}
        self.state = SimpleNamespace(hidden=np.zeros(2), calls=0, rng=np.random.default_rng(3))
        self.form = form
        self.fuse = 0
        np.random.seed(7)  # noqa: NPY002 - users have it
        random.seed(7)
        self.backward()

    def loss(self) -> Any:
        """It also writes the gradients, and draws from every stream there is; it raises when its fuse is burnt down."""
        self.state.calls += 1
        self.state.hidden += 1
        mask = 1 + self.state.rng.random() + np.random.random() + random.random()  # noqa: NPY002, S311 - the point
        mask *= self.state.hidden[0]
        w, v = self.params["w"], self.params["v"]
        for name, gradient in (("w", np.cos(w) * v[0]), ("v", np.sin(w)[None])):
            self.grads[name][...] = gradient * np.float32(mask)
        self.fuse -= 1
        if self.fuse == 0:
            raise BurntError
        return (np.sin(w) * v[0]).sum() * w.dtype.type(mask)

    def backward(self) -> None:
        """The gradients of the coming check, with the state put back."""
        restore = self.snapshot()
        self.loss()
        restore()

    def snapshot(self) -> Callable[[], None]:
        """What puts all of it back."""
        return combined_snapshot(self.snapshots())()

    def snapshots(self) -> list[Snapshot]:
        """Of all that an evaluation disturbs."""
        state = snapshot_attributes(self.state, "hidden", "calls", "rng")
        return [state, snapshot_rng(np.random), snapshot_rng(random)]

    def guard(self) -> GradGuard:
        """A guard that checks at every step, in the precision of the form."""
        precision = "float64" if "float64" in self.form else "native"
        options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": precision, "snapshot": self.snapshots()}
        return GradGuard(self.params, self.loss, **options)

    def everything(self) -> list[object]:
        """Every bit that training goes on with."""
        assert list(self.params) == list(self.objects)
        assert all(self.params[name] is array for name, array in self.objects.items())
        arrays = [*self.params.values(), *self.grads.values(), self.state.hidden]
        _, key, *place = np.random.get_state()  # noqa: NPY002
        streams = [self.state.rng.bit_generator.state, key.tobytes(), place, random.getstate()]
        return [*(array.tobytes() for array in arrays), self.state.calls, *streams]


def routine(model: Model, state: dict[str, Any]) -> Callable[[], object]:
    """A routine check, by a guard that has made its first one in another life."""
    guard = model.guard()
    guard.load_state_dict(state)
    return lambda: guard.after_backward(1, model.grads)
