from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.training.schedule import (
    ROUTINE_EVALUATIONS,
    SKIPPED_CALL_FACTOR,
    Budget,
    make_schedule,
    require_step,
)


@given(period=st.integers(1, 50), start=st.integers(0, 100), step=st.integers(0, 300))
def test_checks_come_at_the_start_step_and_every_n_steps_after_it(period: int, start: int, step: int) -> None:
    """The first is at the start step itself, none before."""
    due = make_schedule(period, start)
    assert due(start)
    assert due(step) == (step in range(start, 301, period))


def test_a_schedule_may_be_any_rule() -> None:
    """A callable says which steps are due; the start step holds for it too, and what it returns need not be a bool."""
    rule: Any = lambda step: np.bool_(step in (0, 1, 2, 4, 8))  # noqa: E731 - mypy is not to see what it returns
    due = make_schedule(rule, 2)
    assert [step for step in range(10) if due(step)] == [2, 4, 8]
    assert due(4) is True


@pytest.mark.parametrize(
    ("every_n_steps", "start_step", "error", "words"),
    [
        (0, 0, ValueError, ["every_n_steps", "0", "at least 1"]),
        (-5, 0, ValueError, ["every_n_steps", "-5", "at least 1"]),
        (1.5, 0, TypeError, ["every_n_steps", "1.5", "whole number", "callable"]),
        ("100", 0, TypeError, ["every_n_steps", "'100'", "whole number", "callable"]),
        (None, 0, TypeError, ["every_n_steps", "None", "whole number"]),
        (True, 0, TypeError, ["every_n_steps", "True", "whole number"]),
        (1, -1, ValueError, ["start_step", "-1", "at least 0"]),
        (1, 0.5, ValueError, ["start_step", "0.5", "whole number"]),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(
    every_n_steps: Any, start_step: Any, error: type[Exception], words: list[str]
) -> None:
    """The message names the option, what was given and what was expected."""
    with pytest.raises(error) as raised:
        make_schedule(every_n_steps, start_step)
    assert all(word in str(raised.value) for word in words)


def test_a_numpy_integer_is_a_whole_number() -> None:
    """`len(data) // batch` computed with NumPy is a schedule like any other."""
    count: Any = np.int64(5)
    assert make_schedule(count, 0)(10)
    assert make_schedule(1, count)(5)


def test_a_step_is_a_whole_number_that_does_not_go_backwards() -> None:
    """NumPy integers are taken, the same step may come again, and a new epoch must count on."""
    assert require_step(3, None) == require_step(np.int64(3), 3) == 3
    assert type(require_step(np.int32(3), 2)) is int
    for step in (0.5, "3", None, np.float32(3)):
        with pytest.raises(TypeError, match=r"step is .*expected a whole number"):
            require_step(step, None)
    with pytest.raises(ValueError, match=r"step 2 comes after step 3.*backwards.*epochs"):
        require_step(2, 3)


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan"), 5])
def test_an_overhead_that_is_no_share_is_refused(share: float) -> None:
    """Five is not five per cent: the message gives the range."""
    with pytest.raises(ValueError, match=r"max_overhead is .*above 0 and up to 1, or None"):
        Budget(share)


def test_the_first_check_is_free_and_without_a_bound_all_are() -> None:
    """Checks are affordable until the first one is accounted for; without a bound they stay so."""
    bounded, unbounded = Budget(0.01), Budget(None)
    for budget in (bounded, unbounded):
        assert budget.share() is None
        assert budget.affords_check
        budget.record_check(1e6, 1000)
        assert budget.share() == 0
    budget = unbounded
    budget.record_check(1e6, 1000)
    assert budget.affords_check
    assert not bounded.affords_check


def test_steps_without_a_check_cost_something_too() -> None:
    """What a guard takes to see that nothing is due comes off what its checks may take."""
    now = 0.0
    budget = Budget(0.01, lambda: now)
    budget.record_skipped_step(1e6)  # before the first check nothing counts
    budget.record_check(0.0, 1)
    budget.record_check(0.0, 1)
    now = 1000.0
    assert budget.affords_check
    budget.record_skipped_step(9.0 / SKIPPED_CALL_FACTOR)
    assert budget.share() == pytest.approx(0.009)
    budget.record_check(5.1, 1000)
    assert not budget.affords_check


def test_very_short_steps_are_checked_all_the_same() -> None:
    """Calls without a check alone may take more than their share; they hold back no more than half of the checks."""
    now = 0.0
    budget = Budget(0.01, lambda: now)
    budget.record_check(0.0, 1)
    now = 1000.0
    budget.record_skipped_step(30.0 / SKIPPED_CALL_FACTOR)
    assert budget.share() == pytest.approx(0.03)
    assert budget.affords_check


def test_a_check_that_cost_more_than_the_bound_is_paid_off_before_the_next() -> None:
    """No check while the share is over it, however cheap one would be."""
    budget = Budget(0.5)
    budget.record_check(1e-9, 1)
    budget.record_check(1e6, 10**15)  # a deep check after an alarm, at a nanosecond an evaluation
    assert budget.share() is not None
    assert budget.share() > 0.5
    assert not budget.affords_check


@given(bound=st.floats(0.01, 1), evaluation=st.floats(1e-8, 1e-4), cost=st.integers(1, ROUTINE_EVALUATIONS))
def test_the_share_of_affordable_checks_never_exceeds_the_bound(bound: float, evaluation: float, cost: int) -> None:
    """Each recorded at what a routine check costs, or less, as time passes between them."""
    now = 0.0
    budget = Budget(bound, lambda: now)
    budget.record_check(100 * evaluation, 100)
    checks = 0
    for step in range(300):
        now += evaluation * (1 + step % 7)
        if budget.affords_check:
            now += cost * evaluation
            budget.record_check(cost * evaluation, cost)
            checks += 1
        share = budget.share()
        assert share is not None
        assert share <= bound * (1 + 1e-9)
    assert checks == 0 or now >= checks * cost * evaluation / bound * (1 - 1e-9)


@pytest.mark.parametrize("bound", [0.01, 0.5, 1.0])
def test_a_check_is_made_as_soon_as_the_budget_holds_a_whole_one(bound: float) -> None:
    """Not before: half a check would tell nothing; and the next one after as much time again."""
    now, evaluation = 0.0, 2.0**-10
    budget = Budget(bound, lambda: now)
    budget.record_check(evaluation, 1)
    between = ROUTINE_EVALUATIONS * evaluation / bound
    for check in range(1, 4):
        now = check * between * (1 - 1e-6)
        assert not budget.affords_check
        now = check * between * (1 + 1e-6)
        assert budget.affords_check
        budget.record_check(ROUTINE_EVALUATIONS * evaluation, ROUTINE_EVALUATIONS)
