"""A guard belongs to one thread at a time, and to nobody once an exception has come out of it."""

import dis
import functools
import itertools
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
from signal_storm import StopError, Storm

from gradguard import Alert, GradGuard, Verdict
from gradguard.perturbation import rollback
from gradguard.perturbation.rollback import done_after
from gradguard.training import exclusive
from gradguard.training.exclusive import ExclusiveAccess

MODULES = {exclusive.__file__, rollback.__file__}


def sine(**options: Any) -> tuple[dict[str, Any], GradGuard]:
    """Parameters of a sine, and a guard of them."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    return params, GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, **options)


def in_another_thread(act: Callable[[], object]) -> list[BaseException]:
    """What an act raises there."""
    raised: list[BaseException] = []

    def caught() -> None:
        try:
            act()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=caught, name="other")
    thread.start()
    thread.join()
    return raised


# Within a check of its own.


@pytest.mark.parametrize("precision", ["native", "auto", "float64"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_loss_that_calls_its_own_guard_is_told_at_once(first: int, precision: str) -> None:
    """By what it did and what to do, at the first evaluation of the first check or of a later one; nothing changes."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    calls, step = [0], 0

    def loss() -> Any:
        calls[0] += 1
        if step >= first:
            guard.after_backward(step, {"w": np.cos(params["w"])})
        return np.sin(params["w"]).sum()

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision=precision)
    for _ in range(first):
        guard.after_backward(step, {"w": np.cos(params["w"])})
        step += 1
    before, calls[0] = params["w"].tobytes(), 0
    with pytest.raises(RuntimeError, match=r"within a check of its own, most likely by the loss.*loss that only eval"):
        guard.after_backward(step, {"w": np.cos(params["w"])})
    assert calls == [1]
    assert params["w"].tobytes() == before
    assert len(guard.history) == first
    first = step + 1  # the loss is mended
    report = guard.after_backward(step, {"w": np.cos(params["w"])})
    assert report is not None
    assert report.verdict is Verdict.ok


def test_a_state_cannot_be_loaded_within_a_check() -> None:
    """The check would go on with what is no longer there; what only reads or ends may be called, as by a signal."""
    params, guard = sine()
    state = guard.state_dict()

    def loss() -> Any:
        guard.state_dict()
        guard.load_state_dict(state)

    with pytest.raises(RuntimeError, match="within a check of its own"):
        guard.after_backward(0, {"w": np.cos(params["w"])}, loss)
    guard.load_state_dict(state)
    guard.after_backward(0, {"w": np.cos(params["w"])})
    assert len(guard.history) == 1


def test_whoever_is_told_of_an_alert_may_call_the_guard() -> None:
    """The check is over by then: to look once more, to save the state or to set the training back."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    told: list[Alert] = []

    def tell(alert: Alert) -> None:
        told.append(alert)
        state = guard.state_dict()
        guard.after_backward(alert.step, {"w": 3 * np.cos(params["w"])})
        guard.load_state_dict(state)

    guard = GradGuard(params, lambda: np.sin(params["w"]).sum(), every_n_steps=1, max_overhead=None, on_alert=tell)
    guard.after_backward(0, {"w": 3 * np.cos(params["w"])})
    assert [alert.verdict for alert in told] == [Verdict.scale]
    assert [row.step for row in guard.history] == [0, 0]


# Other threads.


@pytest.mark.parametrize("name", ["after_backward", "state_dict", "load_state_dict", "close"])
def test_all_that_uses_a_guard_is_refused_to_another_thread_during_a_check(name: str) -> None:
    """A thread that saves checkpoints, or one that ends the run, would find a half-made check."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    refused: list[BaseException] = []

    def loss() -> Any:
        if not refused:
            refused.extend(in_another_thread(acts[name]))
        return np.sin(params["w"]).sum()

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    state = guard.state_dict()
    grads = {"w": np.cos(params["w"])}
    acts: dict[str, Callable[[], object]] = {
        "after_backward": lambda: guard.after_backward(0, grads),
        "state_dict": guard.state_dict,
        "load_state_dict": lambda: guard.load_state_dict(state),
        "close": guard.close,
    }
    report = guard.after_backward(0, grads)
    assert report is not None
    assert report.verdict is Verdict.ok
    (error,) = refused
    assert isinstance(error, RuntimeError)
    assert "the thread other calls a guard that the thread MainThread is using" in str(error)
    assert in_another_thread(acts[name]) == []


# Signals.


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
        done_after(lambda: 1 / 0, act)
    assert isinstance(raised.value.__context__, Exception)
    assert len(done) > 3
    assert done_after(lambda: 7, lambda: None) == 7


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
