"""An error of the user ends in a traceback that a person reads at a glance."""

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard, check, sweep

PARAMS = {"w": np.array([0.3, 0.7])}


def loss() -> Any:
    """A loss that fails two calls further in."""
    return inner()


def inner() -> Any:
    """The place to be seen."""
    raise ArithmeticError("the user's own")


def by_guard(grads: Any) -> None:
    """The first check of a training."""
    GradGuard(PARAMS, loss).after_backward(0, grads)


def by_check(grads: Any) -> None:
    """One check."""
    check(PARAMS, grads, loss)


def by_sweep(grads: Any) -> None:
    """A sweep."""
    sweep(PARAMS, grads, loss)


@pytest.mark.parametrize("call", [by_guard, by_check, by_sweep])
def test_a_mistake_in_how_it_is_attached_takes_a_few_frames(call: Callable[[Any], None]) -> None:
    """The user's line, where gradguard is entered, and where it refuses."""
    with pytest.raises(ValueError, match="no entry 'w'") as refused:
        call({"v": np.ones(2)})
    frames = traceback.extract_tb(refused.value.__traceback__)
    assert len(frames) <= 6
    assert call.__name__ in [frame.name for frame in frames]


@pytest.mark.parametrize("call", [by_guard, by_check, by_sweep])
def test_an_exception_of_the_loss_shows_all_lines_of_the_user(call: Callable[[Any], None]) -> None:
    """From where gradguard is called to where the loss raises."""
    with pytest.raises(ArithmeticError) as raised:
        call({"w": np.ones(2)})
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert [call.__name__, "loss", "inner"] == [name for name in names if name in (call.__name__, "loss", "inner")]
    assert names[-1] == "inner"
    assert len(names) <= 8
