"""Reverse-mode differentiation of a few operations, with the slips that people make in backward passes.

A loss is written once. Without slips its gradient is right; each slip changes one rule of the backward pass only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.floating[Any]]
Rule = Callable[[Values], Values]


@dataclass(frozen=True, slots=True)
class Slips:
    """What a backward pass does wrong.

    Attributes:
        wrong_slope: The slope of tanh takes the activation for its input.
        wrong_rows: The inputs of a matrix product are those of the next row when the matrix's gradient is formed.
        wrong_loss_slope: The derivative of the loss is multiplied by the chances once more.
        cut: What the network's `cut` lets no gradient through.
        overwritten: The tensor whose uses overwrite each other.
    """

    wrong_slope: bool = False
    wrong_rows: bool = False
    wrong_loss_slope: bool = False
    cut: bool = False
    overwritten: str = ""


NONE = Slips()


@dataclass(eq=False, slots=True)
class Node:
    """A value, and how its gradient goes to the values that it was computed from.

    Attributes:
        value: The value.
        parents: Each parent with the rule that makes its share of the gradient.
        name: Of a parameter.
        slips: What the backward pass does wrong.
    """

    value: Values
    parents: Sequence[tuple["Node", Rule]] = ()
    name: str = ""
    slips: Slips = field(default=NONE)

    def __add__(self, other: "Node") -> "Node":
        return self._with(
            self.value + other.value,
            (self, lambda d: _summed(d, self.value.shape)),
            (other, lambda d: _summed(d, other.value.shape)),
        )

    def __mul__(self, other: "Node") -> "Node":
        return self._with(
            self.value * other.value,
            (self, lambda d: _summed(d * other.value, self.value.shape)),
            (other, lambda d: _summed(d * self.value, other.value.shape)),
        )

    def __matmul__(self, other: "Node") -> "Node":
        rows = np.roll(self.value, 1, axis=0) if self.slips.wrong_rows and other.name else self.value
        return self._with(
            self.value @ other.value,
            (self, lambda d: d @ _turned(other.value)),
            (other, lambda d: _summed(_turned(rows) @ d, other.value.shape)),
        )

    def _with(self, value: Values, *parents: tuple["Node", Rule]) -> "Node":
        return Node(value, parents, slips=self.slips)

    def times(self, factor: float) -> "Node":
        """The value times a number."""
        return self._with(self.value * self.value.dtype.type(factor), (self, lambda d: d * d.dtype.type(factor)))

    def turned(self) -> "Node":
        """The last two axes exchanged."""
        return self._with(_turned(self.value), (self, _turned))

    def part(self, where: Any) -> "Node":
        """Some of the entries."""

        def spread(d: Values) -> Values:
            whole = np.zeros_like(self.value)
            np.add.at(whole, where, d)
            return whole

        return self._with(self.value[where], (self, spread))

    def tanh(self) -> "Node":
        """The hyperbolic tangent."""
        out = np.tanh(self.value)
        seen = np.tanh(out) if self.slips.wrong_slope else out
        return self._with(out, (self, lambda d: d * (1 - seen**2)))

    def sigmoid(self) -> "Node":
        """The logistic function."""
        out = 1 / (1 + np.exp(-self.value))
        seen = 1 / (1 + np.exp(-out)) if self.slips.wrong_slope else out
        return self._with(out, (self, lambda d: d * seen * (1 - seen)))

    def softmax(self) -> "Node":
        """Chances along the last axis."""
        out = _chances(self.value)
        return self._with(out, (self, lambda d: out * (d - (d * out).sum(-1, keepdims=True))))

    def normalized(self) -> "Node":
        """Mean 0 and variance 1 along the first axis; with a cut, mean and variance pass for constants."""
        centred = self.value - self.value.mean(0)
        deviation = np.sqrt((centred**2).mean(0) + self.value.dtype.type(1e-5))
        out = centred / deviation

        def back(d: Values) -> Values:
            inner = d if self.slips.cut else d - d.mean(0) - out * (d * out).mean(0)
            return inner / deviation

        return self._with(out, (self, back))

    def cut(self) -> "Node":
        """The same value; with that slip, no gradient goes through it."""
        return Node(self.value, () if self.slips.cut else ((self, lambda d: d),), slips=self.slips)

    def cross_entropy(self, targets: NDArray[np.int_], over: float) -> "Node":
        """The summed cross-entropy of rows of scores, over a number."""
        out, rows = _chances(self.value), np.arange(len(targets))
        slope = out.copy()
        slope[rows, targets] -= 1
        if self.slips.wrong_loss_slope:
            slope *= out
        shares = slope / slope.dtype.type(over)
        loss = -np.log(out[rows, targets]).sum() / out.dtype.type(over)
        return self._with(np.asarray(loss), (self, lambda d: d * shares))


def gradients(loss: Node, params: dict[str, Node]) -> dict[str, Values]:
    """The gradient of a loss with respect to some parameters, by name."""
    order: list[Node] = []
    seen: set[int] = set()
    waiting = [(loss, False)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting += [(parent, False) for parent, _ in node.parents]
    slopes: dict[int, Values] = {id(loss): np.ones_like(loss.value)}
    for node in reversed(order):
        for parent, rule in node.parents:
            share = rule(slopes[id(node)]).astype(parent.value.dtype)
            adds = id(parent) in slopes and not (parent.name and parent.name == loss.slips.overwritten)
            slopes[id(parent)] = slopes[id(parent)] + share if adds else share
    return {name: slopes.get(id(node), np.zeros_like(node.value)) for name, node in params.items()}


def _chances(scores: Values) -> Values:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _turned(value: Values) -> Values:
    return np.asarray(np.swapaxes(value, -1, -2))


def _summed(d: Values, shape: tuple[int, ...]) -> Values:
    """The gradient of a value that was broadcast."""
    d = d.sum(tuple(range(d.ndim - len(shape))))
    axes = tuple(axis for axis, length in enumerate(shape) if length == 1 != d.shape[axis])
    return np.asarray(d.sum(axes, keepdims=True) if axes else d)
