"""Derivatives of which everything cancels, as of a bias before a normalisation: g is what rounding leaves of them."""

import re
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import TensorReport, Verdict, check

RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 6)).astype(np.float32)
TARGETS = RNG.standard_normal((32, 4)).astype(np.float32)
Array = NDArray[np.floating]


class Normalised:
    """A layer whose outputs are normalised over the batch, which takes its bias away again."""

    def __init__(self) -> None:
        self.params = {
            "w": RNG.standard_normal((6, 4)).astype(np.float32),
            "b": RNG.standard_normal(4).astype(np.float32),
        }

    def loss(self) -> np.floating:
        """The mean square of what is off."""
        normal, _ = self._forward()
        return np.square(normal - TARGETS).mean()

    def gradients(self, noise: Callable[[int], Array]) -> dict[str, Array]:
        """By hand, with something added to that of the bias."""
        normal, scale = self._forward()
        up = 2 * (normal - TARGETS) / normal.size
        down = (up - up.mean(0) - normal * (up * normal).mean(0)) / scale
        return {"w": X.T @ down, "b": down.sum(0) + noise(4).astype(np.float32)}

    def _forward(self) -> tuple[Array, Array]:
        z = X @ self.params["w"] + self.params["b"]
        centred = z - z.mean(0)
        scale = np.sqrt(np.square(centred).mean(0))
        return centred / scale, scale


def report_of(precision: str, noise: Callable[[int], Array]) -> TensorReport:
    """What is said of the bias."""
    model = Normalised()
    return check(model.params, model.gradients(noise), model.loss, precision=precision).tensors["b"]


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_derivative_of_zero_is_told_from_what_rounding_leaves(precision: str) -> None:
    """It is no bug, and no reason to say that nothing can be told."""
    report = report_of(precision, lambda size: 1e-9 * RNG.standard_normal(size))
    assert report.verdict is Verdict.float_precision
    assert re.fullmatch(
        r"numerical is zero within \de-\d+, and backprop \(up to \de-\d+\) is rounding error", report.explanation
    )


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_gradient_of_more_than_rounding_is_spurious(precision: str) -> None:
    """As that of a backward pass that forgets the mean."""
    report = report_of(precision, lambda size: 1e-3 * RNG.standard_normal(size))
    assert report.verdict is Verdict.spurious


def test_where_rounding_is_no_little_thing_nothing_is_said() -> None:
    """Of gradients in float16, it may hide a derivative that matters."""
    model = Normalised()
    exact = model.gradients(lambda size: 1e-5 * RNG.standard_normal(size))
    grads = {name: grad.astype(np.float16) for name, grad in exact.items()}
    report = check(model.params, grads, model.loss, precision="float64").tensors["b"]
    assert report.verdict is Verdict.inconclusive
