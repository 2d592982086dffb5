"""Deep networks of 5 to 401 tensors with a handwritten backward pass, some with kinks, and faults in one tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tensor = NDArray[Any]
CLASSES = 10


@dataclass(frozen=True, slots=True)
class Unit:
    """How a layer goes on from a = h W + b.

    Attributes:
        inputs: Numbers of `a` for each number of the output.
        gain: The standard deviation of W in units of 1 / sqrt(width), at which signals keep their size.
        carries: Whether h is added to the output.
        output: Of `a`, shape (B, width * inputs), to (B, width).
        backward: The gradient of `a` from `a` and the gradient of the output.
    """

    inputs: int
    gain: float
    carries: bool
    output: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


def _pairs(a: Tensor) -> Tensor:
    return a.reshape(len(a), -1, 2)


def _backward_of_max(a: Tensor, out: Tensor) -> Tensor:
    first = _pairs(a)[..., 0] >= _pairs(a)[..., 1]
    return np.stack([out * first, out * ~first], axis=-1).reshape(a.shape)


UNITS: Mapping[str, Unit] = {
    "residual": Unit(1, 1.0, True, lambda a: np.tanh(a) / 2, lambda a, out: out * (1 - np.tanh(a) ** 2) / 2),
    "relu": Unit(1, np.sqrt(2), False, lambda a: np.maximum(a, 0), lambda a, out: out * (a > 0)),
    "max-pool": Unit(2, 1.0, False, lambda a: _pairs(a).max(axis=-1), _backward_of_max),
    "clipped": Unit(1, 1.5, False, lambda a: np.clip(a, -1, 1), lambda a, out: out * (np.abs(a) < 1)),
}
KINKED = ("relu", "max-pool", "clipped")


@dataclass(frozen=True, slots=True)
class Examples:
    """A batch: inputs, shape (B, width), and classes, shape (B,)."""

    x: Tensor
    y: NDArray[np.int_]

    @classmethod
    def drawn(cls, batch: int, width: int, seed: int) -> "Examples":
        """Inputs at random, each with the class that the largest of its first numbers names."""
        x = np.random.default_rng(seed).standard_normal((batch, width)).astype(np.float32)
        return cls(x, x[:, :CLASSES].argmax(axis=1))


class DeepNetwork:
    """Layers of one kind, W0, b0, W1, ..., then a dense layer V and the mean cross-entropy: 2 layers + 1 tensors.

    Args:
        kind: A key of `UNITS`.
        layers: Their number.
        width: Of each.
        seed: Draws the weights.
    """

    def __init__(self, kind: str, layers: int, width: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.unit, self.layers = UNITS[kind], layers
        self.params: dict[str, Tensor] = {}
        for layer in range(layers):
            self.params[f"W{layer}"] = _normal(rng, (width, width * self.unit.inputs), self.unit.gain / np.sqrt(width))
            self.params[f"b{layer}"] = _normal(rng, (width * self.unit.inputs,), 0.1)
        self.params["V"] = _normal(rng, (width, CLASSES), 1 / np.sqrt(width))

    def loss(self, batch: Examples) -> Any:
        """In the precision of the parameters."""
        return self._forward(batch)[0]

    def gradients(self, batch: Examples, forgotten: int | None = None) -> dict[str, Tensor]:
        """By backprop; where a layer is named, its slope counts as 1, which spoils all layers below it too."""
        _, tape, top, error = self._forward(batch)
        grads, out = {"V": top.T @ error}, error @ self.params["V"].T
        for layer in reversed(range(self.layers)):
            below, a = tape[layer]
            inner = out if layer == forgotten else self.unit.backward(a, out)
            grads[f"W{layer}"], grads[f"b{layer}"] = below.T @ inner, inner.sum(axis=0)
            out = inner @ self.params[f"W{layer}"].T + (out if self.unit.carries else 0)
        return {name: grads[name] for name in self.params}

    def descend(self, grads: Mapping[str, Tensor], rate: float) -> None:
        """One step of plain gradient descent, in place."""
        for name, grad in grads.items():
            self.params[name] -= np.float32(rate) * grad

    def _forward(self, batch: Examples) -> tuple[Any, list[tuple[Tensor, Tensor]], Tensor, Tensor]:
        """The loss; input and `a` of each layer; the last output; the gradient of the logits."""
        h, tape = batch.x, []
        for layer in range(self.layers):
            a = h @ self.params[f"W{layer}"] + self.params[f"b{layer}"]
            tape.append((h, a))
            h = self.unit.output(a) + (h if self.unit.carries else 0)
        z = h @ self.params["V"]
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        places = np.arange(len(h)), batch.y
        error = np.exp(log_p)
        error[places] -= 1
        return -log_p[places].mean(), tape, h, error / error.dtype.type(len(h))


def _normal(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> Tensor:
    return (size * rng.standard_normal(shape)).astype(np.float32)


def _with_row_of_zeros(grad: Tensor, _param: Tensor) -> Tensor:
    wrong = grad.copy()
    wrong[len(grad) // 2] = 0
    return wrong


def _with_column_of_zeros(grad: Tensor, _param: Tensor) -> Tensor:
    wrong = grad.copy()
    wrong[..., grad.shape[-1] // 2] = 0
    return wrong


FORGOTTEN = "slope forgotten"
"""The fault that spoils the tensors of a layer and of all below it."""
IN_ONE_TENSOR: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "1 % too large": lambda grad, _: grad * np.float32(1.01),
    "5 % too large": lambda grad, _: grad * np.float32(1.05),
    "a row of zeros": _with_row_of_zeros,
    "a column of zeros": _with_column_of_zeros,
    "transposed": lambda grad, _: np.ascontiguousarray(grad.T),
    "weight decay": lambda grad, param: grad + np.float32(1e-3) * param,
}
"""The gradient that a fault makes of the right one and the parameter; for square matrices."""


def wrong_gradients(network: DeepNetwork, batch: Examples, fault: str, layer: int) -> dict[str, Tensor]:
    """The gradients with a fault in W of one layer.

    Args:
        network: The network.
        batch: The batch.
        fault: `FORGOTTEN` or a key of `IN_ONE_TENSOR`; "" for none.
        layer: Where it is.
    """
    if fault == FORGOTTEN:
        return network.gradients(batch, layer)
    grads, name = network.gradients(batch), f"W{layer}"
    return grads | {name: IN_ONE_TENSOR[fault](grads[name], network.params[name])} if fault else grads
