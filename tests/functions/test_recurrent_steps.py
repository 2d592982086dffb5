"""A recurrent step that `check_backward` unrolls over timesteps."""

from typing import Any

import numpy as np
import pytest
from layers import Array, normal, step_backward, step_forward, step_inputs
from recorder import Recorder

from gradguard import Verdict, check_backward


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_timestep_of_a_right_step_is_ok(dtype: type) -> None:
    """The report of each timestep is kept, the last timestep first."""
    report = check_backward(step_forward, step_backward, step_inputs(dtype), steps=4)
    assert {tensor.verdict for tensor in report.tensors.values()} == {Verdict.ok}
    assert [each.name for each in report.functions] == [f"timestep {t}" for t in (3, 2, 1, 0)]
    assert report.explanation.endswith("4 of 4 timesteps checked.")
    assert report.evaluations == sum(each.report.evaluations for each in report.functions)


def test_the_report_says_at_which_timesteps_a_gradient_is_wrong() -> None:
    """The gradient of Wh is doubled at timesteps 1 and 2 of 5: backpropagation meets the error at 2."""

    def backward(dh: Array, dc: Array, cache: Any) -> Any:
        *before, dwh, db = step_backward(dh, dc, cache)
        return *before, dwh * (2 if cache[0][0, 0] in (1, 2) else 1), db

    x, *others = step_inputs()
    series = [x + 0 * t for t in range(5)]
    for t, each in enumerate(series):
        each[0, 0] = t
    report = check_backward(step_forward, backward, (series, *others), steps=5)
    assert [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug] == ["Wh"]
    assert report.tensors["Wh"].ratio == pytest.approx(0.5)
    assert "wrong at timesteps 1 and 2, right at 0, 3 and 4; the error enters at timestep 2" in report.explanation
    causes = {each.name: each.report.tensors["Wh"].cause for each in report.functions}
    assert "for cotangents of h and c" in causes["timestep 2"]
    assert "cotangents" not in causes["timestep 1"]  # which outputs it is wrong for is known by then


def test_states_and_cotangents_are_those_of_the_unrolled_steps() -> None:
    """With h = a h_prev + x, each step passes a times its own cotangent back, here much more than is drawn for it."""
    a, seen = 100.0, Recorder()

    def forward(x: Array, h: Array) -> tuple[Array, Any]:
        return a * h + x, h.copy()

    def backward(dh: Array, h_prev: Array) -> tuple[Array, Array]:
        seen.append((h_prev.copy(), dh.copy()))
        return dh, a * dh

    x, h = normal(3), normal(3, seed=1)
    check_backward(forward, backward, (x, h), steps=3)
    states, cotangents = zip(*seen.items[:3], strict=True)  # of the backward pass that unrolls
    assert np.allclose(states[2], h)
    assert np.allclose(states[1], a * h + x)
    assert np.allclose(states[0], a * (a * h + x) + x)
    assert np.allclose(cotangents[1] / a, cotangents[0], atol=0.05)
    assert np.allclose(cotangents[2] / a, cotangents[1], atol=0.05)
    checked = [each for each in seen.items[3:] if np.array_equal(each[0], states[1])]
    assert checked
    assert all(np.array_equal(each[1], cotangents[1]) for each in checked)


def test_of_many_timesteps_the_first_and_last_and_some_between_are_checked() -> None:
    """The number of checks is bounded, and the report says how many there were."""

    def forward(x: Array, h_prev: Array) -> tuple[Array, Array]:
        return np.tanh(x + h_prev), np.tanh(x + h_prev)

    def backward(dh: Array, h: Array) -> tuple[Array, Array]:
        return dh * (1 - h**2), dh * (1 - h**2)

    report = check_backward(forward, backward, (normal(2), normal(2)), steps=100)
    assert report.explanation.endswith("40 of 100 timesteps checked.")
    assert (report.functions[0].name, report.functions[-1].name) == ("timestep 99", "timestep 0")


def two_states(x: Array, first: Array, second: Array) -> tuple[Array, Array, None]:
    """States that are not named alike where they enter and where they leave."""
    return 2 * second + x, first - x, None


def two_states_backward(d0: Array, d1: Array, _: None) -> tuple[Array, Array, Array]:
    """The gradients of `two_states`."""
    return d0 - d1, d1, 2 * d0


def test_which_outputs_are_carried_is_asked_where_it_is_ambiguous() -> None:
    """Three inputs of one shape and two outputs; `carried` tells."""
    inputs = (normal(3), normal(3, seed=1), normal(3, seed=2))
    with pytest.raises(ValueError, match=r"ambiguous .* carried to x, first and second; say .* carried="):
        check_backward(two_states, two_states_backward, inputs, steps=2)
    carried = {"first": 0, "second": 1}
    report = check_backward(two_states, two_states_backward, inputs, steps=2, carried=carried)
    assert report.verdict is Verdict.ok


def test_an_array_with_an_axis_of_timesteps_is_refused_with_the_remedy() -> None:
    """It would be taken as the input of each step; a list has one array for each."""

    def forward(x: Array, h_prev: Array) -> tuple[Array, None]:
        return x + h_prev, None

    def backward(dh: Array, _: None) -> tuple[Array, Array]:
        return dh, dh.sum(axis=0)

    with pytest.raises(ValueError, match=r"for each timestep is a list of these: list\(x\)"):
        check_backward(forward, backward, (normal(2, 3), normal(3)), steps=2)


@pytest.mark.parametrize(
    ("carried", "message"),
    [({"z": 0}, "names 'z'; expected an input"), ({"x": 2}, "index of an output, 0 to 1"), ({"w": 0}, "equal shapes")],
)
def test_a_state_that_does_not_fit_is_refused(carried: dict[str, int], message: str) -> None:
    """An unknown input, an unknown output, and another shape."""

    def forward(x: Array, w: Array) -> tuple[Array, Array, None]:
        return x * w[0], x * w[1], None

    def backward(d0: Array, d1: Array, _: None) -> tuple[Array, Array]:
        return d0, d1

    with pytest.raises(ValueError, match=message):
        check_backward(forward, backward, (normal(3), normal(2)), steps=2, carried=carried)
