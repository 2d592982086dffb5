"""The table of the README that says how models of each kind are attached."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard, Report, attributes, check, sweep

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TABLE = README[README.index("| the arrays are | `params`") :].partition("\n\n")[0]
CELLS = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in TABLE.splitlines()[2:]]
ROWS = {kind: code for kind, *code in CELLS}


class Layer:
    """tanh(x W + b), with the arrays in attributes and in a dict."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.params = {"W": rng.normal(size=(3, 3)), "b": rng.normal(size=3)}
        self.W, self.b = self.params["W"], self.params["b"]

    def forward(self, x: Any, parts: Any = None) -> Any:
        """Its output, kept for the backward pass."""
        w, b = parts or (self.W, self.b)
        self.x, self.y = x, np.tanh(x @ w + b)
        return self.y

    def backward(self, slope: Any) -> Any:
        """The slope below it; fills the gradients."""
        inner = slope * (1 - self.y**2)
        self.dW, self.db = self.x.T @ inner, inner.sum(0)
        self.grads = {"W": self.dW, "b": self.db}
        return inner @ self.W.T


def loss_of(output: Any) -> Any:
    """Half the sum of squares, of which the output itself is the slope."""
    return (output**2).sum() / 2


def namespace(row: str) -> dict[str, Any]:
    """What the cells of the table name: one layer, two layers, and the functions of a program without classes."""
    x = np.random.default_rng(0).normal(size=(4, 3))
    model, net = Layer(1), SimpleNamespace(layers=[Layer(2), Layer(3)])
    model.backward(model.forward(x))
    in_dict = row == "in a dict"
    model.loss = lambda x: loss_of(model.forward(x, tuple(model.params.values()) if in_dict else None))

    def forward(layers: Any, x: Any) -> Any:
        for layer, (w, b) in zip(net.layers, layers, strict=True):
            x = layer.forward(x, (w, b))
        return loss_of(x)

    def gradients(layers: Any, x: Any) -> Any:
        forward(layers, x)
        net.layers[0].backward(net.layers[1].backward(net.layers[1].y))
        return [(layer.dW, layer.db) for layer in net.layers]

    layers = [(layer.W, layer.b) for layer in net.layers]
    net.loss = lambda x: loss_of(net.layers[1].forward(net.layers[0].forward(x)))
    (d_enc, d_dec) = ({"W": w, "b": b} for w, b in gradients(layers, x))
    enc, dec = (layer.params for layer in net.layers)

    def parts(theta: Any) -> Any:
        return theta[:9].reshape(3, 3), theta[9:]

    of_lists = {"layers": layers, "forward": forward, "gradients": gradients}
    of_mappings = {"enc": enc, "dec": dec, "d_enc": d_enc, "d_dec": d_dec}
    return (
        {"attributes": attributes, "x": x, "model": model, "net": net}
        | of_lists
        | of_mappings
        | {
            "encode": lambda enc, x: net.layers[0].forward(x, (enc["W"], enc["b"])),
            "decode": lambda dec, h: loss_of(net.layers[1].forward(h, (dec["W"], dec["b"]))),
            "theta": np.concatenate([model.W.ravel(), model.b]),
            "objective": lambda theta: loss_of(model.forward(x, parts(theta))),
            "slope": lambda _: np.concatenate([model.dW.ravel(), model.db]),
        }
    )


@pytest.mark.parametrize("row", ROWS)
def test_each_row_of_the_table_attaches_a_model(row: str) -> None:
    """`check`, `sweep` and a guard take what the cells say, and find the gradient right."""
    names = namespace(row)
    params, grads, loss = (eval(cell, names) for cell in ROWS[row])  # noqa: S307 - they are ours
    reports: list[Report | None] = [check(params, grads, loss)]
    with GradGuard(params, every_n_steps=1) as guard:
        reports.append(guard.after_backward(0, grads, loss=loss))
    for report in reports:
        assert report is not None
        assert {str(tensor.verdict) for tensor in report.tensors.values()} == {"ok"}
    assert sweep(params, grads, loss, steps=[1e-5, 1e-4, 1e-3], precision="auto").explained is True
