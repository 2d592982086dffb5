"""When to check, and how much a check may cost."""

import operator
import time
from collections.abc import Callable
from dataclasses import dataclass

from gradguard.arrays.validation import is_whole
from gradguard.training.ranks import Clock

Due = Callable[[int], bool]
WHOLE_CALL = 2.5  # times what a call of microseconds sees of itself: the way there and back is as long, and as cold
UNMOVED = 2  # evaluations of a routine check at the parameters as they are: one before all others, one after them


def due_steps(every_n_steps: int | Due, start_step: int) -> Due:
    """The steps at which a check is due, as a function.

    Raises:
        TypeError: `every_n_steps` is neither a whole number nor callable.
        ValueError: a number is out of its range.
    """
    if not is_whole(start_step) or start_step < 0:
        raise ValueError(f"start_step is {start_step!r}; expected a whole number of at least 0")
    if callable(every_n_steps):
        return _When(every_n_steps, start_step)
    if not is_whole(every_n_steps):
        raise TypeError(f"every_n_steps is {every_n_steps!r}; expected a whole number, or a callable from step to bool")
    if every_n_steps < 1:
        raise ValueError(f"every_n_steps is {every_n_steps!r}; expected at least 1")
    return _Every(every_n_steps, start_step)


# Classes, so that a guard can be pickled.


@dataclass(frozen=True, slots=True)
class _When:
    """Where the user's rule says so."""

    rule: Due
    start_step: int

    def __call__(self, step: int) -> bool:
        return step >= self.start_step and bool(self.rule(step))


@dataclass(frozen=True, slots=True)
class _Every:
    """After every `period` steps."""

    period: int
    start_step: int

    def __call__(self, step: int) -> bool:
        return step >= self.start_step and (step - self.start_step) % self.period == 0


def require_step(step: object, last: int | None) -> int:
    """The step as an int.

    Raises:
        TypeError: it is no whole number.
        ValueError: it lies before the last one.
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
class Plan:
    """What a routine check may do: how many tensors, and how many sampled entries of each."""

    tensors: int
    entries: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What checks have cost so far.

    Attributes:
        elapsed: Seconds since the first check; None before it.
        seconds: Spent in checks, and in passing by, after the first.
        evaluation: Seconds that an evaluation of the loss takes.
    """

    elapsed: float | None
    seconds: float
    evaluation: float


class Budget:
    """Keeps the share of wall time spent in checks, after the first, at or under a bound.

    Args:
        max_overhead: The share; None for no bound.
        clock: What it reads the time from.

    Raises:
        ValueError: it is no share.
    """

    def __init__(self, max_overhead: float | None, clock: Clock = time.perf_counter) -> None:
        if max_overhead is not None and not 0 < max_overhead <= 1:
            raise ValueError(f"max_overhead is {max_overhead!r}; expected a share above 0 and up to 1, or None")
        self._bound = max_overhead
        self._clock = clock
        self._since: float | None = None
        self._spent = 0.0
        self._evaluation = 0.0

    def share(self, under_way: float = 0.0) -> float | None:
        """The share of wall time since the first check that went into checks; None before.

        Args:
            under_way: Seconds of a check that is not over.
        """
        if self._since is None:
            return None
        return (self._spent + under_way) / max(self._clock() - self._since, 1e-9)

    @property
    def spent(self) -> Spent:
        """What checks have cost so far: it means the same in another process, whose clock is another one."""
        elapsed = None if self._since is None else self._clock() - self._since
        return Spent(elapsed, self._spent, self._evaluation)

    def resume(self, spent: Spent) -> None:
        """Go on where another budget stopped; the time between does not count."""
        self._since = None if spent.elapsed is None else self._clock() - spent.elapsed
        self._spent, self._evaluation = spent.seconds, spent.evaluation

    def __getstate__(self) -> tuple[float | None, Clock, Spent]:
        return self._bound, self._clock, self.spent

    def __setstate__(self, state: tuple[float | None, Clock, Spent]) -> None:
        self._bound, self._clock, spent = state
        self.resume(spent)

    def record(self, seconds: float, evaluations: int) -> None:
        """Account for a check; the first one is free."""
        self._evaluation = seconds / max(1, evaluations)
        if self._since is None:
            self._since = self._clock()
        else:
            self._spent += seconds

    def pass_by(self, seconds: float) -> None:
        """Account for a step without a check: of short steps, there are many for each check.

        Args:
            seconds: That the call has seen of itself.
        """
        if self._since is not None:
            self._spent += WHOLE_CALL * seconds

    def plan(self, tensors: int, entries: int) -> Plan | None:
        """The largest check that fits: all tensors and entries, fewer entries, fewer tensors, or none."""
        if self._bound is None or self._since is None:
            return Plan(tensors, entries)
        elapsed = self._clock() - self._since
        evaluations = (self._bound * elapsed - self._spent) / max(self._evaluation, 1e-9) - UNMOVED
        fitting = min(tensors, int(evaluations // 4))
        if fitting < 1:
            return None
        return Plan(fitting, min(entries, int(evaluations // (4 * fitting)) - 1))
