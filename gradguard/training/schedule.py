"""When to check, and how much a check may cost."""

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass

from gradguard.arrays import is_whole
from gradguard.training.ranks import Clock

Schedule = Callable[[int], bool]
"""Whether a check is due at a step."""

SKIPPED_CALL_FACTOR = 2.5
"""Cost of a call without a check, in units of the microseconds that it measures of itself.

Entering and leaving the call takes as long again, with cold caches: without the factor, checks and calls took 1.25 % of
a training of short steps where `max_overhead` was 1 %.
"""
MOST_SKIPPED = 0.5
"""Share of the allowed time that calls without a check are counted with, at most."""
ROUTINE_EVALUATIONS = 24
"""Evaluations of the loss that a routine check takes at most, whatever the number of tensors."""


def make_schedule(every_n_steps: int | Schedule, start_step: int) -> Schedule:
    """The schedule that the options of a guard describe.

    Raises:
        TypeError: `every_n_steps` is neither a whole number nor callable.
        ValueError: A number is out of its range.
    """
    if not is_whole(start_step) or start_step < 0:
        raise ValueError(f"start_step is {start_step!r}; expected a whole number of at least 0")
    if callable(every_n_steps):
        return _RuleSchedule(every_n_steps, start_step)
    if not is_whole(every_n_steps):
        raise TypeError(f"every_n_steps is {every_n_steps!r}; expected a whole number, or a callable from step to bool")
    if every_n_steps < 1:
        raise ValueError(f"every_n_steps is {every_n_steps!r}; expected at least 1")
    return PeriodicSchedule(every_n_steps, start_step)


# Classes, so that a guard can be pickled.


@dataclass(frozen=True, slots=True)
class _RuleSchedule:
    """The steps that the user's rule accepts, from `start_step` on."""

    rule: Schedule
    start_step: int

    def __call__(self, step: int) -> bool:
        return step >= self.start_step and bool(self.rule(step))


@dataclass(frozen=True, slots=True)
class PeriodicSchedule:
    """`start_step`, and every `period` steps after it."""

    period: int
    start_step: int

    def __call__(self, step: int) -> bool:
        """Whether a step is one of them."""
        return step >= self.start_step and (step - self.start_step) % self.period == 0


def require_step(step: object, last: int | None) -> int:
    """The step as an int.

    Args:
        step: The step that the user passed.
        last: The step of the call before; None at the first call.

    Raises:
        TypeError: `step` is not a whole number.
        ValueError: `step` lies before `last`.
    """
    try:
        number = operator.index(step)  # type: ignore[arg-type]  # the except clause is the check
    except TypeError:
        raise TypeError(f"step is {step!r}; expected a whole number") from None
    if last is not None and number < last:
        raise ValueError(
            f"step {number} comes after step {last}; steps must not go backwards, or TensorBoard drops what it has; "
            "pass a count that goes on over epochs"
        )
    return number


@dataclass(frozen=True, slots=True)
class Spent:
    """What the checks have cost so far.

    Attributes:
        elapsed: Seconds since the first check; None before it.
        seconds: Seconds in checks after the first one.
        skipped: Seconds in calls without a check.
        evaluation: Seconds that one evaluation of the loss takes.
    """

    elapsed: float | None
    seconds: float
    skipped: float
    evaluation: float


class Budget:
    """Bounds the share of wall time that the checks after the first one take.

    Args:
        max_overhead: The largest share, above 0 and up to 1; None for no bound.
        clock: The source of the time, in seconds.

    Raises:
        ValueError: `max_overhead` is out of its range.
    """

    def __init__(self, max_overhead: float | None, clock: Clock = time.perf_counter) -> None:
        if max_overhead is not None and not 0 < max_overhead <= 1:
            raise ValueError(f"max_overhead is {max_overhead!r}; expected a share above 0 and up to 1, or None")
        self._max_overhead = max_overhead
        self._clock = clock
        self._first_check: float | None = None  # when it ended, by the clock
        self._seconds = 0.0
        self._skipped = 0.0
        self._evaluation = 0.0

    def share(self, running_check: float = 0.0) -> float | None:
        """The share of wall time since the first check that went into checks; None before the first check.

        Args:
            running_check: Seconds that a check which is not recorded yet has taken so far.
        """
        if self._first_check is None:
            return None
        return (self._seconds + self._skipped + running_check) / max(self._clock() - self._first_check, 1e-9)

    @property
    def spent(self) -> Spent:
        """What the checks have cost so far, by no clock in particular: another process can resume from it."""
        elapsed = None if self._first_check is None else self._clock() - self._first_check
        return Spent(elapsed, self._seconds, self._skipped, self._evaluation)

    def resume(self, spent: Spent) -> None:
        """Continue where another budget stopped; the time in between does not count."""
        self._first_check = None if spent.elapsed is None else self._clock() - spent.elapsed
        self._seconds, self._skipped, self._evaluation = spent.seconds, spent.skipped, spent.evaluation

    def __getstate__(self) -> tuple[float | None, Clock, Spent]:
        return self._max_overhead, self._clock, self.spent

    def __setstate__(self, state: tuple[float | None, Clock, Spent]) -> None:
        self._max_overhead, self._clock, spent = state
        self.resume(spent)

    def record_check(self, seconds: float, evaluations: int) -> None:
        """Account for a check; the first one is free.

        Args:
            seconds: What it took.
            evaluations: How often it evaluated the loss.
        """
        self._evaluation = seconds / max(1, evaluations)
        if self._first_check is None:
            self._first_check = self._clock()
        else:
            self._seconds += seconds

    def record_skipped_step(self, seconds: float) -> None:
        """Account for a call without a check: a training of short steps makes many of them for each check.

        Args:
            seconds: What the call has measured of itself.
        """
        if self._first_check is not None:
            self._skipped += SKIPPED_CALL_FACTOR * seconds

    @property
    def affords_check(self) -> bool:
        """Whether a routine check fits into the budget."""
        if self._max_overhead is None or self._first_check is None:
            return True
        allowed = self._max_overhead * (self._clock() - self._first_check)
        # In a training of very short steps, calls without a check take more than all of it; checks go on all the same.
        spent = self._seconds + min(self._skipped, MOST_SKIPPED * allowed)
        return allowed - spent >= ROUTINE_EVALUATIONS * self._evaluation
