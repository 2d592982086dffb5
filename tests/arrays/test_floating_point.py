"""How fine numbers are: the unit roundoff of a dtype, and the lattice that losses lie on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.arrays import floating_point


@pytest.mark.parametrize(("dtype", "expected"), [("f2", 2.0**-11), ("f4", 2.0**-24), ("f8", 2.0**-53)])
def test_the_unit_roundoff_is_half_a_digit(dtype: str, expected: float) -> None:
    """1 + u rounds to 1 and 1 + 2u does not."""
    kind = np.dtype(dtype).type
    assert floating_point.unit_roundoff(np.dtype(dtype)) == expected
    assert kind(1 + expected) == 1 < kind(1 + 2 * expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("given", [np.float64, np.float32])
def test_the_resolution_of_losses_shows_in_their_values(dtype: type, given: type) -> None:
    """A float32 loss handed over as a Python float is seen to be one; no dtype is claimed finer than the one given."""
    values = np.random.default_rng(0).uniform(1, 2, 9).astype(dtype).astype(given).astype(np.float64)
    expected = min(np.dtype(dtype), np.dtype(given), key=lambda kind: kind.itemsize)
    assert floating_point.coarsest_dtype(values, np.dtype(given)) == expected


def test_whole_numbers_resolve_to_a_float_too() -> None:
    """A loss that returns an int has a resolution, and one beyond the range of a dtype does not fit it."""
    assert floating_point.coarsest_dtype(np.array([1.0 + 2.0**-40]), np.dtype(int)) == np.float64
    assert floating_point.coarsest_dtype(np.array([1e30]), np.dtype(np.float64)) == np.float64
    assert floating_point.coarsest_dtype(np.array([2.0**40]), np.dtype(np.float64)) == np.float32


@given(
    steps=st.lists(st.integers(-1000, 1000).filter(bool), min_size=1, max_size=12),
    power=st.integers(-40, -2),
    start=st.integers(-3, 3),
)
def test_the_lattice_that_losses_lie_on_is_found(steps: list[int], power: int, start: int) -> None:
    """A loss that is the small difference of large numbers changes by whole numbers of a quantum far above its ulp."""
    quantum = 2.0**power
    common = min(step & -step for step in steps)  # the quantum of what was seen may be a multiple of the true one
    losses = np.array([[start * quantum], *([start * quantum + step * quantum] for step in steps)])
    (found,) = floating_point.quanta_of_losses(losses, np.dtype(np.float64)) / quantum
    assert found >= common
    assert not np.any(np.array(steps) % found)


@given(
    steps=st.lists(st.integers(-50, 50).filter(bool), min_size=16, max_size=32),
    factor=st.floats(1e-6, 1e6),
    quantum=st.floats(1e-3, 1e-2),
)
def test_the_lattice_of_a_loss_that_was_scaled_is_found(steps: list[int], factor: float, quantum: float) -> None:
    """A loss scale that is no power of two hides the quantum in the last digits, and does not make the loss finer."""
    losses = np.float32(factor) * (np.float32(1.0) + np.float32(quantum) * np.array([0, *steps], np.float32))
    distances = np.diff(np.unique([0, *steps]))
    (found,) = floating_point.quanta_of_losses(losses.astype(np.float64)[:, None], np.dtype(np.float32))
    if not (np.array(steps) % distances.min()).any():
        assert found == pytest.approx(distances.min() * quantum * factor, rel=0.05)


def test_losses_on_no_lattice_are_not_said_to_lie_on_one() -> None:
    """What changes smoothly is as fine as its dtype, up to what chance divides its changes by."""
    for size in (8, 32):
        losses = np.random.default_rng(size).uniform(1, 2, (size + 1, 1000)).astype(np.float32).astype(np.float64)
        assert floating_point.quanta_of_losses(losses, np.dtype(np.float32)).max() <= 2.0**-23 * 2 ** (16 / size * 2)


def test_the_lattice_is_no_finer_than_the_dtype() -> None:
    """Ordinary losses lie on the floats themselves, and a loss that does not change is as coarse as the others."""
    for kind in (np.float32, np.float64):
        losses = np.random.default_rng(0).uniform(1, 2, (40, 3)).astype(kind).astype(np.float64)
        losses[:, 2] = losses[0, 2]
        assert floating_point.quanta_of_losses(losses, np.dtype(kind)).tolist() == [float(np.finfo(kind).eps)] * 3
    still = np.full((5, 1), 1.5)
    assert floating_point.quanta_of_losses(still, np.dtype(np.float32)).tolist() == [2.0**-23]
    broken = np.array([[1.5], [np.nan], [np.inf], [1.75]])
    assert floating_point.quanta_of_losses(broken, np.dtype(np.float32)).tolist() == [0.25]
