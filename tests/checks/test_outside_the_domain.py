"""A loss that raises only where the guard goes does not end the training, and nothing wrong is said of it."""

import bdb
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard import GradGuard, batched, check
from gradguard.testing import LSTM, random_batch

Problem = tuple[dict[str, Any], Callable[[], object], dict[str, Any]]


def likelihood(small: float) -> Problem:
    """Variances, one of them small; `math.log` raises where it is negative."""
    params = {"v": np.array([small, 1, 2], np.float32)}

    def loss() -> float:
        return sum(0.5 * math.log(v) for v in params["v"]) + 0.5 * float((params["v"] ** 2).sum())

    return params, loss, {"v": 0.5 / params["v"] + params["v"]}


def determinant(small: float) -> Problem:
    """A covariance with one small eigenvalue."""
    params = {"A": np.diag(np.array([small, 1, 2], np.float32))}

    def loss() -> Any:
        return 2 * np.log(np.diag(np.linalg.cholesky((params["A"] + params["A"].T) / 2))).sum()

    return params, loss, {"A": np.linalg.inv(params["A"])}


def asserted(small: float) -> Problem:
    """A loop that asserts that its loss is finite."""
    params = {"w": np.array([small, 1, 2], np.float32)}

    def loss() -> Any:
        with np.errstate(invalid="ignore"):
            value = np.sqrt(params["w"]).sum()
        assert np.isfinite(value), "the loss is nan"
        return value

    return params, loss, {"w": 0.5 / np.sqrt(params["w"])}


def only_there(small: float) -> Problem:
    """A loss that is defined at the parameters only."""
    params = {"w": np.array([small, 1, 2])}
    bits = params["w"].tobytes()

    def loss() -> Any:
        if params["w"].tobytes() != bits:
            raise KeyError("not in the table")
        return params["w"].sum()

    return params, loss, {"w": np.ones(3)}


PROBLEMS = [likelihood, determinant, asserted]


@pytest.mark.parametrize("precision", ["auto", "native"])
@pytest.mark.parametrize("problem", [*PROBLEMS, only_there])
@given(small=st.floats(1e-5, 1e-2))
@settings(max_examples=8, deadline=None)
def test_the_training_goes_on_without_an_alarm(
    problem: Callable[[float], Problem], precision: str, small: float
) -> None:
    """Whatever the entry that must stay positive, and whatever the loss raises."""
    params, loss, grads = problem(small)
    before = {name: array.tobytes() for name, array in params.items()}
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision=precision, on_alert="raise")
    for step in range(3):
        report = guard.after_backward(step, grads)
        assert report is not None
        assert not report.verdict.is_bug
    assert before == {name: array.tobytes() for name, array in params.items()}


@pytest.mark.parametrize("precision", ["auto", "native"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_wrong_gradient_is_not_cleared(problem: Callable[[float], Problem], precision: str) -> None:
    """A factor of three is told, or nothing is said; it is never `ok`."""
    params, loss, grads = problem(1e-2)
    report = check(params, {name: 3 * g for name, g in grads.items()}, loss, precision=precision)
    assert report.verdict.is_bug is not False


@pytest.mark.parametrize("problem", PROBLEMS)
def test_shorter_steps_measure_it_in_float64(problem: Callable[[float], Problem]) -> None:
    """Where the loss is accurate enough for steps that stay inside."""
    params, loss, grads = problem(1e-4)
    assert check(params, grads, loss).verdict == "ok"


def test_where_nothing_can_be_measured_the_exception_is_told() -> None:
    """With its type and its text, and as the reason."""
    params, loss, grads = only_there(0.5)
    report = check(params, grads, loss)
    assert report.verdict == "inconclusive"
    assert "KeyError: 'not in the table'" in report.tensors["w"].explanation
    assert "not defined" in report.tensors["w"].cause


@pytest.mark.parametrize("precision", ["auto", "native"])
def test_an_exception_at_the_parameters_is_the_users(precision: str) -> None:
    """The training itself would have met it."""
    params = {"v": np.array([-1.0, 1.0])}
    with pytest.raises(ValueError, match="math domain error"):
        check(params, {"v": np.ones(2)}, lambda: sum(math.log(v) for v in params["v"]), precision=precision)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, bdb.BdbQuit])
def test_an_interruption_at_moved_parameters_ends_the_check(error: type[BaseException]) -> None:
    """However often it comes."""
    params, _, grads = only_there(0.5)
    bits = params["w"].tobytes()

    def loss() -> Any:
        if params["w"].tobytes() != bits:
            raise error
        return params["w"].sum()

    with pytest.raises(error):
        check(params, grads, loss)
    assert params["w"].tobytes() == bits


class StoppedError(Exception):
    """What a signal handler raises."""


@contextmanager
def handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    """A handler of SIGUSR1."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_exception_of_a_signal_handler_ends_the_check() -> None:
    """Also where it comes twice in a row, as the loss's own would."""
    params, _, grads = only_there(0.5)
    bits = params["w"].tobytes()

    def stop(_number: int, _frame: object) -> None:
        raise StoppedError

    def loss() -> Any:
        if params["w"].tobytes() != bits:
            signal.raise_signal(signal.SIGUSR1)
        return params["w"].sum()

    with handled(stop), pytest.raises(StoppedError):
        check(params, grads, loss)
    assert params["w"].tobytes() == bits


def test_a_batched_loss_that_raises_at_one_of_the_points_is_measured_at_the_others() -> None:
    """One point outside the domain makes the whole call raise."""
    params = {"v": np.array([1e-4, 1.0, 2.0]), "w": np.array([0.5, 0.25])}

    def loss(moved: Any) -> Any:
        if (moved["v"] <= 0).any():
            raise ValueError("a variance is not positive")
        return np.log(moved["v"]).sum(axis=-1) + np.square(moved["w"]).sum(axis=-1)

    grads = {"v": 1 / params["v"], "w": 2 * params["w"]}
    assert check(params, grads, batched(loss)).verdict == "ok"
    wrong = check(params, grads | {"w": 6 * params["w"]}, batched(loss))
    assert wrong.tensors["w"].verdict == "scale"


def test_a_loss_that_is_defined_everywhere_is_not_said_to_raise() -> None:
    """The words come with an exception only."""
    model, batch = LSTM(hidden=3), random_batch()
    report = check(model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch))
    assert "raised" not in str(report)
