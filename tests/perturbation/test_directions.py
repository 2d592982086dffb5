import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.arrays.types import Array, Float64
from gradguard.perturbation.directions import Direction, EntryProbe, Probe, aligned, gaussian, stratified_entries
from gradguard.perturbation.spaces import PerturbedArray

SHAPES = [(), (1,), (5,), (2, 3), (2, 1, 4)]

shapes = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**32 - 1)


def probes_of(shape: tuple[int, ...], seed: int) -> list[Probe]:
    """One of each kind."""
    rng = np.random.default_rng(seed)
    last = EntryProbe(tuple(length - 1 for length in shape))
    return [last, gaussian(np.zeros(shape), rng), aligned(np.asarray(rng.standard_normal(shape)), rng)]


def drawn(shape: tuple[int, ...], seed: int, dtype: str) -> Array:
    """Parameters of very different sizes."""
    rng = np.random.default_rng(seed)
    array: Array = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3, shape)).astype(dtype)
    return array


@given(
    shape=shapes, seed=seeds, dtype=st.sampled_from(["f2", "f4", "f8", ">f4"]), amount=st.floats(-0.1, 0.1), order=seeds
)
def test_the_displacement_is_what_the_dtype_made_of_it(
    shape: tuple[int, ...], seed: int, dtype: str, amount: float, order: int
) -> None:
    """It is, bit for bit, how far the array is from its base; the two numbers are its products."""
    base = drawn(shape, seed, dtype)
    array = base.copy(order="F" if order % 2 else "C")
    gradient = np.asarray(np.random.default_rng(order).standard_normal(shape))
    place = PerturbedArray(array, base)
    for probe in probes_of(shape, order):
        along, against = probe.displace(place, amount, gradient)
        realised = array.astype(np.float64) - base.astype(np.float64)
        if isinstance(probe, EntryProbe):
            assert np.count_nonzero(realised) <= 1
            assert along == realised[probe.index]
            assert against == gradient[probe.index] * realised[probe.index]
        else:
            assert isinstance(probe, Direction)
            assert np.array_equal(array, (base.astype(np.float64) + amount * probe.vector).astype(dtype))
            assert along == pytest.approx(np.sum(probe.vector * realised), rel=1e-12, abs=1e-15)
            assert against == pytest.approx(np.sum(gradient * realised), rel=1e-9, abs=1e-12)
        probe.reset(place)
        assert array.tobytes() == base.tobytes()


@given(shape=shapes, seed=seeds)
def test_every_probe_is_a_unit_vector(shape: tuple[int, ...], seed: int) -> None:
    """In float64, where rounding is no matter, the displacement along a probe is the amount asked for."""
    base = drawn(shape, seed, "f8")
    for probe in probes_of(shape, seed):
        place = PerturbedArray(base.copy(), base)
        along, _ = probe.displace(place, 0.5, base)
        assert along == pytest.approx(0.5, rel=1e-9)
        assert math.sqrt(float(np.sum(np.square(place.array - base)))) == pytest.approx(0.5, rel=1e-9)


@given(seed=seeds, size=st.integers(1, 40), power=st.integers(-900, 900))
def test_an_aligned_probe_follows_the_gradient_at_any_scale(seed: int, size: int, power: int) -> None:
    """Each entry moves up the slope, by its gradient times a weight, and most of the slope is kept."""
    slopes = np.random.default_rng(seed).standard_normal(size)
    probe = aligned(slopes * 2.0**power, np.random.default_rng(seed))
    assert np.linalg.norm(probe.vector) == pytest.approx(1, rel=1e-12)
    assert (probe.vector / slopes > 0).all()
    assert size < 10 or np.vdot(slopes, probe.vector) > 0.5 * np.linalg.norm(slopes)


def test_aligned_probes_weigh_each_entry_anew() -> None:
    """No entry is left out for good, no two probes are alike, and together they keep 0.87 of the slope."""
    rng = np.random.default_rng(0)
    weights = np.array([aligned(np.ones(50), rng).vector for _ in range(400)]) * math.sqrt(50)
    assert weights.mean(axis=0) == pytest.approx(math.sqrt(3) / 2, abs=0.1)
    assert weights.std(axis=0) == pytest.approx(0.5, abs=0.06)
    assert np.abs(np.corrcoef(weights) - np.eye(400)).max() < 0.75


@pytest.mark.parametrize("shape", SHAPES)
def test_where_the_gradient_is_zero_an_aligned_probe_goes_anywhere(shape: tuple[int, ...]) -> None:
    """A missing gradient has no direction of its own, and must be looked for all the same."""
    probe = aligned(np.zeros(shape), np.random.default_rng(0))
    assert probe.vector.shape == shape
    assert np.all(probe.vector != 0)
    assert np.linalg.norm(probe.vector) == pytest.approx(1)


def test_gaussian_probes_have_no_preferred_direction() -> None:
    """Their second moment is the identity over the dimension."""
    rng = np.random.default_rng(0)
    vectors = np.array([gaussian(np.zeros((2, 3)), rng).vector.reshape(-1) for _ in range(3000)])
    assert np.abs(vectors.T @ vectors / 3000 - np.eye(6) / 6).max() < 0.015


def flat(probes: list[EntryProbe], gradient: Float64) -> NDArray[np.intp]:
    """The entries as places in the flat tensor; each index must exist."""
    return np.array([np.ravel_multi_index(probe.index, gradient.shape) for probe in probes], dtype=np.intp)


@given(shape=shapes, seed=seeds)
def test_a_small_tensor_is_sampled_whole(shape: tuple[int, ...], seed: int) -> None:
    """Every entry once."""
    gradient = np.asarray(np.random.default_rng(seed).standard_normal(shape))
    chosen = flat(stratified_entries(gradient, max(1, gradient.size), np.random.default_rng(seed)), gradient)
    assert chosen.tolist() == list(range(gradient.size))


@given(seed=seeds, size=st.integers(2, 400), data=st.data())
def test_a_sample_has_the_size_asked_for_and_holds_the_largest_gradients(seed: int, size: int, data: Any) -> None:
    """A fifth of the entries are those of the largest |g|, and no entry is measured twice."""
    count = data.draw(st.integers(1, size - 1))
    gradient = np.random.default_rng(seed).standard_normal((size, 1)) ** 3
    chosen = flat(stratified_entries(gradient, count, np.random.default_rng(seed)), gradient)
    assert len(set(chosen)) == len(chosen) == count
    largest = np.argsort(-np.abs(gradient).ravel())[: count // 5]
    assert set(largest) <= set(chosen)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_even_the_smallest_sample_holds_the_largest_gradient(count: int) -> None:
    """The entry that the optimizer moves most is always looked at."""
    gradient = np.random.default_rng(0).standard_normal(1000)
    samples = [flat(stratified_entries(gradient, count, np.random.default_rng(seed)), gradient) for seed in range(20)]
    assert all(int(np.abs(gradient).argmax()) in chosen for chosen in samples)


def test_a_sample_reaches_gradients_of_every_size() -> None:
    """Bugs hide in small entries: over many checks every entry has its turn."""
    gradient = np.geomspace(1, 1e-8, 200)
    seen = {
        place
        for seed in range(60)
        for place in flat(stratified_entries(gradient, 40, np.random.default_rng(seed)), gradient)
    }
    assert len(seen) > 195


def test_a_sample_repeats_with_its_seed() -> None:
    """The same seed draws the same entries, another seed others."""
    gradient = np.random.default_rng(0).standard_normal((30, 30))
    first, again, other = (stratified_entries(gradient, 50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
