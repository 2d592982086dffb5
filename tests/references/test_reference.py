"""Exact derivatives along probes of one tensor, and along directions through several."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.loss.objective import Objective
from gradguard.measurement.context import Derivative
from gradguard.measurement.precision import CheckTarget
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation.directions import EntryProbe, aligned, gaussian
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot
from gradguard.perturbation.spaces import ComplexCopies
from gradguard.references.reference import DerivativeReference, GradientReference

Array = NDArray[Any]
Loss = Callable[[Mapping[str, Array]], Any]


def reference_of(loss: Loss, arrays: Mapping[str, Array]) -> DerivativeReference:
    """The complex step of a loss."""
    objective = Objective(lambda p: np.imag(loss(p)), ComplexCopies(arrays), None, lambda: None)
    return DerivativeReference(Derivative(objective, 1e-20, "complex step"))


def under_test(arrays: Mapping[str, Array], grads: Mapping[str, Array], name: str) -> TensorUnderTest:
    """A tensor as a check sees it."""
    state = Rollback(grads, combined_snapshot(None))
    target = CheckTarget(arrays, arrays, lambda _: 1.0, None, state)
    return TensorUnderTest(target.context("native"), name)


def slope(loss: Callable[[Array], Any], at: float) -> float:
    """The derivative of a function of one number."""
    arrays = {"w": np.array([at])}
    reference = reference_of(lambda p: loss(p["w"][0]), arrays)
    return float(reference.along(under_test(arrays, {"w": np.zeros(1)}, "w"), [EntryProbe((0,))]).n[0])


@given(at=st.floats(0.1, 3), power=st.integers(1, 6))
def test_the_slope_is_exact(at: float, power: int) -> None:
    """To the last digits, where a difference has half of them."""
    assert slope(lambda w: w**power, at) == pytest.approx(power * at ** (power - 1), rel=1e-14)
    assert slope(lambda w: np.exp(np.sin(w)), at) == pytest.approx(
        np.cos(at) * np.exp(np.sin(at)), rel=1e-14, abs=1e-15
    )
    assert slope(lambda w: 1 / np.tanh(w), at) == pytest.approx(-1 / np.sinh(at) ** 2, rel=1e-13)


def test_there_is_no_slope_at_a_corner() -> None:
    """A ReLU has two of them at 0, and one next to it, however near."""
    assert np.isnan(slope(lambda w: np.maximum(w, 0), 0.0))
    assert slope(lambda w: np.maximum(w, 0), 1e-12) == 1
    assert slope(lambda w: np.maximum(w, 0), -1e-12) == 0


def model() -> tuple[dict[str, Array], Loss, dict[str, Array]]:
    """Two tensors, a loss of both, and its gradient by hand."""
    rng = np.random.default_rng(0)
    arrays = {"W": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}

    def loss(params: Mapping[str, Array]) -> Any:
        return np.tanh(params["W"] * params["b"]).sum()

    slopes = 1 - np.tanh(arrays["W"] * arrays["b"]) ** 2
    return arrays, loss, {"W": slopes * arrays["b"], "b": (slopes * arrays["W"]).sum(axis=0)}


@pytest.mark.parametrize("name", ["W", "b"])
def test_both_kinds_of_reference_give_the_same_slopes(name: str) -> None:
    """Along entries and directions; what the user's gradient predicts is that gradient, and not the exact one."""
    arrays, loss, exact = model()
    given_gradient = {name: 3 * gradient for name, gradient in exact.items()}
    tensor, rng = under_test(arrays, given_gradient, name), np.random.default_rng(1)
    probes = [EntryProbe((0,) * arrays[name].ndim), aligned(exact[name], rng), gaussian(exact[name], rng)]
    found = [reference.along(tensor, probes) for reference in (reference_of(loss, arrays), GradientReference(exact))]
    for slopes in found:
        assert slopes.n == pytest.approx(found[0].n, rel=1e-13)
        assert slopes.g == pytest.approx(3 * found[0].n, rel=1e-12)
        assert (slopes.error < 1e-12).all()
