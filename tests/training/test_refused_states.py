"""States of other models, or damaged ones, are refused with the place."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resumed_training import Training, changed

from gradguard import GradGuard


def test_a_state_of_another_model_is_refused() -> None:
    """The message names the tensor, what the state has and what the guard has; nothing is taken over."""
    state = Training().guard().state_dict()
    for params, words in (
        ({"Wh": np.ones((2, 8))}, r"the state has 'V' of shape \(2, 3\), and the guard has no 'V'"),
        ({"Wh": np.ones((2, 9)), "V": np.ones((2, 3))}, r"'Wh' of shape \(2, 8\).*\(2, 9\)"),
        ({"Wh": np.ones((2, 8)), "V": np.ones((2, 3)), "u": np.ones(1)}, r"no 'u'.*shape \(1,\)"),
    ):
        guard = GradGuard(params)
        before = guard.state_dict()
        with pytest.raises(ValueError, match=words):
            guard.load_state_dict(state)
        assert guard.state_dict() == before


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", 1, "has format 1; expected .* format 2"),
        ("format", KeyError, "no format"),
        ("told", KeyError, "state lacks the entry 'told'"),
        (
            "memory/states/Wh/entry/steps/start",
            "long",
            r"\['Wh'\]\['entry'\]\['steps'\]\['start'\] is 'long'; .* number",
        ),
        ("memory/tensors/V/verdict", "fine", r"\['V'\]\['verdict'\] is 'fine'; expected a Verdict"),
        ("memory/tensors/V/shape", [2, "3"], r"\['shape'\]\[1\] is '3'; expected a value of type int"),
        ("memory/states/V/noise/dtype", "O", "expected a floating-point dtype"),
        ("memory/states/V/entry/detector", [[1.0]], r"\['detector'\] is \[\[1.0\]\]; expected a Detector"),
        ("memory/tensors/V/sign_interval", [0.5], "holds 1 values; expected 2"),
        ("memory/next_tensor", True, r"\['next_tensor'\] is True"),
        ("memory/proven", "yes", r"\['proven'\] is 'yes'; expected a dict"),
        ("memory/more", 1, "has an unknown entry 'more'"),
        ("rng/bit_generator", "MT", "expected the state of a random generator"),
        ("spent", [], r"state\['spent'\] is \[\]; expected a dict"),
    ],
)
def test_a_state_that_is_something_else_is_told_by_the_place(
    state: dict[str, Any], path: str, value: object, words: str
) -> None:
    """A truncated or edited checkpoint, or one of another version, is an error at once that says where."""
    guard = Training().guard()
    with pytest.raises(ValueError, match=words):
        guard.load_state_dict(changed(state, path, value))
    assert guard.state_dict()["memory"]["proven"] is None


def leaves(value: Any, path: str = "") -> list[str]:
    """The path of every entry of a state."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path[1:], *(leaf for key, item in items for leaf in leaves(item, f"{path}/{key}"))]


@settings(max_examples=500)
@given(data=st.data())
def test_no_state_makes_it_fail_in_another_way(state: dict[str, Any], data: st.DataObject) -> None:
    """Whatever one entry is replaced by, the state is refused with a ValueError, or taken."""
    path = data.draw(st.sampled_from([leaf for leaf in leaves(state) if leaf]))
    hostile = [None, True, -1, 10**400, 1e308, float("nan"), "", "nan", "x" * 10_000, [], [[]], {}, {"": {}}, b"", ()]
    guard = Training().guard()
    try:
        guard.load_state_dict(changed(state, path, data.draw(st.sampled_from(hostile))))
    except ValueError as error:
        assert len(str(error)) < 1000  # noqa: PT017 - taking it is as good


@pytest.mark.parametrize("state", [None, [], "state", {}, {"format": None}])
def test_what_is_no_state_is_refused(state: Any) -> None:
    """A path or a whole checkpoint instead of the guard's part of it, for one."""
    with pytest.raises(ValueError, match=r"expected what GradGuard\.state_dict\(\) gives"):
        Training().guard().load_state_dict(state)
