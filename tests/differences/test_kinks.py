"""Losses with corners close by, or at the very point: a right gradient is not blamed for them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard import check
from gradguard.differences.four_point import FourPoint
from gradguard.differences.kinks import jumps
from gradguard.differences.step_size import dithered

Float32 = NDArray[np.float32]
Losses = Callable[[], Float32]


def around(loss: Callable[[float], float], step: float) -> FourPoint:
    """One difference of a function about 0."""
    along = np.array([loss(c * step) for c in (-2, -1, 0, 1, 2)])
    odd1, odd2 = along[3] - along[1], along[4] - along[0]
    even1, even2 = along[3] - 2 * along[2] + along[1], along[4] - 2 * along[2] + along[0]
    columns = (step, odd1, odd2, even1, even2, 0.0, 0.0, 2 * step, 4 * step, 0.0)
    return FourPoint(*(np.array([float(value)]) for value in columns))


@given(jump=st.floats(-2, 2), curvature=st.floats(-2, 2), shared=st.floats(-1e-3, 1e-3), seed=st.integers(0, 999))
@settings(max_examples=60)
def test_the_jump_in_slope_is_measured_within_its_error(
    jump: float, curvature: float, shared: float, seed: int
) -> None:
    """Whatever the curvature, and the error of the loss at x, which all differences share."""
    rng, sigma = np.random.default_rng(seed), 1e-4

    def loss(t: float) -> float:
        noise = shared if t == 0 else sigma * float(rng.standard_normal())
        return jump * max(t, 0.0) + 0.7 * t + curvature * t**2 + noise

    found, spread = jumps([around(loss, step) for step in dithered(0.01, 32)], sigma)
    assert abs(found[0] - jump) < 5 * spread[0] < 0.2


def rectified(seed: int, base: float, factor: float) -> tuple[Mapping[str, Float32], Mapping[str, Float32], Losses]:
    """A network of 16 ReLUs, its gradients with that of the bias times a factor, and its unreduced losses."""
    rng = np.random.default_rng(seed)
    shapes = {"U": (6, 16), "b": (16,), "V": (16, 4)}
    p = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    p["b"] *= np.float32(0.3)
    x, y = rng.standard_normal((32, 6)).astype(np.float32), rng.standard_normal((32, 4)).astype(np.float32)

    def hidden() -> Float32:
        return np.asarray(np.maximum(x @ p["U"] + p["b"], 0))

    def losses() -> Float32:
        return np.asarray(np.float32(base) + ((hidden() @ p["V"] - y) ** 2).mean(axis=1) / np.float32(8))

    error = 2 * (hidden() @ p["V"] - y) / np.float32(4 * 8 * 32)
    back = (error @ p["V"].T) * (hidden() > 0)
    return p, {"U": x.T @ back, "b": np.float32(factor) * back.sum(axis=0), "V": hidden().T @ error}, losses


@pytest.mark.parametrize("base", [0.0, 100.0])
def test_a_corner_hidden_in_the_noise_is_no_bug(base: float) -> None:
    """Of a ReLU that is off by less than a tenth of the step: the differences disagree at any step that shows it."""
    for seed in range(8):
        params, grads, losses = rectified(seed, base, 1.0)
        report = check(params, grads, losses, reduction="mean", precision="native", entries=60)
        assert not report.verdict.is_bug, str(report)


@pytest.mark.parametrize("base", [0.0, 100.0])
def test_a_wrong_factor_is_told_among_corners(base: float) -> None:
    """Ten per cent too much, of the bias alone."""
    for seed in range(6):
        params, grads, losses = rectified(seed, base, 1.1)
        report = check(params, grads, losses, reduction="mean", precision="native", entries=24)
        assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {"b"}, str(report)


def standing_on_corners(seed: int, quanta: float) -> tuple[Mapping[str, Float32], Mapping[str, Float32], Losses]:
    """Units whose input is exactly 0, each along several parameters, and of either sign in the loss."""
    rng = np.random.default_rng(seed)
    params = {"w": np.where(rng.random(12) < 0.5, 0.0, rng.standard_normal(12)).astype(np.float32)}
    mix, out = np.abs(rng.standard_normal((24, 12))) * (rng.random((24, 12)) < 0.3), rng.standard_normal(24)
    size = quanta * float(np.spacing(np.float32(3)))

    def loss() -> np.float32:
        return np.float32(3 + size * (out @ np.maximum(mix @ params["w"].astype(np.float64), 0)))

    gradient = size * mix.T @ (out * (mix @ params["w"].astype(np.float64) > 0))
    return params, {"w": gradient.astype(np.float32)}, loss  # type: ignore[return-value]  # a scalar


def test_a_gradient_at_a_corner_is_no_bug() -> None:
    """It is that of one side, and the differences are of both; however much of it the noise leaves to be seen."""
    for seed in range(60):
        magnitude = float(np.random.default_rng(seed).uniform(1, 5))
        params, grads, loss = standing_on_corners(seed, 10.0**magnitude)
        report = check(params, grads, loss, precision="native", seed=seed)
        assert not report.verdict.is_bug, f"{seed}: {report}"


@pytest.mark.parametrize("distance", [1e-9, 1e-8])
def test_a_corner_closer_than_float32_can_tell_is_nobodys_fault(distance: float) -> None:
    """A backward pass in float32 may be on the other side of it than the loss is in float64."""
    rng = np.random.default_rng(0)
    w, a = rng.standard_normal(20).astype(np.float32), rng.standard_normal((20, 30))
    corners = w[:, None] + np.where(rng.random((20, 30)) < 0.1, distance, 1.0)

    def loss(params: Mapping[str, NDArray[Any]]) -> object:
        return np.sum(a * np.maximum(params["w"][:, None] - corners, 0)) + np.sum(params["w"] ** 2)

    seen = (a * (w[:, None] >= corners.astype(np.float32))).sum(axis=1) + 2 * w
    assert not check({"w": w}, {"w": seen.astype(np.float32)}, loss).verdict.is_bug
