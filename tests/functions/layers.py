"""Hand-written layers in the forms that their authors use, each right, with a factor on one of its gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def normal(*shape: int, dtype: type = np.float64, seed: int = 0) -> Array:
    """Standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, Any]:
    """The outputs x w + b, and the cache."""
    return x @ w + b, (x, w)


def affine_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """The gradients for x, w and b."""
    x, w = cache
    return dout @ w.T, x.T @ dout, dout.sum(axis=0)


def step_forward(x: Array, h_prev: Array, c_prev: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Array, Any]:  # noqa: N803
    """One step of an LSTM."""
    i, f, o, g = np.split(x @ Wx + h_prev @ Wh + b, 4, axis=1)
    i, f, o, g = (1 + np.tanh(i / 2)) / 2, (1 + np.tanh(f / 2)) / 2, (1 + np.tanh(o / 2)) / 2, np.tanh(g)
    c = f * c_prev + i * g
    return o * np.tanh(c), c, (x, h_prev, c_prev, Wx, Wh, i, f, o, g, np.tanh(c))


def step_backward(dh: Array, dc: Array, cache: Any, h_of_h: float = 1.0, h_of_c: float = 1.0) -> tuple[Array, ...]:
    """Its gradients; the parts of that for h_prev from dh and from dc have factors."""
    x, h_prev, c_prev, Wx, Wh, i, f, o, g, tanh_c = cache  # noqa: N806

    def gates(dh: Array, dc: Array) -> Array:
        return np.concatenate(
            [dc * g * i * (1 - i), dc * c_prev * f * (1 - f), dh * tanh_c * o * (1 - o), dc * i * (1 - g**2)], axis=1
        )

    of_h, of_c = gates(dh, dh * o * (1 - tanh_c**2)), gates(0 * dh, dc)
    da, dc = of_h + of_c, dc + dh * o * (1 - tanh_c**2)
    dh_prev = (h_of_h * of_h + h_of_c * of_c) @ Wh.T
    return da @ Wx.T, dh_prev, dc * f, x.T @ da, h_prev.T @ da, da.sum(axis=0)


def step_inputs(dtype: type = np.float64, batch: int = 3, size: int = 4) -> tuple[Array, ...]:
    """Inputs of a step: x, h_prev, c_prev, Wx, Wh, b."""
    shapes = [(batch, 5), (batch, size), (batch, size), (5, 4 * size), (size, 4 * size), (4 * size,)]
    return tuple(0.5 * normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes))


class Affine:
    """A layer that keeps its cache, its parameters and their gradients, which add up over backward passes."""

    def __init__(self, factor: float = 1.0) -> None:
        self.w, self.b = normal(5, 4, seed=1), normal(4, seed=2)
        self.dw, self.db = np.full((5, 4), 3.0), np.full(4, 2.0)
        self.factor = factor
        self.calls = 0

    def forward(self, x: Array) -> Array:
        """The outputs alone."""
        self.x = x
        self.calls += 1
        return x @ self.w + self.b

    def backward(self, dout: Array) -> Array:
        """The gradient for x alone."""
        self.dw += self.x.T @ dout
        self.db += self.factor * dout.sum(axis=0)
        return dout @ self.w.T


class RecurrentModel:
    """An LSTM with a dense layer, trained by hand.

    Args:
        faulty: Called with the gradients of each step and its timestep; returns those to use.
    """

    def __init__(self, faulty: Callable[[list[Array], int], list[Array]] = lambda grads, _: grads) -> None:
        _, _, _, self.Wx, self.Wh, self.b = step_inputs(np.float32)
        self.V = normal(4, 5, dtype=np.float32, seed=9)
        self.faulty = faulty

    def step_forward(self, x: Array, h_prev: Array, c_prev: Array, *weights: Array) -> tuple[Array, Array, Any]:
        """One step."""
        return step_forward(x, h_prev, c_prev, *weights)

    def step_backward(self, dh: Array, dc: Array, cache: Any) -> list[Array]:
        """Its gradients; the timestep is in the first entry of x."""
        return self.faulty(list(step_backward(dh, dc, cache)), int(cache[0][0, 0]))

    def dense_forward(self, h: Array, v: Array) -> tuple[Array, Any]:
        """The outputs."""
        return h @ v, (h, v)

    def dense_backward(self, dout: Array, cache: Any) -> tuple[Array, Array]:
        """Its gradients."""
        h, v = cache
        return dout @ v.T, h.T @ dout

    def train(self, seed: int, steps: int = 6) -> float:
        """One step of gradient descent on half the squared outputs; the loss."""
        x = normal(steps, 3, 5, dtype=np.float32, seed=seed)
        x[:, 0, 0] = range(steps)
        h = c = np.zeros((3, 4), np.float32)
        outputs, caches = [], []
        for t in range(steps):
            h, c, cache = self.step_forward(x[t], h, c, self.Wx, self.Wh, self.b)
            out, dense_cache = self.dense_forward(h, v=self.V)
            outputs.append(out)
            caches.append((cache, dense_cache))
        grads = [np.zeros_like(weights) for weights in (self.Wx, self.Wh, self.b, self.V)]
        dh: Any = 0
        dc: Any = 0
        for t in reversed(range(steps)):
            dh_out, dv = self.dense_backward(outputs[t], caches[t][1])
            _, dh, dc, *own = self.step_backward(dh_out + dh, dc, caches[t][0])
            for total, part in zip(grads, [*own, dv], strict=True):
                total += part
        for weights, grad in zip((self.Wx, self.Wh, self.b, self.V), grads, strict=True):
            weights -= np.float32(0.01) * grad
        return float(sum((out**2).sum() for out in outputs)) / 2
