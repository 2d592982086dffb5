import array
import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradguard.containers import read_parameters
from gradguard.perturbation.protocols import PerturbedTensor, Space
from gradguard.perturbation.spaces import Float64Copies, InPlace, NativeCopies

AnyArray = NDArray[Any]

LAYOUTS = {
    "C order": lambda block: block,
    "Fortran order": lambda block: block.T,
    "every other column": lambda block: block[:, ::2],
    "backwards": lambda block: block[::-1, ::-1],
    "one entry": lambda block: block[1, 2, ...],
    "one column": lambda block: block[:, 1],
    "nothing": lambda block: block[:0],
}


def from_bits(seed: int, dtype: str) -> AnyArray:
    """A block of the dtype filled with random bits: negative zeros, denormals, infinities and NaNs with payloads."""
    size = np.dtype(dtype).itemsize
    block = np.random.default_rng(seed).integers(0, 256, (4, 6 * size), dtype=np.uint8).view(dtype)
    block[0, :3] = [np.nan, -np.inf, -0.0]
    if size == 4:
        block.view(np.uint32)[1] = 0x7F800001  # a signalling NaN with a payload
    return block


def spaces(live: Mapping[str, AnyArray]) -> list[Space]:
    """Every way to move the arrays."""
    return [InPlace(live), NativeCopies(live), Float64Copies(live), Float64Copies(live, dict(live))]


@given(
    seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(["f2", "f4", "f8", ">f4"]), name=st.sampled_from([*LAYOUTS])
)
def test_a_moved_array_is_put_back_bit_for_bit(seed: int, dtype: str, name: str) -> None:
    """Whatever is written to it, and wherever it lies in memory, the array and its neighbours have their bytes back."""
    block = from_bits(seed, dtype)
    before, live = block.tobytes(), LAYOUTS[name](block)
    with np.errstate(all="ignore"):
        for space in spaces({"w": live}):
            with space.moving("w") as place:
                assert np.array_equal(place.base, space.arrays["w"], equal_nan=True)
                place.write(np.full(live.shape, 3.0))
                assert (space.arrays["w"] == 3).all()
            assert block.tobytes() == before


def interrupt_after(place: PerturbedTensor) -> None:
    """Somebody presses Ctrl-C while an array is moved."""
    place.write(np.full(place.base.shape, 3.0))
    raise KeyboardInterrupt


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from([*LAYOUTS]))
def test_an_exception_in_the_middle_puts_the_array_back(seed: int, name: str) -> None:
    """An interrupt while the array is moved leaves it, and the object the space hands out, as they were."""
    block = from_bits(seed, "f4")
    before = block.tobytes()
    with np.errstate(all="ignore"):
        for space in spaces({"w": LAYOUTS[name](block)}):
            handed_out = space.arrays["w"]
            with pytest.raises(KeyboardInterrupt), space.moving("w") as place:
                interrupt_after(place)
            assert block.tobytes() == before
            assert space.arrays["w"] is handed_out


def test_a_copy_leaves_the_live_array_alone_while_it_is_moved() -> None:
    """With loss(params) the live array never changes, and only the tensor under test is copied."""
    live = {"w": np.ones(3, np.float32), "v": np.ones(2, np.float32)}
    space = NativeCopies(live)
    with space.moving("w") as place:
        place.write(np.full(3, 7.0))
        assert (space.arrays["w"] == 7).all()
        assert (live["w"] == 1).all()
        assert space.arrays["v"] is live["v"]
        assert space.arrays["w"].dtype == np.float32
    assert space.arrays["w"] is live["w"]


def test_float64_copies_hold_the_values_exactly() -> None:
    """Every float32 is a float64, so the copies are equal to the live arrays and share no memory with them."""
    live: dict[str, AnyArray] = {"w": np.array([0.1, -0.0, 1e-40], np.float32), "v": np.array([[0.1]], np.float16)}
    shadow = Float64Copies(live).arrays
    for name, copy in shadow.items():
        assert copy.dtype == np.float64
        assert np.array_equal(copy, live[name])
        assert not np.shares_memory(copy, live[name])


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_swap_puts_the_very_same_objects_back_in_their_order(interrupted: bool) -> None:
    """While the loss runs the mapping holds the copies; afterwards its own objects, in the same order."""
    mapping: dict[str, Any] = {"w": np.ones(3, np.float32), "v": array.array("f", [1, 2]), "step": 5}
    objects = list(mapping.items())
    shadow = Float64Copies(read_parameters({"w": mapping["w"], "v": mapping["v"]}).arrays, mapping)
    with contextlib.suppress(KeyboardInterrupt), shadow.installed():
        assert mapping["w"] is shadow.arrays["w"]
        assert mapping["v"] is shadow.arrays["v"]
        assert mapping["step"] == 5
        if interrupted:
            raise KeyboardInterrupt
    assert all(mapping[name] is value for name, value in objects)
    assert list(mapping) == [name for name, _ in objects]
