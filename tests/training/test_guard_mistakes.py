"""Mistakes are errors at once, and change nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from failing_writer import Failing
from lstm_training import Training, guard_of

from gradguard import GradGuard, Verdict, gates


def in_the_way(folder: Path) -> Path:
    """A file where a folder should be."""
    path = folder / "runs"
    path.write_text("a file\n")
    return path


OPTIONS: list[Any] = [
    ({"every_n_steps": 0}, ValueError, ["every_n_steps", "0", "at least 1"]),
    ({"every_n_steps": 1.5}, TypeError, ["every_n_steps", "1.5", "callable"]),
    ({"start_step": -1}, ValueError, ["start_step", "-1"]),
    ({"max_overhead": 0}, ValueError, ["max_overhead", "0", "None"]),
    ({"max_overhead": 5}, ValueError, ["max_overhead", "5", "None"]),
    ({"precision": "float16"}, ValueError, ["'float16'", "'native', 'float64' or 'auto'"]),
    ({"reduction": "none"}, ValueError, ["'none'", "'sum', 'mean' or None"]),
    ({"on_alert": "crash"}, ValueError, ["'crash'", "'log', 'raise' or a callable"]),
    ({"on_alert": ["log", 3]}, ValueError, ["on_alert holds 3", "or a list of these"]),
    ({"constants": {"timesteps": -3}}, ValueError, ["'timesteps'", "-3", "positive"]),
    ({"blocks": {"w": gates("ifog", axis=0)}}, ValueError, ["'w'", "(2,)", "4 gates"]),
    ({"blocks": {"u": gates("if", axis=0)}}, ValueError, ["'u'", "expected one of w"]),
    ({"snapshot": [7]}, TypeError, ["snapshot", "int", "callable"]),
    ({"loss": 0.25}, TypeError, ["float", "callable", "loss()"]),
    ({"loss": lambda params, batch: (params, batch)}, TypeError, ["params, batch", "loss(params)"]),
    ({"params": {"w"}}, TypeError, ["params", "set", "mapping"]),
    ({"params": {"w": np.ones(2, int)}}, TypeError, ["'w'", "int64", "float32"]),
    ({"params": {"w": np.broadcast_to(np.ones(1), 2)}}, ValueError, ["'w'", "read-only", "loss(params)"]),
    (
        {"params": {"w": np.lib.stride_tricks.as_strided(np.ones(1), (2,), (0,))}},
        ValueError,
        ["'w'", "(2,)", "strides (0,)"],
    ),
    ({"thresholds": 0.1}, TypeError, ["thresholds", "float", "Thresholds"]),
    ({"max_log_megabytes": 0}, ValueError, ["max_log_megabytes", "0", "math.inf"]),
    ({"writers": [None]}, TypeError, ["writers", "NoneType", "write"]),
    ({"writers": Failing()}, TypeError, ["writers", "Failing"]),
]


@pytest.mark.parametrize(("options", "error", "words"), OPTIONS, ids=[" ".join(words) for *_, words in OPTIONS])
def test_an_option_that_makes_no_sense_is_refused(
    options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    """When the guard is made, with what was given and what was expected."""
    weights = np.array([0.3, 0.7])
    arguments: dict[str, Any] = {"params": {"w": weights}, "loss": lambda: weights.sum()}
    arguments |= options
    with pytest.raises(error) as raised:
        GradGuard(arguments.pop("params"), arguments.pop("loss"), **arguments)
    assert all(word in str(raised.value) for word in words), str(raised.value)


def test_two_names_for_one_memory_are_refused_when_the_guard_is_made() -> None:
    """Tied weights belong under one name, unless the loss takes the parameters."""
    shared = np.ones((2, 2))
    params = {"encoder": shared, "decoder": shared.T}
    with pytest.raises(ValueError, match="share memory") as raised:
        GradGuard(params, lambda: 0.0)
    assert "'encoder'" in str(raised.value)
    assert "'decoder'" in str(raised.value)
    GradGuard(params, lambda given: float(given["encoder"].sum()))


def test_a_log_folder_that_is_a_file_is_refused_when_the_guard_is_made(tmp_path: Path) -> None:
    """Not at the first check, hours later."""
    path = in_the_way(tmp_path)
    with pytest.raises(NotADirectoryError, match="runs"):
        GradGuard({"w": np.ones(2)}, logdir=path)
    assert path.read_text() == "a file\n"


WEIGHTS = np.array([0.3, 0.7])
GRADS = {"w": np.cos(WEIGHTS)}
AT_A_STEP: list[Any] = [
    ((0, {}, None), ValueError, ["'w'", "given: none", "expected: w"]),
    ((0, GRADS | {"u": WEIGHTS}, None), ValueError, ["'u'", "expected: w"]),
    ((0, {"w": np.ones(3)}, None), ValueError, ["'w'", "(3,)", "(2,)"]),
    ((0, {"w": None}, None), TypeError, ["'w' is None", "zeros"]),
    ((0, lambda: 0.0, None), TypeError, ["grads", "function"]),
    ((0.5, GRADS, None), TypeError, ["step", "0.5"]),
    ((None, GRADS, None), TypeError, ["step", "None"]),
    ((0, GRADS, 0.25), TypeError, ["float", "callable"]),
    ((0, GRADS, lambda: None), TypeError, ["NoneType", "expected a number"]),
    ((0, GRADS, lambda: np.ones(3)), ValueError, ["(3,)", "reduction='sum'"]),
]


@pytest.mark.parametrize(("given", "error", "words"), AT_A_STEP, ids=[" ".join(words) for *_, words in AT_A_STEP])
def test_a_mistake_at_a_step_is_told_and_costs_nothing(given: Any, error: type[Exception], words: list[str]) -> None:
    """The message names it; parameters and history are as before, and the same step may be tried again."""
    params = {"w": WEIGHTS.copy()}
    weights = params["w"]
    guard = GradGuard(params, lambda: float(np.sin(params["w"]).sum()), every_n_steps=1, max_overhead=None)
    with pytest.raises(error) as raised:
        guard.after_backward(*given)
    assert all(word in str(raised.value) for word in words), str(raised.value)
    assert params["w"] is weights
    assert weights.tolist() == [0.3, 0.7]
    assert guard.report is None
    assert not guard.history
    report = guard.after_backward(0, {"w": np.cos(weights)})
    assert report is not None
    assert report.verdict is Verdict.ok


def test_a_guard_without_a_loss_says_so() -> None:
    """At the first step, whether or not a check is due."""
    guard = GradGuard({"w": np.ones(2)}, start_step=100)
    with pytest.raises(ValueError, match="there is no loss; pass loss="):
        guard.after_backward(0, {"w": np.ones(2)})


def test_steps_do_not_go_backwards() -> None:
    """A step counted anew in each epoch is an error that says what to do; the same step twice is none."""
    training = Training()
    guard = guard_of(training)
    grads = training.grads()
    assert guard.after_backward(5, grads) is not None
    assert guard.after_backward(5, grads) is not None
    with pytest.raises(ValueError, match=r"step 4 comes after step 5.*epochs"):
        guard.after_backward(4, grads)
    assert [row.step for row in guard.history] == [5, 5]
