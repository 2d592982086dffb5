"""What is handed over is read as it is, or refused by name with what was expected."""

import array
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard.arrays.validation import read_gradients, read_parameters, require_movable

AnyArray = NDArray[Any]


def test_parameters_are_the_live_arrays_themselves() -> None:
    """No copies are read: what the optimizer writes is what is checked, through the buffer protocol too."""
    weights, buffer = np.ones((2, 3), np.float32), array.array("f", [1, 2, 3])
    read = read_parameters(MappingProxyType({"w": weights, "c": buffer}))
    assert read["w"] is weights
    buffer[1] = 7
    assert read["c"][1] == 7
    read["c"][0] = 5
    assert buffer[0] == 5


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([np.ones(3)], TypeError, ["params", "list", "mapping"]),
        (None, TypeError, ["params", "NoneType", "mapping"]),
        ({}, ValueError, ["params", "empty"]),
        ({"w": [1.0, 2.0]}, TypeError, ["parameter 'w'", "list", "NumPy array"]),
        ({"w": None}, TypeError, ["parameter 'w'", "NoneType"]),
        ({"w": np.arange(3)}, TypeError, ["parameter 'w'", "int64", "float32"]),
        ({"w": np.ones(3, complex)}, TypeError, ["parameter 'w'", "complex128", "float32"]),
        ({"w": np.ones(3, object)}, TypeError, ["parameter 'w'", "object", "float32"]),
        ({"w": np.ones(3, bool)}, TypeError, ["parameter 'w'", "bool", "float32"]),
    ],
)
def test_parameters_that_are_no_arrays_are_named(params: Any, error: type[Exception], words: list[str]) -> None:
    """The message says which entry, what it is, and what was expected."""
    with pytest.raises(error) as raised:
        read_parameters(params)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("grads", "error", "words"),
    [
        ([np.ones(3)], TypeError, ["grads", "list", "mapping"]),
        ({"w": np.ones(3)}, ValueError, ["'v'", "given: w", "expected: w, v"]),
        ({}, ValueError, ["'w'", "given: none", "expected: w, v"]),
        ({"w": np.ones(3), "v": np.ones(2), "u": np.ones(2)}, ValueError, ["'u'", "expected: w, v"]),
        ({"w": np.ones(3), "v": np.ones((2, 1))}, ValueError, ["'v'", "(2, 1)", "(2,)"]),
        ({"w": np.ones(3), "v": np.float64(1)}, ValueError, ["'v'", "()", "(2,)"]),
        ({"w": np.ones(3), "v": np.ones(2, int)}, TypeError, ["gradient 'v'", "int64", "float32"]),
        ({"w": np.ones(3), "v": None}, TypeError, ["gradient 'v'", "NoneType", "NumPy array"]),
    ],
)
def test_gradients_that_do_not_fit_the_parameters_are_named(
    grads: Any, error: type[Exception], words: list[str]
) -> None:
    """A gradient that is missing, unknown, misshapen or no float array is told with what was given and expected."""
    with pytest.raises(error) as raised:
        read_gradients(grads, {"w": np.ones(3), "v": np.ones(2)})
    assert all(word in str(raised.value) for word in words)


def test_gradients_are_read_in_the_order_of_the_parameters() -> None:
    """The order in which a backward pass fills its dict does not matter."""
    grads = {"v": np.ones(2), "w": np.zeros(3)}
    assert list(read_gradients(grads, {"w": np.ones(3), "v": np.ones(2)})) == ["w", "v"]


def read_only() -> dict[str, AnyArray]:
    """An array that must not be written."""
    weights = np.ones(3)
    weights.flags.writeable = False
    return {"w": weights}


def tied(second: slice) -> dict[str, AnyArray]:
    """Two names for parts of one array."""
    both = np.ones(6)
    return {"encoder": both[:4], "decoder": both[second]}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (read_only(), ["'w'", "read-only", "loss(params)"]),
        ({"w": np.lib.stride_tricks.as_strided(np.ones(3), (3, 3), (0, 8))}, ["'w'", "(3, 3)", "(0, 8)"]),
        (tied(slice(3, 6)), ["'encoder'", "'decoder'", "share memory"]),
        (tied(slice(None, None, 2)), ["'encoder'", "'decoder'", "share memory"]),
        ({"w": np.lib.stride_tricks.sliding_window_view(np.ones(5), 3, writeable=True)}, ["'w'", "(3, 3)"]),
    ],
    ids=["read-only", "broadcast", "shared", "shared, interleaved", "windows"],
)
def test_arrays_that_cannot_be_moved_one_by_one_are_refused(arrays: dict[str, AnyArray], words: list[str]) -> None:
    """Moving one entry must move that entry and nothing else; the message names the tensors that break this."""
    with pytest.raises(ValueError, match="parameter") as raised:
        require_movable(arrays)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    "arrays",
    [
        {"even": slice(0, None, 2), "odd": slice(1, None, 2)},
        {"left": (slice(None), slice(0, 3)), "right": (slice(None), slice(3, 6))},
        {"row": (0,), "corner": (1, 0, ...), "rest": (slice(2, None),)},
        {"none": slice(0, 0), "all": slice(None)},
    ],
    ids=str,
)
def test_parts_of_one_buffer_that_do_not_overlap_are_fine(arrays: dict[str, Any]) -> None:
    """Views of one flat buffer of parameters are common; only shared entries are refused."""
    buffer = np.zeros((4, 6))
    require_movable({name: buffer[index] for name, index in arrays.items()})


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_an_array_without_entries_is_fine(shape: tuple[int, ...]) -> None:
    """There is nothing in it that could overlap."""
    require_movable({"none": np.empty(shape), "w": np.ones(3)})
