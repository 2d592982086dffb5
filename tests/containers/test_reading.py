"""What is handed over is read as it is, or refused by name with what was expected and what to write."""

import array
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from gradguard.containers import read_gradients, read_parameters

FITTING = {"w": np.ones(3), "v": np.ones(2)}


class Model:
    """A model that keeps its arrays in attributes, beside a whole number."""

    def __init__(self) -> None:
        self.W, self.b, self.hidden = np.ones((2, 2)), np.ones(2), 5
        self.dW, self.b_grad = np.ones((2, 2)), np.ones(2)


def circular() -> list[Any]:
    """A list that holds itself."""
    params: list[Any] = [np.ones(2)]
    params.append(params)
    return params


def test_parameters_are_the_live_arrays_themselves() -> None:
    """No copies are read: what the optimizer writes is what is checked, through the buffer protocol too."""
    weights, buffer = np.ones((2, 3), np.float32), array.array("f", [1, 2, 3])
    read = read_parameters(MappingProxyType({"w": weights, "c": buffer})).arrays
    assert read["w"] is weights
    buffer[1] = 7
    assert read["c"][1] == 7
    read["c"][0] = 5
    assert buffer[0] == 5


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (None, TypeError, ["params is a NoneType", "a mapping, list or tuple of arrays, or one array"]),
        (0.5, TypeError, ["params is a float", "one array"]),
        (np.float32(0.5), TypeError, ["params is a float32", "one array"]),
        ("W", TypeError, ["params is a str", "a mapping"]),
        ((array for array in [np.ones(3)]), TypeError, ["params is a generator", "list(...)"]),
        ({"w": np.ones(3)}.values(), TypeError, ["params is a dict_values", "list(...)"]),
        (zip("w", [np.ones(3)], strict=True), TypeError, ["params is a zip", "dict(...)"]),
        (lambda: {"w": np.ones(3)}, TypeError, ["params is a function: pass what it returns"]),
        (Model(), TypeError, ["params is a Model", 'gradguard.attributes(..., "W", "b")']),
        ({}, ValueError, ["params", "empty"]),
        ([], ValueError, ["params", "empty"]),
        ({"enc": {}}, ValueError, ["params", "empty"]),
        (vars(Model()), TypeError, ["parameter 'hidden' is an int", 'attributes(model, "W", "b")']),
        ([np.ones(3), None], TypeError, ["parameter '1'", "NoneType"]),
        ({"w": [np.ones(3), [1.0, 2.0]]}, TypeError, ["parameter 'w.1' is a list of numbers", "NumPy array"]),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, ValueError, ["params holds two arrays of the name 'a.b'"]),
        ({0: np.ones(1), "0": np.ones(1)}, ValueError, ["two arrays of the name '0'"]),
        (circular(), ValueError, ["params holds itself, at '1'"]),
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


def test_what_belongs_to_pytorch_is_named() -> None:
    """The message says what to pass in its place."""
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(2, 2)
    for params, words in (
        (linear, ["params is a Linear", "TorchGuard(module, optimizer)"]),
        (torch.zeros(2), ["params is a Tensor", "tensor.detach().numpy()"]),
        (linear.parameters(), ["params is a generator", "list(...)"]),
        ({"w": torch.zeros(2)}, ["parameter 'w' is a PyTorch Tensor", "tensor.detach().numpy()"]),
    ):
        with pytest.raises(TypeError) as raised:
            read_parameters(params)
        assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("grads", "error", "words"),
    [
        ([np.ones(3)], ValueError, ["'w'", "given: 0", "expected: w, v"]),
        ([np.ones(3), np.ones(2)], ValueError, ["given: 0, 1", "dict(zip(params, grads))"]),
        (None, TypeError, ["grads is a NoneType", "a mapping"]),
        (np.ones(3), TypeError, ["grads is one array", "params holds w, v", '{"w": ..., "v": ...}']),
        (lambda: None, TypeError, ["grads is a function: pass what it returns"]),
        (Model(), TypeError, ["grads is a Model", 'gradguard.attributes(..., w="dw", v="dv")']),
        (iter([np.ones(3), np.ones(2)]), TypeError, ["grads is a list_iterator", "list(...)"]),
        ((0.5, FITTING), TypeError, ["grads is a tuple (loss, gradients)", "grads[1]"]),
        ([np.float32(0.5), FITTING], TypeError, ["grads is a list (loss, gradients)", "grads[1]"]),
        ((FITTING, np.array(0.5)), TypeError, ["grads is a tuple (gradients, loss)", "grads[0]"]),
        ({"dw": np.ones(3), "dv": np.ones(2)}, ValueError, ['{"w": grads["dw"], "v": grads["dv"]}']),
        (FITTING | {"w": np.ones((4, 3))}, ValueError, ["'w'", "(4, 3)", "(3,)", "perhaps over samples"]),
        ({"w": np.ones(3)}, ValueError, ["'v'", "given: w", "expected: w, v"]),
        ({}, ValueError, ["'w'", "given: none", "expected: w, v"]),
        ({"w": np.ones(3), "v": np.ones(2), "u": np.ones(2)}, ValueError, ["'u'", "expected: w, v"]),
        ({"w": np.ones(3), "v": np.ones((2, 1))}, ValueError, ["'v'", "(2, 1)", "(2,)", "reshape"]),
        ({"w": np.ones(3), "v": np.float64(1)}, ValueError, ["'v'", "()", "(2,)"]),
        ({"w": np.ones(3), "v": np.ones(2, int)}, TypeError, ["gradient 'v'", "int64", "float32"]),
        ({"w": np.ones(3), "v": None}, TypeError, ["gradient 'v' is None", "(2,)", "zeros", "leave 'v' out"]),
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


def test_a_transposed_gradient_is_told() -> None:
    """The shapes say so, unless they are square."""
    with pytest.raises(ValueError, match=r"\(4, 3\); expected \(3, 4\).*it is transposed"):
        read_gradients({"w": np.ones((4, 3))}, {"w": np.ones((3, 4))})
