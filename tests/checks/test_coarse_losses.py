"""Losses that hardly move: rounded to a quantum of which the whole tensor is worth a few, or a few thousand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard import Report, check
from gradguard.arrays.types import Float64
from gradguard.report.verdict import Verdict
from gradguard.testing import LSTM, random_batch

Shape = Callable[[Float64], tuple[Float64, Float64]]


def straight(x: Float64) -> tuple[Float64, Float64]:
    """A plane, and its slope."""
    slope = np.linspace(-1, 2, x.size)
    return slope @ x, slope


def levelling(x: Float64) -> tuple[Float64, Float64]:
    """A step as a whole: everything levels off together."""
    slope = np.linspace(-2, 1, x.size)
    inner = np.tanh(slope @ x / np.sqrt(x.size))
    return 3 * inner, 3 * slope * (1 - inner**2) / np.sqrt(x.size)


def levelling_each(x: Float64) -> tuple[Float64, Float64]:
    """Each entry levels off by itself, some of them far out already."""
    slope = np.linspace(-2, 1, x.size)
    return slope @ np.tanh(3 * x), 3 * slope / np.cosh(3 * x) ** 2


def several(x: Float64) -> tuple[Float64, Float64]:
    """Eight unreduced losses, whose sum counts."""
    mix = np.random.default_rng(x.size).standard_normal((8, x.size)) / np.sqrt(x.size)
    inner = np.tanh(mix @ x)
    return inner, mix.T @ (1 - inner**2)


def report_on(shape: Shape, size: int, base: float, quanta: float, factor: float = 1.0) -> Report:
    """A check of factor x the true gradient where the loss moves by about so many quanta of float32."""
    params = {"w": np.random.default_rng(size).standard_normal(size).astype(np.float32)}
    scale = quanta * float(np.spacing(np.float32(base)))

    def loss() -> NDArray[np.float32]:
        return np.asarray(base + scale * shape(params["w"].astype(np.float64))[0], np.float32)

    gradient = factor * scale * shape(params["w"].astype(np.float64))[1]
    return check(params, {"w": gradient.astype(np.float32)}, loss, precision="native", reduction="sum", entries=40)


shapes = st.sampled_from([straight, levelling, levelling_each, several])


@given(shape=shapes, size=st.sampled_from([3, 30]), base=st.floats(0.1, 100), magnitude=st.floats(-2, 4))
@settings(max_examples=60)
def test_a_right_gradient_of_a_coarse_loss_is_never_a_bug(
    shape: Shape, size: int, base: float, magnitude: float
) -> None:
    """Whether the loss does not move at all, by a few quanta or by thousands, and wherever it levels off."""
    report = report_on(shape, size, base, 10.0**magnitude)
    assert not report.verdict.is_bug, str(report)


@pytest.mark.parametrize("shape", [straight, levelling, levelling_each, several])
@pytest.mark.parametrize("factor", [1 / 39, 1.2, 3.0, -1.0])
def test_a_wrong_gradient_of_a_coarse_loss_is_found_where_it_can_be(shape: Shape, factor: float) -> None:
    """Ten thousand quanta are enough for a factor, though single entries may not be."""
    report = report_on(shape, 30, 1.0, 1e4, factor)
    assert report.verdict is (Verdict.sign if factor < 0 else Verdict.scale)
    assert report.tensors["w"].ratio == pytest.approx(1 / factor, rel=2e-2)


def test_a_gradient_where_the_loss_does_not_move_within_its_quantum_is_inconclusive() -> None:
    """A hundredth of a quantum is not "the loss does not depend on it"."""
    assert report_on(straight, 30, 1.0, 1e-2).verdict is Verdict.inconclusive


@pytest.mark.parametrize(("base", "scale"), [(1e3, 1e-4), (1e3, 1e-3), (1e3, 1e-2), (100, 1e-3), (1, 1e-6)])
def test_a_network_with_a_large_constant_in_its_loss_is_not_blamed(base: float, scale: float) -> None:
    """A penalty term that swallows most digits of the loss leaves too few to tell, and no bug."""
    model, batch = LSTM(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
    grads = {name: np.float32(scale) * grad for name, grad in model.loss_and_grads(batch)[1].items()}
    report = check(
        model.params, grads, lambda: np.float32(base) + np.float32(scale) * model.loss(batch), precision="native"
    )
    assert not report.verdict.is_bug, str(report)


def test_a_symmetric_kink_is_no_loss_that_does_not_move() -> None:
    """The sum of |x| at 0 has no derivative there, and every difference is 0."""
    params = {"w": np.zeros(4, np.float32)}
    report = check(params, {"w": np.ones(4, np.float32)}, lambda: np.abs(params["w"]).sum())
    assert report.verdict is Verdict.kink
