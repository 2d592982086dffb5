import math

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import Verdict, diagnose

RNG = np.random.default_rng(0)
G = RNG.standard_normal(40)
SCATTER = RNG.standard_normal(40)


def verdict_of(n: NDArray[np.float64], error: NDArray[np.float64]) -> Verdict:
    """What is said of the numerical derivatives beside G, with their error bars."""
    return diagnose({"W": (G, n)}, error={"W": error}).tensors["W"].verdict


def test_a_factor_is_one_though_the_noise_is_more_than_was_heard() -> None:
    """What it leaves is twice what the bars allow, and nothing beside what it explains."""
    n = 4.57 * G * (1 + 1e-4 * SCATTER)
    assert verdict_of(n, 5e-5 * np.abs(n)) is Verdict.scale


def test_a_factor_near_1_must_fit_the_noise() -> None:
    """The same scatter is much of what a factor of 1.002 explains."""
    n = 1.002 * G * (1 + 1e-4 * SCATTER)
    assert verdict_of(n, 3e-5 * np.abs(n)) is Verdict.structure


@pytest.mark.parametrize("factors", [(2.0, 2.1), (4.0, 4.4)])
def test_two_factors_are_none(factors: tuple[float, float]) -> None:
    """No entry stands out, and what the one in the middle leaves is more than noise and more than next to nothing."""
    n = G * np.where(np.arange(G.size) % 2, *factors)
    assert verdict_of(n, 0.01 * np.abs(n)) is Verdict.structure


def test_an_entry_that_stands_out_is_no_part_of_a_factor() -> None:
    """However small it is beside the others."""
    n = 4.57 * G
    smallest = np.argmin(np.abs(G))
    n[smallest] *= 1.5
    assert verdict_of(n, 1e-3 * np.abs(n)) is Verdict.structure


@pytest.mark.parametrize("shape", [(), (40,), (8, 5), (2, 4, 5)], ids=str)
@pytest.mark.parametrize("error", [None, 1e-6])
def test_arrays_of_any_shape_are_diagnosed(shape: tuple[int, ...], error: float | None) -> None:
    """With error bars and without; entries are told by their place in the array."""
    g = G[: math.prod(shape)].reshape(shape)
    tensor = diagnose({"W": (g, 39 * g)}, error=error, constants={"timesteps": 39}).tensors["W"]
    assert (tensor.verdict, tensor.shape) == (Verdict.scale, shape)
    assert "39 is `timesteps`" in tensor.explanation
    assert all(g[entry.index] == entry.analytic for entry in tensor.entries)
