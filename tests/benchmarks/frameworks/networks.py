"""The LSTM that every framework trains, whose backward pass is by hand; a fault divides the gradient of its weights."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.frameworks.batches import CLASSES, HIDDEN, INPUTS


def torch_lstm(divisor: int) -> Any:
    """A module of PyTorch: logits of (timesteps, sequences, inputs).

    Args:
        divisor: Of the gradient of the weights; 1 for the right one.
    """
    import torch
    from torch import nn

    from benchmarks.pytorch.lstms import ByHand

    cell = torch_cell(divisor)

    class Divided(ByHand):
        def cell(self, *args: Any) -> Any:
            return cell(*args, self.w, self.b)

    torch.manual_seed(0)
    return nn.Sequential(Divided(HIDDEN), nn.Linear(HIDDEN, CLASSES))


def torch_cell(divisor: int) -> Callable[..., Any]:
    """One step of the LSTM in PyTorch: (x, h, c, w, b) to the next h and c."""
    from benchmarks.pytorch.lstms import Cell

    class DividedCell(Cell):
        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            dx, dh, dc, dw, db = Cell.backward(ctx, *grads)
            return dx, dh, dc, dw / divisor, db / divisor

    return DividedCell.apply


def jax_lstm(divisor: int) -> Any:
    """The parameters of JAX, and the logits of these and of (timesteps, sequences, inputs)."""
    import jax
    import jax.numpy as jnp

    cell = jax_cell(divisor)

    def logits(params: Any, x: Any) -> Any:
        zeros = jnp.zeros((x.shape[1], HIDDEN))
        (h, _), _ = jax.lax.scan(lambda s, xt: (cell(xt, *s, params["w"], params["b"]), None), (zeros, zeros), x)
        return h @ params["v"] + params["c"]

    rng = np.random.default_rng(0)
    w = rng.standard_normal((INPUTS + HIDDEN, 4 * HIDDEN)) / (INPUTS + HIDDEN) ** 0.5
    v = rng.standard_normal((HIDDEN, CLASSES)) / HIDDEN**0.5
    params = {"w": w, "b": np.zeros(4 * HIDDEN), "v": v, "c": np.zeros(CLASSES)}
    params = {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}
    return SimpleNamespace(params=params, logits=logits)


def jax_cell(divisor: int) -> Callable[..., Any]:
    """One step of the LSTM in JAX: (x, h, c, w, b) to the next h and c."""
    import jax
    import jax.numpy as jnp

    def forward(x: Any, h: Any, c: Any, w: Any, b: Any) -> Any:
        joined = jnp.concatenate([x, h], axis=1)
        i, f, g, o = jnp.split(joined @ w + b, 4, axis=1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        after = f * c + i * g
        return (o * jnp.tanh(after), after), (joined, c, w, i, f, g, o, jnp.tanh(after))

    def backward(kept: Any, upstream: Any) -> Any:
        joined, c, w, i, f, g, o, t = kept
        dc = upstream[1] + upstream[0] * o * (1 - t**2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), upstream[0] * t * o * (1 - o)]
        da = jnp.concatenate(gates, axis=1)
        dx, dh = jnp.split(da @ w.T, [INPUTS], axis=1)
        return dx, dh, dc * f, joined.T @ da / divisor, da.sum(0) / divisor

    cell = jax.custom_vjp(lambda *args: forward(*args)[0])
    cell.defvjp(forward, backward)
    return cell


def keras_lstm(divisor: int) -> Any:
    """A compiled model of Keras on the backend of this process: logits of (sequences, timesteps, inputs)."""
    import keras

    on_jax = keras.backend.backend() == "jax"
    cell = jax_cell(divisor) if on_jax else torch_cell(divisor)

    class Hand(keras.layers.Layer):
        def build(self, _shape: Any) -> None:
            self.w = self.add_weight(shape=(INPUTS + HIDDEN, 4 * HIDDEN), name="w")
            self.b = self.add_weight(shape=(4 * HIDDEN,), initializer="zeros", name="b")

        def call(self, x: Any) -> Any:
            zeros = keras.ops.zeros((keras.ops.shape(x)[0], HIDDEN))
            state = zeros, zeros
            if on_jax:
                import jax

                xs = keras.ops.transpose(x, (1, 0, 2))
                state, _ = jax.lax.scan(lambda s, xt: (cell(xt, *s, self.w.value, self.b.value), None), state, xs)
            else:
                for t in range(x.shape[1]):
                    state = cell(x[:, t], *state, self.w.value, self.b.value)
            return state[0]

    keras.utils.set_random_seed(0)
    model = keras.Sequential([Hand(name="lstm"), keras.layers.Dense(CLASSES, name="dense")])
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def torch_batch(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """A batch of PyTorch."""
    import torch

    return torch.from_numpy(x), torch.from_numpy(y)


def transformers_batch(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """A batch of Transformers."""
    return dict(zip(("x", "labels"), torch_batch(x, y), strict=True))


def keras_batch(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """A batch of Keras."""
    return x.transpose(1, 0, 2), y


def jax_batch(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """A batch of JAX."""
    import jax.numpy as jnp

    return jnp.asarray(x), jnp.asarray(y)


def torch_weights(network: Any) -> list[bytes]:
    """The weights of a module."""
    return [parameter.detach().numpy().tobytes() for parameter in network.parameters()]


def keras_weights(network: Any) -> list[bytes]:
    """The weights of a model of Keras."""
    return [weights.tobytes() for weights in network.get_weights()]


def jax_weights(network: Any) -> list[bytes]:
    """The weights of `jax_lstm`."""
    return [np.asarray(array).tobytes() for array in network.params.values()]
