"""Deep networks of many small tensors, with gradients by hand, and contexts to measure them with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gradguard.measurement import CheckTarget, MeasurementContext
from gradguard.perturbation import Rollback, combined_snapshot

Float32 = NDArray[np.float32]
Grads = dict[str, Float32]
WIDTH, CLASSES = 10, 4


@dataclass
class Residual:
    """Layers of h + tanh(h W + b) / 2, or of ReLUs without the h, and the mean cross-entropy of the last one.

    It has two tensors a layer, and one of outputs.

    Attributes:
        layers: Their number.
        batch: Rows of the batch.
        seed: Of parameters and data.
        corners: Whether the units are ReLUs.
        evaluations: Of the loss so far.
    """

    layers: int = 20
    batch: int = 8
    seed: int = 0
    corners: bool = False
    evaluations: int = 0
    params: Grads = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        scale = np.sqrt((2 if self.corners else 1) / WIDTH)
        for layer in range(self.layers):
            self.params[f"W{layer}"] = (scale * rng.standard_normal((WIDTH, WIDTH))).astype(np.float32)
            self.params[f"b{layer}"] = (0.1 * rng.standard_normal(WIDTH)).astype(np.float32)
        self.params["V"] = (rng.standard_normal((WIDTH, CLASSES)) / np.sqrt(WIDTH)).astype(np.float32)
        self.draw_batch(rng)

    def draw_batch(self, rng: np.random.Generator) -> None:
        """The data of another step."""
        self.x = rng.standard_normal((self.batch, WIDTH)).astype(np.float32)
        self.labels = rng.integers(CLASSES, size=self.batch)

    def loss(self) -> np.floating:
        """At the live parameters."""
        self.evaluations += 1
        logits = self._forward()[-1] @ self.params["V"]
        rows = np.arange(self.batch)
        logits = logits - logits.max(axis=1, keepdims=True)
        each = np.log(np.exp(logits).sum(axis=1)) - logits[rows, self.labels]
        return each.sum() / self.batch

    def grads(self) -> Grads:
        """By hand."""
        states = self._forward()
        logits = states[-1] @ self.params["V"]
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        upstream = weights / weights.sum(axis=1, keepdims=True)
        upstream[np.arange(self.batch), self.labels] -= 1
        upstream /= np.float32(self.batch)
        grads = {"V": states[-1].T @ upstream}
        above = upstream @ self.params["V"].T
        for layer in reversed(range(self.layers)):
            below = states[layer]
            sums = below @ self.params[f"W{layer}"] + self.params[f"b{layer}"]
            slopes = (sums > 0).astype(np.float32) if self.corners else (1 - np.tanh(sums) ** 2) / np.float32(2)
            inner = above * slopes
            grads[f"W{layer}"], grads[f"b{layer}"] = below.T @ inner, inner.sum(axis=0)
            above = inner @ self.params[f"W{layer}"].T + (0 if self.corners else above)
        return {name: grads[name] for name in self.params}

    def _forward(self) -> list[Float32]:
        """The states of all layers, the inputs first."""
        states = [self.x]
        for layer in range(self.layers):
            sums = states[-1] @ self.params[f"W{layer}"] + self.params[f"b{layer}"]
            states.append(np.maximum(sums, 0) if self.corners else states[-1] + np.tanh(sums) / np.float32(2))
        return states


Spoil = Callable[[Float32], Float32]


def opened(model: Residual, precision: str = "native", spoilt: dict[str, Spoil] | None = None) -> MeasurementContext:
    """What a check measures with, where some of the gradients are spoilt."""
    grads = model.grads()
    for name, spoil in (spoilt or {}).items():
        grads[name] = spoil(grads[name])
    state = Rollback(grads, combined_snapshot(None))
    return CheckTarget(model.params, dict(model.params), model.loss, None, state).context(precision)  # type: ignore[arg-type]


def scaled(factor: float) -> Spoil:
    """A gradient that is too large by a factor."""
    return lambda gradient: np.float32(factor) * gradient


def transposed(gradient: Float32) -> Float32:
    """A square gradient, transposed."""
    return np.ascontiguousarray(gradient.T)


def without_column(gradient: Float32) -> Float32:
    """A gradient of which a column was never written."""
    spoilt = gradient.copy()
    spoilt[..., 3] = 0
    return spoilt
