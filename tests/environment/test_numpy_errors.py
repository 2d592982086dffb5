"""Gradguard's own arithmetic raises and warns of nothing; the user's loss runs under the user's settings."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import pytest
from recorder import Recorder

from gradguard import GradGuard, check, diagnose, sweep

REACTIONS = ["raise", "warn", "ignore"]


class Quadratic:
    """A loss near its minimum, so that its differences are tiny, and the settings that each evaluation ran under."""

    def __init__(self, size: float) -> None:
        rng = np.random.default_rng(0)
        self.params = {name: (size * rng.normal(size=(3, 4))).astype(np.float32) for name in ("a", "b")}
        self.targets = {name: array * np.float32(1.01) for name, array in self.params.items()}
        self.settings = Recorder()

    def loss(self) -> Any:
        """Half the squared distance from the targets."""
        self.settings.append(np.geterr()["invalid"])
        with np.errstate(under="ignore"):
            return sum((np.square(self.params[name] - self.targets[name]).sum() / 2 for name in self.params), 0.0)

    def grads(self) -> dict[str, Any]:
        """Its gradient."""
        return {name: self.params[name] - self.targets[name] for name in self.params}


def by_guard(model: Quadratic) -> object:
    """Three checks of a training."""
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None)
    return [str(guard.after_backward(step, model.grads())) for step in range(3)]


def by_check(model: Quadratic) -> object:
    """One check, and all texts of its report."""
    report = check(model.params, model.grads(), model.loss)
    return [str(report), report.to_dict()]


def by_sweep(model: Quadratic) -> object:
    """A sweep."""
    return str(sweep(model.params, model.grads(), model.loss, entries=4))


def by_diagnosis(model: Quadratic) -> object:
    """A diagnosis of its gradients."""
    return str(diagnose({name: (g, 1.0001 * g) for name, g in model.grads().items()}))


CALLS = [by_guard, by_check, by_sweep, by_diagnosis]


@pytest.mark.parametrize("size", [1.0, 1e-18, 1e-30, 1e15])
@pytest.mark.parametrize("call", CALLS)
def test_no_floating_point_error_of_gradguard_raises(call: Callable[[Quadratic], object], size: float) -> None:
    """Underflows and overflows in differences of tiny or huge losses are its own affair."""
    with np.errstate(all="raise"):
        assert call(Quadratic(size))
        assert set(np.geterr().values()) == {"raise"}


@pytest.mark.parametrize("reaction", REACTIONS)
@pytest.mark.parametrize("call", CALLS[:3])
def test_the_loss_at_the_parameters_runs_under_the_settings_of_the_user(call: Any, reaction: str) -> None:
    """What finds the user's nan goes on finding it; only at moved parameters nothing is warned of."""
    model = Quadratic(1.0)
    with np.errstate(all=reaction):  # type: ignore[call-overload]  # one of the literals
        call(model)
    assert set(model.settings) <= {reaction, "ignore"}
    assert reaction in model.settings


def test_an_overflow_of_the_loss_at_the_parameters_is_told_as_the_user_wants_it() -> None:
    """It is raised or warned of, since the training's own loss has it too."""
    params = {"w": np.array([1.0, 2.0], np.float32)}

    def loss() -> Any:
        return np.float32(3e38) * np.float32(3e38) + params["w"].sum()

    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="overflow"):
        check(params, {"w": np.ones(2, np.float32)}, loss)
    with pytest.warns(RuntimeWarning, match="overflow"):
        check(params, {"w": np.ones(2, np.float32)}, loss)


def test_an_overflow_at_moved_parameters_is_no_news() -> None:
    """A loss that overflows only where the guard goes is neither warned of, nor does it raise."""
    params = {"w": np.array([88.0, 80.0], np.float32)}
    grads = {"w": np.exp(params["w"])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for reaction in REACTIONS:
            with np.errstate(over=reaction):  # type: ignore[call-overload]  # one of the literals
                report = check(params, grads, lambda: np.exp(params["w"]).sum())
                assert not report.verdict.is_bug


@contextmanager
def traced(reads_locals: bool) -> Iterator[None]:
    """A debugger steps through every line."""

    def trace(frame: FrameType, _event: str, _argument: object) -> Any:
        return (reads_locals and frame.f_locals is None) or trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("reads_locals", [False, True])
def test_a_check_under_a_debugger_says_the_same(reads_locals: bool) -> None:
    """It restores everything too."""
    plain, model = Quadratic(1.0), Quadratic(1.0)
    expected = check(plain.params, plain.grads(), plain.loss, entries=1)
    with traced(reads_locals):
        report = check(model.params, model.grads(), model.loss, entries=1)
    assert report.verdict is expected.verdict
    assert {name: array.tobytes() for name, array in model.params.items()} == {
        name: array.tobytes() for name, array in plain.params.items()
    }
