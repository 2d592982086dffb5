"""A mistake in what a check is given is an error at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gradguard import check, gates


def shared() -> dict[str, Any]:
    """Tied weights under two names."""
    both = np.ones((2, 2))
    return {"w": both, "v": both.T}


MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "missing gradient": ({"grads": {}}, ValueError, ["'w'", "given: none", "expected: w"]),
    "extra gradient": ({"grads": {"w": np.ones(2), "u": np.ones(2)}}, ValueError, ["'u'", "expected: w"]),
    "wrong shape": ({"grads": {"w": np.ones(3)}}, ValueError, ["'w'", "(3,)", "(2,)"]),
    "integer gradient": ({"grads": {"w": np.ones(2, int)}}, TypeError, ["gradient 'w'", "int64"]),
    "no gradient": ({"grads": {"w": None}}, TypeError, ["gradient 'w' is None", "zeros"]),
    "loss for gradients": ({"grads": lambda: 0.0}, TypeError, ["grads", "function", "mapping"]),
    "integer parameter": ({"params": {"w": np.ones(2, int)}}, TypeError, ["parameter 'w'", "int64", "float32"]),
    "list parameter": ({"params": {"w": [1.0, 2.0]}}, TypeError, ["parameter 'w'", "list", "NumPy array"]),
    "no container": ({"params": {np.ones(2).tobytes()}}, TypeError, ["params", "set", "mapping"]),
    "no parameters": ({"params": {}, "grads": {}}, ValueError, ["params", "empty"]),
    "shared memory": (
        {"params": shared(), "grads": {"w": np.ones((2, 2)), "v": np.ones((2, 2))}},
        ValueError,
        ["'w'", "'v'", "share memory", "sum of its gradients"],
    ),
    "overlapping": (
        {
            "params": {"w": np.lib.stride_tricks.as_strided(np.ones(1), (2, 2), (0, 0))},
            "grads": {"w": np.ones((2, 2))},
        },
        ValueError,
        ["'w'", "(2, 2)", "(0, 0)"],
    ),
    "value for loss": ({"loss": 0.25}, TypeError, ["float", "callable", "loss()", "loss(params)"]),
    "no loss": ({"loss": None}, TypeError, ["NoneType", "callable"]),
    "two arguments": ({"loss": lambda params, batch: (params, batch)}, TypeError, ["params, batch", "loss(params)"]),
    "returns nothing": ({"loss": lambda: None}, TypeError, ["NoneType", "expected a number"]),
    "returns text": ({"loss": lambda: "0.25"}, TypeError, ["str", "expected a number"]),
    "returns an object": ({"loss": object}, TypeError, ["object", "expected a number"]),
    "returns a pair": ({"loss": lambda: (0.25, {})}, TypeError, ["tuple of 2 (float, dict)", "expected a number"]),
    "no reduction": ({"loss": lambda: np.ones(3)}, ValueError, ["(3,)", "reduction='sum'", "reduction='mean'"]),
    "reduction": ({"reduction": "none"}, ValueError, ["'none'", "'sum', 'mean' or None"]),
    "precision": ({"precision": "float16"}, ValueError, ["'float16'", "'native', 'float64' or 'auto'"]),
    "entries": ({"entries": 0}, ValueError, ["entries", "0", "at least 1", "'all'"]),
    "fractional entries": ({"entries": 2.5}, ValueError, ["entries", "2.5", "whole number"]),
    "constant": ({"constants": {"timesteps": -3}}, ValueError, ["'timesteps'", "-3", "positive"]),
    "constant of zero": ({"constants": {"batch": 0}}, ValueError, ["'batch'", "0", "positive"]),
    "gates": ({"blocks": {"w": gates("ifog", axis=0)}}, ValueError, ["'w'", "(2,)", "4 gates"]),
    "unknown tensor": ({"blocks": {"u": gates("if", axis=0)}}, ValueError, ["'u'", "expected one of w"]),
    "snapshot": ({"snapshot": [7]}, TypeError, ["snapshot", "int", "callable"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_an_error_at_once_that_names_it(mistake: str) -> None:
    """What was given, what was expected, and nothing has changed."""
    changes, error, words = MISTAKES[mistake]
    weights, gradient = np.array([0.3, 0.7]), np.array([1.0, 2.0])
    arguments: dict[str, Any] = {"params": {"w": weights}, "grads": {"w": gradient}, "loss": lambda: weights.sum()}
    arguments |= changes
    given = arguments["params"]
    entries = list(given.items()) if isinstance(given, Mapping) else []
    before = [np.asarray(value).tobytes() for _, value in entries]
    with pytest.raises(error) as raised:
        check(arguments.pop("params"), arguments.pop("grads"), arguments.pop("loss"), **arguments)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert [np.asarray(value).tobytes() for _, value in entries] == before
    assert all(given[name] is value for name, value in entries)
    assert weights.tolist() == [0.3, 0.7]
