"""A small LSTM to check: its gradients, right or with a fault, and its loss in each form."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from gradguard.testing import LSTM, Batch, faulty, random_batch

Params = dict[str, NDArray[Any]]
Loss = Callable[..., object]

TIMESTEPS, BATCH = 4, 2

WAYS = [
    ("native", False, "scalar"),
    ("native", True, "unreduced"),
    ("float64", False, "unreduced"),
    ("float64", True, "scalar"),
]


def network(fault: str | None = None, **options: Any) -> tuple[LSTM, Batch, Params]:
    """A small LSTM, a batch, and the gradients that its backward pass makes."""
    model = (faulty(fault) if fault else LSTM)(3, 2, 3, **options)
    batch = random_batch(TIMESTEPS, BATCH, inputs=3, outputs=3)
    return model, batch, model.loss_and_grads(batch)[1]


def loss_of(model: LSTM, batch: Batch, takes: bool = False, form: str = "scalar") -> Loss:
    """The loss in one of its four forms."""
    evaluate: Any = model.loss if form == "scalar" else model.losses
    if takes:
        return lambda params: evaluate(batch, params)
    return lambda: evaluate(batch)


def reduction_of(form: str) -> str | None:
    """What the gradient of `loss_of` is of."""
    return None if form == "scalar" else "mean"
