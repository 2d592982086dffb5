"""An LSTM with hand-written backpropagation through time: the kind of model that gradguard checks.

A softmax layer on an LSTM, in float32, trained on the mean cross-entropy over timesteps and batch. It uses nothing of
gradguard. Each piece of its chain rule is a method of its own, so that a fault can replace one of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.floating[Any]]

GATES = "ifog"
"""The order of the gates along the last axis of `Wx`, `Wh` and `b`: input, forget, output, candidate."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of sequences.

    Attributes:
        x: One-hot inputs, (T, B, inputs).
        y: The classes to predict, integers, (T, B).
    """

    x: Array
    y: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Trace:
    """The values of a forward pass that the backward pass needs.

    `h[t]` and `c[t]` enter step t, `h[t + 1]` and `c[t + 1]` leave it.

    Attributes:
        batch: The input of the forward pass.
        a: The gates before their nonlinearity, for each step (B, 4 * hidden), in the order of `GATES`.
        i: Input gate, for each step (B, hidden).
        f: Forget gate, for each step (B, hidden).
        o: Output gate, for each step (B, hidden).
        g: Candidate, for each step (B, hidden).
        c: T + 1 cell states, (B, hidden).
        tanh_c: tanh of the cell state that leaves each step, (B, hidden).
        h: T + 1 hidden states, (B, hidden).
        logits: The logits of the classes, (T, B, outputs).
    """

    batch: Batch
    a: list[Array]
    i: list[Array]
    f: list[Array]
    o: list[Array]
    g: list[Array]
    c: list[Array]
    tanh_c: list[Array]
    h: list[Array]
    logits: Array


class LSTM:
    """A softmax layer on an LSTM, with hand-written gradients.

    Every result has the dtype of the parameters: float32 stays float32, and float64 parameters promote the whole pass.
    Complex parameters work too: the forward pass is analytic, so that the complex step gives the exact gradient. With
    K copies of all parameters on a leading axis, the loss has shape (K,), as `gradguard.batched` needs it.

    Args:
        inputs: Number of input symbols.
        hidden: Number of cells.
        outputs: Number of classes.
        seed: The seed of the initial weights.
        dtype: The dtype of the parameters.

    Attributes:
        params: `Wx` (inputs, 4 * hidden), `Wh` (hidden, 4 * hidden), `b` (4 * hidden,) of the LSTM, and
            `V` (hidden, outputs), `c` (outputs,) of the softmax layer.
    """

    def __init__(
        self, inputs: int = 5, hidden: int = 5, outputs: int = 5, *, seed: int = 0, dtype: DTypeLike = np.float32
    ) -> None:
        rng = np.random.default_rng(seed)

        def weights(rows: int, columns: int) -> Array:
            drawn: Array = (rng.standard_normal((rows, columns)) / np.sqrt(rows)).astype(dtype)
            return drawn

        self.params: dict[str, Array] = {
            "Wx": weights(inputs, 4 * hidden),
            "Wh": weights(hidden, 4 * hidden),
            "b": np.zeros(4 * hidden, dtype),
            "V": weights(hidden, outputs),
            "c": np.zeros(outputs, dtype),
        }
        gate(self.params["b"], "f")[:] = 1  # open forget gates let gradients pass at first

    def loss(self, batch: Batch, params: Mapping[str, Array] | None = None) -> np.floating[Any]:
        """The mean cross-entropy over timesteps and batch in nats, at `params` or the model's own; (K,) of K copies."""
        mean: np.floating[Any] = self.losses(batch, params).mean(axis=(-2, -1))
        return mean

    def losses(self, batch: Batch, params: Mapping[str, Array] | None = None) -> Array:
        """The cross-entropy of each prediction in nats, (T, B); (K, T, B) of K copies."""
        losses = cross_entropy(self.forward(batch, self.params if params is None else params))
        return np.moveaxis(losses, 0, -2)

    def loss_and_grads(self, batch: Batch) -> tuple[np.floating[Any], dict[str, Array]]:
        """The loss, and its gradient with respect to each of `params`, of the same shape."""
        trace = self.forward(batch, self.params)
        return cross_entropy(trace).mean(), self.backward(trace)

    def forward(self, batch: Batch, params: Mapping[str, Array]) -> Trace:
        """The forward pass through all timesteps, from states of zero; K copies add a leading axis to each shape."""
        copies = params["Wh"].shape[:-2]
        symbols = batch.x[:, None] if copies else batch.x
        projected = symbols @ params["Wx"] + params["b"][..., None, :]
        zeros = np.zeros((*copies, batch.x.shape[1], params["Wh"].shape[-2]), params["Wh"].dtype)
        h, c, tanh_c, a, i, f, o, g = [zeros], [zeros], [], [], [], [], [], []
        for t in range(len(batch.x)):
            a.append(projected[t] + h[t] @ params["Wh"])
            opened = sigmoid(a[t])
            i.append(gate(opened, "i"))
            f.append(gate(opened, "f"))
            o.append(gate(opened, "o"))
            g.append(np.tanh(gate(a[t], "g")))
            c.append(f[t] * c[t] + i[t] * g[t])
            tanh_c.append(np.tanh(c[t + 1]))
            h.append(o[t] * tanh_c[t])
        logits = np.stack(h[1:]) @ params["V"] + params["c"][..., None, :]
        return Trace(batch, a, i, f, o, g, c, tanh_c, h, logits)

    def backward(self, s: Trace) -> dict[str, Array]:
        """Backpropagation through time, from the last step to the first; the gradient sums the part of each step."""
        grads = {name: np.zeros_like(param) for name, param in self.params.items()}
        dh_next = dc_next = np.zeros_like(s.h[0])
        dlogits = self.dlogits(s)
        for t in self.steps(s):
            dh = dlogits[t] @ self.params["V"].T + dh_next
            dc = self.through_cell(s, t, dh) + dc_next
            da = self.through_gates(s, t, dh, dc)
            self.accumulate(grads, self.dense_grads(s, t, dlogits[t]) | self.recurrent_grads(s, t, da))
            dh_next, dc_next = self.carry(s, t, da, dc)
        return self.finish(s, grads)

    def steps(self, s: Trace) -> Iterable[int]:
        """The timesteps in the order of the backward pass."""
        return reversed(range(len(s.logits)))

    def dlogits(self, s: Trace) -> Array:
        """The derivative of the mean loss with respect to the logits, (T, B, outputs)."""
        return (softmax(s.logits) - self.targets(s)) / s.batch.y.size

    def targets(self, s: Trace) -> Array:
        """The targets, one-hot, (T, B, outputs)."""
        one_hot: Array = np.eye(s.logits.shape[-1], dtype=s.logits.dtype)[s.batch.y]
        return one_hot

    def dense_grads(self, s: Trace, t: int, dlogits: Array) -> dict[str, Array]:
        """The part of step t in the gradient of the softmax layer."""
        return {"V": s.h[t + 1].T @ dlogits, "c": dlogits.sum(axis=0)}

    def through_cell(self, s: Trace, t: int, dh: Array) -> Array:
        """From h = o tanh(c) to c, (B, hidden)."""
        return dh * s.o[t] * self.cell_slope(s, t)

    def cell_slope(self, s: Trace, t: int) -> Array:
        """The derivative of tanh at the cell state that leaves step t, (B, hidden)."""
        return 1 - s.tanh_c[t] ** 2

    def through_gates(self, s: Trace, t: int, dh: Array, dc: Array) -> Array:
        """From h = o tanh(c) and c = f c' + i g to the gates before their nonlinearity, (B, 4 * hidden)."""
        di, df, dg = self.input_gate(s, t, dc), self.forget_gate(s, t, dc), self.candidate(s, t, dc)
        return np.concatenate([di, df, self.output_gate(s, t, dh), dg], axis=-1)

    def input_gate(self, s: Trace, t: int, dc: Array) -> Array:
        """From c to the input gate before its sigmoid, (B, hidden)."""
        return dc * s.g[t] * self.sigmoid_slope(s.i[t], gate(s.a[t], "i"))

    def forget_gate(self, s: Trace, t: int, dc: Array) -> Array:
        """From c to the forget gate before its sigmoid, (B, hidden)."""
        return dc * s.c[t] * self.sigmoid_slope(s.f[t], gate(s.a[t], "f"))

    def output_gate(self, s: Trace, t: int, dh: Array) -> Array:
        """From h to the output gate before its sigmoid, (B, hidden)."""
        return dh * s.tanh_c[t] * self.sigmoid_slope(s.o[t], gate(s.a[t], "o"))

    def candidate(self, s: Trace, t: int, dc: Array) -> Array:
        """From c to the candidate before its tanh, (B, hidden)."""
        return dc * s.i[t] * (1 - s.g[t] ** 2)

    def sigmoid_slope(self, value: Array, _preactivation: Array) -> Array:
        """The derivative of a sigmoid gate, from the gate's value."""
        return value * (1 - value)

    def recurrent_grads(self, s: Trace, t: int, da: Array) -> dict[str, Array]:
        """The part of step t in the gradient of the LSTM's tensors."""
        return {"Wx": s.batch.x[t].T @ da, "Wh": s.h[t].T @ da, "b": da.sum(axis=0)}

    def carry(self, s: Trace, t: int, da: Array, dc: Array) -> tuple[Array, Array]:
        """The derivatives with respect to the states that enter step t, (B, hidden) each."""
        return self.carry_dh(da), self.carry_dc(s, t, dc)

    def carry_dh(self, da: Array) -> Array:
        """From the gates of a step to the hidden state that entered it, (B, hidden)."""
        return da @ self.params["Wh"].T

    def carry_dc(self, s: Trace, t: int, dc: Array) -> Array:
        """From the cell state that leaves step t to the one that entered it, (B, hidden)."""
        return dc * s.f[t]

    def accumulate(self, grads: dict[str, Array], part: Mapping[str, Array]) -> None:
        """Add the part of one step to the gradient."""
        for name, grad in part.items():
            grads[name] += grad

    def finish(self, s: Trace, grads: dict[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - a fault needs it
        """The finished gradient: it is unchanged, since `dlogits` takes the mean."""
        return grads


def gate(array: Array, name: str) -> Array:
    """A view of the columns of one gate on the last axis of `Wx`, `Wh`, `b` or the gates of a step."""
    width = array.shape[-1] // len(GATES)
    first = GATES.index(name) * width
    return array[..., first : first + width]


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)), as a tanh, which does not overflow and is analytic."""
    value: Array = 0.5 * (1 + np.tanh(0.5 * a))
    return value


def cross_entropy(trace: Trace) -> Array:
    """-log of the probability of each target in nats, (T, B); (T, K, B) of K copies."""
    targets = trace.batch.y[..., None] if trace.logits.ndim == 3 else trace.batch.y[:, None, :, None]
    chosen = np.take_along_axis(trace.logits, targets, axis=-1)
    return log_sum_exp(trace.logits) - chosen[..., 0]


def softmax(logits: Array) -> Array:
    """The probabilities of the classes on the last axis."""
    probabilities: Array = np.exp(logits - log_sum_exp(logits)[..., None])
    return probabilities


def log_sum_exp(logits: Array) -> Array:
    """log(sum(exp(logits))) over the last axis; a real shift keeps it analytic for complex logits."""
    shift = logits.real.max(axis=-1, keepdims=True)
    total: Array = np.log(np.exp(logits - shift).sum(axis=-1)) + shift[..., 0]
    return total


def random_batch(
    timesteps: int = 39,
    batch: int = 4,
    *,
    inputs: int = 5,
    outputs: int = 5,
    seed: int = 0,
    dtype: DTypeLike = np.float32,
) -> Batch:
    """Random symbols and random targets; the last input symbol never occurs, like a padding symbol.

    Args:
        timesteps: T, the length of the sequences.
        batch: B, the number of sequences.
        inputs: Number of input symbols of the model, at least two.
        outputs: Number of classes of the model.
        seed: The seed of the symbols and targets.
        dtype: The dtype of the one-hot inputs.
    """
    rng = np.random.default_rng(seed)
    symbols = rng.integers(inputs - 1, size=(timesteps, batch))
    return Batch(np.eye(inputs, dtype=dtype)[symbols], rng.integers(outputs, size=(timesteps, batch)))
