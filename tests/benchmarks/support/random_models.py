"""Small recurrent networks in unusual states, each drawn at random by a seed; their gradients are correct."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.networks import FORMS, LossForm
from gradguard.testing import LSTM, Batch, random_batch

Arrays = dict[str, NDArray[np.float32]]
KINDS = ("lstm", "tanh", "relu")


class Network(Protocol):
    """A NumPy network with its backward pass."""

    params: Arrays

    def losses(self, batch: Batch) -> NDArray[Any]:
        """One for each timestep and sequence."""

    def loss(self, batch: Batch) -> Any:
        """Their mean."""

    def loss_and_grads(self, batch: Batch) -> tuple[Any, Mapping[str, NDArray[Any]]]:
        """The loss and its gradients."""


class PlainRNN:
    """A recurrent network without gates, h = f(x U + h W + b), and a dense softmax layer."""

    def __init__(self, inputs: int, hidden: int, outputs: int, seed: int, activation: str) -> None:
        rng = np.random.default_rng(seed)
        shapes = {"U": (inputs, hidden), "W": (hidden, hidden), "b": (hidden,), "V": (hidden, outputs)}
        self.params: Arrays = {
            name: (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in shapes.items()
        }
        self.activation = activation

    def forward(self, batch: Batch) -> tuple[list[NDArray[Any]], NDArray[Any]]:
        """The states, and the log-probabilities."""
        p = self.params
        states = [np.zeros((batch.x.shape[1], p["W"].shape[0]), p["W"].dtype)]
        for x in batch.x:
            before = x.astype(p["U"].dtype) @ p["U"] + states[-1] @ p["W"] + p["b"]
            states.append(np.tanh(before) if self.activation == "tanh" else np.maximum(before, 0))
        logits = np.stack(states[1:]) @ p["V"]
        logits = logits - logits.max(axis=-1, keepdims=True)
        return states, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def losses(self, batch: Batch) -> NDArray[Any]:
        """The cross-entropies, one a timestep and sequence."""
        _, log_p = self.forward(batch)
        return np.asarray(-np.take_along_axis(log_p, batch.y[..., None], axis=-1)[..., 0])

    def loss(self, batch: Batch) -> Any:
        """Their mean, in the precision of the parameters."""
        return self.losses(batch).mean()

    def loss_and_grads(self, batch: Batch) -> tuple[Any, Mapping[str, NDArray[Any]]]:
        """Backpropagation through time."""
        states, log_p = self.forward(batch)
        p, grads = self.params, {name: np.zeros_like(param) for name, param in self.params.items()}
        error = np.exp(log_p)
        np.put_along_axis(error, batch.y[..., None], np.take_along_axis(error, batch.y[..., None], -1) - 1, -1)
        error /= error.dtype.type(log_p.shape[0] * log_p.shape[1])
        carried = np.zeros_like(states[0])
        for t in reversed(range(len(batch.x))):
            grads["V"] += states[t + 1].T @ error[t]
            out = error[t] @ p["V"].T + carried
            out = out * (1 - states[t + 1] ** 2 if self.activation == "tanh" else states[t + 1] > 0)
            grads["U"] += batch.x[t].T @ out
            grads["W"] += states[t].T @ out
            grads["b"] += out.sum(axis=0)
            carried = out @ p["W"].T
        return -np.take_along_axis(log_p, batch.y[..., None], -1).mean(), grads


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model is drawn from.

    Attributes:
        seed: Of everything that is drawn.
        kind: One of `KINDS`: an LSTM, or a `PlainRNN` with that activation.
        form: Of the loss.
    """

    seed: int
    kind: str
    form: LossForm

    @property
    def name(self) -> str:
        """For the tables."""
        return f"{self.kind}, {self.form.name}"

    def model(self) -> "RandomModel":
        """Draw the model; one seed always draws the same."""
        rng = np.random.default_rng(self.seed)
        network, batch = drawn_network(self, rng)
        offset = float(rng.choice([0, 0, 0, 1, 30, 1000]))
        return RandomModel(network, batch, self.form, offset, float(rng.choice([1, 1, 1, 1e-6, 1e-3, 1024, 65536])))


@dataclass(frozen=True, slots=True)
class RandomModel:
    """A network, a batch, and a loss: offset + scale * the mean cross-entropy.

    Attributes:
        network: In the state that was drawn.
        batch: That it was trained on.
        form: Of the loss.
        offset: Mostly 0; a large one leaves few digits to the differences of the loss.
        scale: Mostly 1.
    """

    network: Network
    batch: Batch
    form: LossForm
    offset: float
    scale: float

    def loss(self, batch: Batch) -> Any:
        """The loss of a batch in the form that a guard is given, in its own precision."""
        losses: Any = self.form.of(self.network, batch)()  # type: ignore[arg-type]  # a network alike
        kind = np.asarray(losses).dtype.type
        return kind(self.offset) + kind(self.scale) * losses

    def gradients(self, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """The gradients of that loss; empty where one of them is not finite."""
        grads = {name: np.float32(self.scale) * grad for name, grad in self.network.loss_and_grads(batch)[1].items()}
        return grads if all(np.isfinite(grad).all() for grad in grads.values()) else {}


def trials(first: int, count: int) -> list[Trial]:
    """As many trials with successive seeds, over all kinds of network and forms of the loss in turn."""
    kinds = [(kind, form) for kind in KINDS for form in FORMS]
    return [Trial(seed, *kinds[seed % len(kinds)]) for seed in range(first, first + count)]


def drawn_network(trial: Trial, rng: np.random.Generator) -> tuple[Network, Batch]:
    """A network after 0 to 150 steps of training, its parameters perhaps scaled or partly 0, and its batch."""
    timesteps, sequences = (int(rng.choice(sizes)) for sizes in ((1, 2, 4, 8, 20), (1, 2, 4, 16)))
    inputs, hidden, outputs = (int(rng.integers(2, 7)) for _ in range(3))
    batch = random_batch(timesteps, sequences, inputs=inputs, outputs=outputs, seed=trial.seed)
    network: Network = (
        LSTM(inputs, hidden, outputs, seed=trial.seed)
        if trial.kind == "lstm"
        else PlainRNN(inputs, hidden, outputs, trial.seed, trial.kind)
    )
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(int(rng.choice([0, 0, 30, 150]))):
            grads = network.loss_and_grads(batch)[1]
            size = np.sqrt(sum(float(np.sum(grad.astype(np.float64) ** 2)) for grad in grads.values()))
            rate = np.float32(rng.choice([0.1, 1.0, 4.0]) / max(1.0, size))
            for name, grad in grads.items():
                network.params[name] -= rate * grad
    factor = rng.choice([1, 1, 1, 3, 1e-3, 1e-8])
    for param in network.params.values():
        param *= np.float32(factor)
        if rng.random() < 0.1:
            param[rng.random(param.shape) < 0.5] = 0
    return network, batch
