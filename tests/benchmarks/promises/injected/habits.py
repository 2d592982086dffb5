"""Habits of users' code that are no fault of a training, and must not become one under a guard."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.promises.injected.training import WATCHED, Fault, Training


class WritingUpdate(dict[str, Any]):
    """`update` writes into the arrays, and `__getitem__` hands out copies."""

    def update(self, other: Any) -> None:  # type: ignore[override]
        """Write each."""
        for name, value in other.items():
            dict.__getitem__(self, name)[...] = value

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name).copy()


def habit(act: Callable[[Training], object]) -> Fault:
    """What a loss does at every evaluation, in the checks of a new guard in any precision."""

    @contextlib.contextmanager
    def fault(training: Training, rng: np.random.Generator) -> Iterator[None]:
        training.renew(str(rng.choice(["auto", "native"])))
        training.habit = act
        yield
        training.habit = None
        training.renew("native")

    return fault


def leaves_state(training: Training) -> None:
    """It leaves its state on the model, in the precision that it computes in."""
    training.hidden = np.tanh(training.watched["Wh"])
    training.seen.append(training.hidden)
    training.own.random()


def normalizes(training: Training) -> None:
    """It normalizes its input in place."""
    training.inputs -= training.inputs.mean()
    training.inputs /= training.inputs.std()


def raises_where_moved(training: Training) -> None:
    """It is defined at the parameters of the training only."""
    if any(training.watched[name].tobytes() != training.model.params[name].tobytes() for name in WATCHED):
        raise ArithmeticError("outside")
    if training.step_bits != training.parameter_bits():
        raise ArithmeticError("outside")


@contextlib.contextmanager
def numpy_raises(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """NumPy's floating-point errors and all warnings are exceptions."""
    training.renew(str(rng.choice(["auto", "native"])))
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    training.renew("native")


@contextlib.contextmanager
def own_mapping(training: Training, rng: np.random.Generator) -> Iterator[None]:
    """The parameters are in a mapping with ways of its own."""
    plain, training.watched = training.watched, WritingUpdate(training.watched)
    training.renew(str(rng.choice(["auto", "native"])))
    yield
    training.watched = plain
    training.renew("native")


HABITS: dict[str, Fault] = {
    "the loss leaves state behind": habit(leaves_state),
    "it normalizes in place": habit(normalizes),
    "it raises at moved points": habit(raises_where_moved),
    "NumPy and warnings raise": numpy_raises,
    "a mapping of the user's own": own_mapping,
}
