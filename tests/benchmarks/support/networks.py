"""LSTMs in several states of training, the forms their loss is passed in, and their true gradients."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard.loss.signature import Reduction
from gradguard.measurement.precision import CheckTarget, Precision
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot
from gradguard.testing import LSTM, Batch, random_batch

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LossForm:
    """A form in which gradguard gets the same loss.

    Attributes:
        name: For the tables.
        precision: In which gradguard evaluates it.
        reduction: None for a scalar loss; for unreduced losses, how they are reduced.
    """

    name: str
    precision: Precision
    reduction: Reduction | None

    def of(self, model: LSTM, batch: Batch) -> Callable[[], object]:
        """The loss function for a check or a guard."""
        return (lambda: model.losses(batch)) if self.reduction else (lambda: model.loss(batch))


SCALAR = LossForm("scalar float32", "native", None)
UNREDUCED = LossForm("unreduced float32", "native", "mean")
FLOAT64 = LossForm("float64 copies", "float64", None)
FORMS = (SCALAR, UNREDUCED, FLOAT64)


@dataclass(frozen=True, slots=True)
class State:
    """A network after some steps of training on a single batch.

    Attributes:
        name: For the tables.
        steps: Of plain gradient descent before.
        rate: The learning rate; a high one ends at parameters where the loss is strongly curved.
    """

    name: str
    steps: int
    rate: float

    def reached(self, batch: int, hidden: int = 5, timesteps: int = 39, seed: int = 0) -> tuple[LSTM, Batch]:
        """The network in this state, and the batch that it was trained on."""
        model, data = LSTM(hidden=hidden, seed=seed), random_batch(timesteps, batch, seed=seed)
        for _ in range(self.steps):
            descend(model, model.loss_and_grads(data)[1], self.rate)
        return model, data


UNTRAINED = State("untrained", 0, 0.0)
TRAINED = State("trained", 1000, 0.5)
OVERFIT = State("overfit", 1500, 2.0)
SHARP = State("sharp", 1500, 4.0)
STATES = (UNTRAINED, TRAINED, OVERFIT, SHARP)


def descend(model: LSTM, grads: Mapping[str, NDArray[Any]], rate: float) -> None:
    """One step of plain gradient descent, in place."""
    for name, grad in grads.items():
        model.params[name] -= rate * grad


def true_gradient(model: LSTM, batch: Batch) -> dict[str, Float64]:
    """The gradient at the current parameters, from a float64 copy of the network."""
    twin = LSTM(dtype=np.float64)
    twin.params = {name: param.astype(np.float64) for name, param in model.params.items()}
    return {name: grad.astype(np.float64) for name, grad in twin.loss_and_grads(batch)[1].items()}


def hold_to_complex_step(model: LSTM, batch: Batch, gradient: Mapping[str, Float64]) -> None:
    """Raise `ValueError` if the complex step, which shares no code with backprop, gives another gradient."""
    rng = np.random.default_rng(0)
    for name, grad in gradient.items():
        direction = rng.standard_normal(grad.shape)
        params: dict[str, NDArray[Any]] = {key: param.astype(complex) for key, param in model.params.items()}
        params[name] = params[name] + 1e-30j * direction
        slope = complex(model.loss(batch, params)).imag / 1e-30
        if not abs(slope - np.vdot(grad, direction)) <= 1e-9 * float(np.linalg.norm(grad)):
            raise ValueError(f"the gradient of {name} gives {np.vdot(grad, direction)}, the complex step {slope}")


def check_target_of(model: LSTM, batch: Batch, form: LossForm, gradient: Mapping[str, NDArray[Any]]) -> CheckTarget:
    """The object that `gradguard.check` makes of its arguments, without a rollback."""
    state = Rollback(gradient, combined_snapshot(None))
    return CheckTarget(model.params, dict(model.params), form.of(model, batch), form.reduction, state)
