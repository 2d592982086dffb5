"""Three small networks on one tape: an LSTM, a feed-forward network with batch normalization, and attention."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.causes.tape import NONE, Node, Slips, Values, gradients

Params = dict[str, Values]


@dataclass(frozen=True, slots=True)
class Data:
    """A batch: inputs, and the class of each row of scores."""

    inputs: Values
    targets: NDArray[np.int_]


class Architecture(Protocol):
    """A network.

    Attributes:
        name: For the table.
        square: A square matrix.
        fused: A matrix of which columns belong together, and how many parts it has.
        alike: Two tensors of one shape.
        below: The tensors below a dropout that acts in front of the output layer.
        repeated: A tensor that is used several times.
        constants: Numbers of the training.
    """

    name: str
    square: str
    fused: tuple[str, int]
    alike: tuple[str, str]
    below: tuple[str, ...]
    repeated: str
    constants: dict[str, float]

    def fresh(self, seed: int) -> Params:
        """Random parameters."""

    def batch(self, seed: int) -> Data:
        """A random batch."""

    def scores(self, params: dict[str, Node], inputs: Values) -> Node:
        """The scores, a row for each target."""


def loss_of(
    net: Architecture, params: Params, data: Data, slips: Slips = NONE, last: bool = False
) -> tuple[Node, dict[str, Node]]:
    """The loss as the end of a tape, and the parameters on it; with `last`, the share of the last target alone."""
    nodes = {name: Node(value, name=name, slips=slips) for name, value in params.items()}
    inputs = data.inputs.astype(next(iter(params.values())).dtype)
    scores = net.scores(nodes, inputs)
    count = len(data.targets)
    some = scores.part(np.arange(count - 1, count)) if last else scores
    loss = some.cross_entropy(data.targets[-1:] if last else data.targets, count)
    loss.slips = slips
    return loss, nodes


def gradient_of(net: Architecture, params: Params, data: Data, slips: Slips = NONE, last: bool = False) -> Params:
    """The gradient of the loss, or what slips make of it."""
    return gradients(*loss_of(net, params, data, slips, last))


def _normal(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> Params:
    return {name: rng.normal(size=shape) * (0.6 if len(shape) > 1 else 0.2) for name, shape in shapes.items()}


class Lstm:
    """One layer, fused gates; the class of every step."""

    name = "LSTM"
    steps, rows, inputs, hidden, classes = 7, 5, 6, 6, 6
    square, fused, alike, repeated = "Wy", ("Wh", 4), ("Wx", "Wh"), "b"
    below = ("Wx", "Wh", "b")
    constants = {"timesteps": 7.0, "batch": 5.0}  # noqa: RUF012 - never written

    def fresh(self, seed: int) -> Params:
        """Random parameters."""
        gates = 4 * self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "Wx": (self.inputs, gates), "Wh": (self.hidden, gates), "b": (gates,),
            "Wy": (self.hidden, self.classes), "by": (self.classes,),
        }  # fmt: skip
        return _normal(np.random.default_rng(seed), shapes)

    def batch(self, seed: int) -> Data:
        """A random batch."""
        rng = np.random.default_rng(seed)
        size = (self.steps, self.rows, self.inputs)
        return Data(rng.normal(size=size), rng.integers(0, self.classes, self.steps * self.rows))

    def scores(self, params: dict[str, Node], inputs: Values) -> Node:
        """The scores, a row for each target."""
        slips, width = params["b"].slips, self.hidden
        h = c = Node(np.zeros((self.rows, width), inputs.dtype), slips=slips)
        total = None
        for step, x in enumerate(inputs):
            z = Node(x, slips=slips) @ params["Wx"] + h @ params["Wh"] + params["b"]
            i, f, o = (z.part((slice(None), slice(k * width, (k + 1) * width))).sigmoid() for k in range(3))
            c = f * c + i * z.part((slice(None), slice(3 * width, 4 * width))).tanh()
            h = o * c.tanh()
            scores = h @ params["Wy"] + params["by"]
            rows = np.arange(step * self.rows, (step + 1) * self.rows)
            total = _placed(scores, rows, self.steps * self.rows, total)
            if step % 3 == 2:
                h, c = h.cut(), c.cut()
        assert total is not None
        return total


def _placed(scores: Node, rows: NDArray[np.int_], count: int, others: Node | None) -> Node:
    """Some rows of all scores, beside those of earlier steps."""
    whole = np.zeros((count, scores.value.shape[1]), scores.value.dtype)
    whole[rows] = scores.value
    placed = Node(whole, ((scores, lambda d: d[rows]),), slips=scores.slips)
    return placed if others is None else others + placed


class FeedForward:
    """Three layers, batch normalization after the first, one matrix used twice."""

    name = "feed-forward, batch norm"
    rows, inputs, hidden, classes = 16, 7, 8, 5
    square, fused, alike, repeated = "W2", ("W1", 4), ("W2", "W3"), "W2"
    below = ("W1", "scale", "shift", "W2", "b2", "W3", "b3")
    constants = {"batch": 16.0}  # noqa: RUF012 - never written

    def fresh(self, seed: int) -> Params:
        """Random parameters."""
        width = self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "W1": (self.inputs, width), "scale": (width,), "shift": (width,), "W2": (width, width), "b2": (width,),
            "W3": (width, width), "b3": (width,), "W4": (width, self.classes), "b4": (self.classes,),
        }  # fmt: skip
        params = _normal(np.random.default_rng(seed), shapes)
        return params | {"scale": params["scale"] + 1}

    def batch(self, seed: int) -> Data:
        """A random batch."""
        rng = np.random.default_rng(seed)
        return Data(rng.normal(size=(self.rows, self.inputs)), rng.integers(0, self.classes, self.rows))

    def scores(self, params: dict[str, Node], inputs: Values) -> Node:
        """The scores, a row for each target."""
        normal = (Node(inputs, slips=params["W1"].slips) @ params["W1"]).normalized()
        h = (normal * params["scale"] + params["shift"]).tanh()
        for _ in range(2):
            h = (h @ params["W2"] + params["b2"]).tanh()
        h = (h @ params["W3"] + params["b3"]).tanh()
        return h @ params["W4"] + params["b4"]


class Attention:
    """Embedded tokens, one head of attention with a skip, a layer, and the class of every token."""

    name = "attention"
    rows, tokens, words, width = 4, 6, 9, 8
    square, fused, alike, repeated = "Wq", ("Wv", 4), ("Wq", "Wk"), "E"
    below = ("E", "Wq", "Wk", "Wv", "W1", "b1")
    constants = {"batch": 4.0, "tokens": 6.0}  # noqa: RUF012 - never written

    def fresh(self, seed: int) -> Params:
        """Random parameters."""
        width = self.width
        square = (width, width)
        shapes: dict[str, tuple[int, ...]] = {
            "E": (self.words, width), "Wq": square, "Wk": square, "Wv": square, "W1": square, "b1": (width,),
            "W2": (width, self.words), "b2": (self.words,),
        }  # fmt: skip
        return _normal(np.random.default_rng(seed), shapes)

    def batch(self, seed: int) -> Data:
        """A random batch."""
        rng = np.random.default_rng(seed)
        words = rng.integers(0, self.words, (self.rows, self.tokens))
        return Data(words.astype(np.float64), rng.integers(0, self.words, words.size))

    def scores(self, params: dict[str, Node], inputs: Values) -> Node:
        """The scores, a row for each target."""
        words = inputs.astype(int)
        rows = []
        for sequence in words:
            x = params["E"].part(sequence)
            q, k, v = (x @ params[name] for name in ("Wq", "Wk", "Wv"))
            chances = (q @ k.cut().turned()).times(self.width**-0.5).softmax()
            h = ((chances @ v + x) @ params["W1"] + params["b1"]).tanh()
            rows.append(h @ params["W2"] + params["b2"])
        total = None
        for row, scores in enumerate(rows):
            places = np.arange(row * self.tokens, (row + 1) * self.tokens)
            total = _placed(scores, places, words.size, total)
        assert total is not None
        return total


ARCHITECTURES: tuple[Architecture, ...] = (Lstm(), FeedForward(), Attention())
