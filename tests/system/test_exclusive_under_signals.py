"""An exception from a signal, wherever it comes, leaves no guard locked."""

import dis
import functools
import itertools
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from guarded_sine import in_another_thread, sine
from signal_storm import StopError, Storm

from gradguard.perturbation import rollback
from gradguard.perturbation.rollback import run_with_cleanup
from gradguard.training import exclusive
from gradguard.training.exclusive import ExclusiveAccess

MODULES = {exclusive.__file__, rollback.__file__}


class Interrupter:
    """Raises at the n-th moment at which CPython may handle a signal in the code that lets go.

    That is at the beginning of a function, after a call, and where a loop goes back: a trace function sees them.
    """

    def __init__(self, moment: int = 0) -> None:
        self.moment = moment
        self.seen = 0
        self._places: dict[CodeType, set[int]] = {}

    def run(self, act: Callable[[], object]) -> None:
        """Do something that may be interrupted."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            act()
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        if event != "call" or frame.f_code.co_filename not in MODULES:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._moment()
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode" and frame.f_lasti in self._looked_at(frame.f_code):
            self._moment()
        return self._stepped

    def _looked_at(self, code: CodeType) -> set[int]:
        if code not in self._places:
            pairs = itertools.pairwise(dis.get_instructions(code))
            self._places[code] = {after.offset for this, after in pairs if this.opname.startswith("CALL")}
        return self._places[code]

    def _moment(self) -> None:
        self.seen += 1
        if self.seen == self.moment:
            raise StopError


def left_free(one: ExclusiveAccess) -> bool:
    """Whether another thread may come in."""
    return in_another_thread(lambda: one.run(lambda: None)) == []


def test_an_exception_from_a_signal_leaves_no_guard_locked() -> None:
    """At every moment of coming in and letting go."""
    lists, one = Interrupter(), ExclusiveAccess()
    lists.run(lambda: one.run(lambda: None))
    assert lists.seen > 20
    for moment in range(1, lists.seen + 1):
        one = ExclusiveAccess()
        with pytest.raises(StopError):
            Interrupter(moment).run(lambda one=one: one.run(lambda: None))  # type: ignore[misc]
        assert left_free(one), moment


def test_what_must_be_done_after_is_done_whatever_comes_out() -> None:
    """The first exception goes on, with those that came up while it was made up for behind it."""
    done: list[int] = []

    def act() -> None:
        done.append(len(done))
        if len(done) < 4:
            raise StopError(len(done))

    with pytest.raises(StopError) as raised:
        run_with_cleanup(lambda: 1 / 0, act)
    assert isinstance(raised.value.__context__, Exception)
    assert len(done) > 3
    assert run_with_cleanup(lambda: 7, lambda: None) == 7


def test_a_storm_of_signals_leaves_nothing_locked() -> None:
    """Up to six, 20 to 100 microseconds apart: the later ones come while it is let go of what the first interrupted."""
    storm, rng, one = Storm(), np.random.default_rng(0), ExclusiveAccess()

    def again_and_again() -> None:
        for _ in range(2000):
            one.run(lambda: None)

    with storm.handled():
        for _ in range(300):
            storm.run(again_and_again, int(rng.integers(1, 7)), rng.uniform(1e-4, 1e-3), rng.uniform(2e-5, 1e-4))
            assert left_free(one)
    assert storm.raised > 300


def test_real_signals_leave_a_guard_to_any_thread() -> None:
    """Timers whose handler raises at random moments of many checks; after each, another thread may check."""
    params, guard = sine(precision="native")
    grads, rng, storm = {"w": np.cos(params["w"])}, np.random.default_rng(0), Storm()
    guard.after_backward(0, grads)
    with storm.handled():
        for step in range(1, 200):
            check: Callable[[], object] = functools.partial(guard.after_backward, step, grads)
            storm.run(check, 1, rng.uniform(1e-4, 4e-3))
            assert in_another_thread(check) == []
    assert storm.raised > 20
