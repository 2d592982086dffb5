import contextlib
import dis
import functools
import gc
import itertools
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard, JSONLWriter, Report, Verdict, check, snapshot_attributes, snapshot_rng, sweep
from gradguard.outlets import OURS
from gradguard.parameters import ArrayPlace, Moved
from gradguard.snapshots import Snapshot, together
from gradguard.undisturbed import Moves
from gradguard.writers import read_jsonl

FORMS = ["native", "float64 by swap", "float64 by swap, OrderedDict"]
PLACES_IN = (
    "undisturbed",
    "parameters",
    "loss",
    "signals",
    "snapshots",
)  # where something is moved, swapped or put back
MACHINERY = ("contextlib.py",)


class StopError(Exception):
    """What a signal handler raises."""


class Model:
    """A small model with everything that an evaluation of its loss disturbs."""

    def __init__(self, form: str) -> None:
        mapping = OrderedDict if "OrderedDict" in form else dict
        self.params: Any = mapping(w=np.array([0.3, -0.7], np.float32), v=np.array([[0.2, 0.5]], np.float32))
        self.objects = dict(self.params)
        self.grads = {name: np.empty_like(param) for name, param in self.params.items()}
        self.state = SimpleNamespace(hidden=np.zeros(2), calls=0, rng=np.random.default_rng(3))
        self.form = form
        self.fuse = 0
        np.random.seed(7)  # noqa: NPY002 - users have it
        random.seed(7)
        self.backward()

    def loss(self) -> Any:
        """It also writes the gradients, and draws from every stream there is; it raises when its fuse is burnt down."""
        self.state.calls += 1
        self.state.hidden += 1
        mask = 1 + self.state.rng.random() + np.random.random() + random.random()  # noqa: NPY002, S311 - the point
        mask *= self.state.hidden[0]
        w, v = self.params["w"], self.params["v"]
        for name, gradient in (("w", np.cos(w) * v[0]), ("v", np.sin(w)[None])):
            self.grads[name][...] = gradient * np.float32(mask)
        self.fuse -= 1
        if self.fuse == 0:
            raise StopError
        return (np.sin(w) * v[0]).sum() * w.dtype.type(mask)

    def backward(self) -> None:
        """The gradients of the coming check, with the state put back."""
        restore = self.snapshot()
        self.loss()
        restore()

    def snapshot(self) -> Callable[[], None]:
        """What puts all of it back."""
        return together(self.snapshots())()

    def snapshots(self) -> list[Snapshot]:
        """Of all that an evaluation disturbs."""
        state = snapshot_attributes(self.state, "hidden", "calls", "rng")
        return [state, snapshot_rng(np.random), snapshot_rng(random)]

    def guard(self) -> GradGuard:
        """A guard that checks at every step, in the precision of the form."""
        precision = "float64" if "float64" in self.form else "native"
        options: Any = {"every_n_steps": 1, "max_overhead": None, "precision": precision, "snapshot": self.snapshots()}
        return GradGuard(self.params, self.loss, **options)

    def everything(self) -> list[object]:
        """Every bit that training goes on with."""
        assert list(self.params) == list(self.objects)
        assert all(self.params[name] is array for name, array in self.objects.items())
        arrays = [*self.params.values(), *self.grads.values(), self.state.hidden]
        streams = [self.state.rng.bit_generator.state, np.random.get_state()[1:], random.getstate()]  # noqa: NPY002
        return [*(array.tobytes() for array in arrays), self.state.calls, *map(repr, streams)]


# A signal is handled where CPython looks for one: at the beginning of a function, after a call, and where a loop goes
# back. A trace function sees all these places, and can raise there what a handler would.


class Interrupter:
    """Raises, once, at the n-th visit of one place; without a place it lists all of them.

    Args:
        place: Where.
        visit: n.
        armed: Whether visits count yet.
    """

    def __init__(
        self, place: tuple[CodeType, int] | None = None, visit: int = 1, armed: Callable[[], bool] = lambda: True
    ) -> None:
        self.place = place
        self.visit = visit
        self.armed = armed
        self.visits: dict[tuple[CodeType, int], int] = {}
        self._after_call: dict[CodeType, set[int]] = {}

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """While it may strike."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        ours = name.startswith(OURS) and name.removeprefix(OURS).removesuffix(".py") in PLACES_IN
        if event != "call" or not (ours or name.endswith(MACHINERY)):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._visit(frame.f_code, -1)
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "opcode" and frame.f_lasti in self._looked_at(frame.f_code):
            self._visit(frame.f_code, frame.f_lasti)
        return self._stepped

    def _looked_at(self, code: CodeType) -> set[int]:
        """The offsets before which CPython handles signals."""
        if code not in self._after_call:
            instructions = list(dis.get_instructions(code))
            after = {
                following.offset
                for this, following in itertools.pairwise(instructions)
                if this.opname.startswith("CALL")
            }
            back = {int(this.argval) for this in instructions if this.opname.startswith("JUMP_BACKWARD")}
            self._after_call[code] = after | back
        return self._after_call[code]

    def _visit(self, code: CodeType, offset: int) -> None:
        if not self.armed():
            return
        place = (code, offset)
        self.visits[place] = self.visits.get(place, 0) + 1
        if place == self.place and self.visits[place] == self.visit:
            raise StopError


def strike(model: Model, act: Callable[[], object], interrupter: Interrupter) -> bool:
    """Whether the act was interrupted; either way nothing that training goes on with may have changed."""
    before = model.everything()
    try:
        with interrupter.active():
            act()
    except StopError:  # here, while its traceback still holds every frame: nothing was collected that would put back
        assert model.everything() == before, (interrupter.place, interrupter.visit)
        return True
    assert model.everything() == before
    return False


def strike_everywhere(form: str, prepare: Callable[[Model], Callable[[], object]], most: int, every: int = 1) -> int:
    """Interrupt an act where its functions begin, and at so many other places; how often that was."""
    lists, model = Interrupter(), Model(form)
    assert not strike(model, prepare(model), lists)
    entries = [place for place in lists.visits if place[1] < 0]
    others = [place for place in lists.visits if place[1] >= 0]
    struck = 0
    for place in (entries + others[:: -(-len(others) // most)])[::every]:
        model = Model(form)
        visit = random.randint(1, lists.visits[place])  # noqa: S311 - no secret
        struck += strike(model, prepare(model), Interrupter(place, visit))
    return struck


def routine(model: Model, state: dict[str, Any]) -> Callable[[], object]:
    """A routine check, by a guard that has made its first one in another life."""
    guard = model.guard()
    guard.load_state_dict(state)
    return lambda: guard.after_backward(1, model.grads)


@pytest.mark.parametrize("form", FORMS)
def test_an_interrupt_anywhere_in_a_routine_check_leaves_no_trace(form: str) -> None:
    """Wherever a signal's exception may come up in gradguard or in contextlib: everything is as before the check.

    Parameters, the objects in their mapping, gradients, the user's state and all random streams, at the moment when
    the exception arrives.
    """
    model = Model(form)
    guard = model.guard()
    report = guard.after_backward(0, model.grads)
    assert report is not None
    assert report.precision == ("float64" if "float64" in form else "native")
    state = guard.state_dict()
    assert strike_everywhere(form, lambda model: routine(model, state), 40) > 40


@pytest.mark.parametrize(("check", "form"), [(check, "float64 by swap"), (sweep, "native")])
def test_an_interrupt_anywhere_in_a_check_without_a_guard_leaves_no_trace(check: Any, form: str) -> None:
    """`check` and `sweep` put back what they move in the same way."""
    options = {"precision": form.partition(" ")[0], "entries": 1} | ({"steps": [1e-3, 1e-2]} if check is sweep else {})

    def prepare(model: Model) -> Callable[[], object]:
        return lambda: check(model.params, model.grads, model.loss, snapshot=model.snapshots(), **options)

    assert strike_everywhere(form, prepare, 10, every=4) > 5


def strike_again_everywhere(form: str, prepare: Callable[[Model], Callable[[], object]], fuse: int) -> int:
    """Let the loss raise, and interrupt what puts back at every place and visit; how often that was."""

    def burning() -> tuple[Model, Callable[[], object]]:
        model = Model(form)
        act = prepare(model)
        model.fuse = fuse
        return model, act

    model, act = burning()
    lists = Interrupter(armed=lambda: model.fuse <= 0)
    assert strike(model, act, lists)
    struck = 0
    for place, visits in lists.visits.items():
        for visit in range(1, visits + 1):
            model, act = burning()
            struck += strike(model, act, Interrupter(place, visit, lambda model=model: model.fuse <= 0))  # type: ignore[misc]
    return struck


@pytest.mark.parametrize("form", FORMS)
def test_a_second_interrupt_anywhere_in_what_puts_back_leaves_no_trace(form: str) -> None:
    """The first comes out of the loss in the middle of a probe, the second wherever a signal may come up after that."""
    guard = Model(form).guard()
    guard.after_backward(0, Model(form).grads)
    state = guard.state_dict()
    assert strike_again_everywhere(form, lambda model: routine(model, state), 3) > 100


def test_a_second_interrupt_in_a_check_without_a_guard_leaves_no_trace() -> None:
    """While the noise is heard, too, where a tensor is moved and put back for many evaluations together."""

    def prepare(model: Model) -> Callable[[], object]:
        return lambda: check(model.params, model.grads, model.loss, snapshot=model.snapshots(), precision="native")

    assert strike_again_everywhere("native", prepare, 5) > 100


def test_what_is_left_late_puts_nothing_back() -> None:
    """A `with` whose end was interrupted is perhaps left when its frame is collected: training has gone on by then."""
    array, moves = np.ones(2), Moves()
    move = moves.opened(Moved(ArrayPlace(array, array.copy())))
    move.__enter__().put(np.zeros(2))
    moves.put_back()
    assert array.tolist() == [1, 1]
    array += 1
    move.__exit__(None, None, None)
    assert array.tolist() == [2, 2]


def test_what_puts_back_fails_by_itself_and_all_else_is_put_back() -> None:
    """An error of the user's own snapshot comes out, after some calls of it, and costs nothing else."""
    model, calls = Model("native"), [0]

    def snapshot() -> Callable[[], None]:
        def restore() -> None:
            calls[0] += 1
            if calls[0] > 3:
                raise StopError

        return restore

    everything = model.everything()
    guard = GradGuard(model.params, model.loss, precision="native", snapshot=[*model.snapshots(), snapshot])
    with pytest.raises(StopError):
        guard.after_backward(0, model.grads)
    assert model.everything() == everything
    assert calls[0] < 20


class Storm:
    """Signals in quick succession, whose handler raises."""

    def __init__(self) -> None:
        self.left = self.raised = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signals call it
        """Handle one."""
        if self.left:
            self.left -= 1
            self.raised += 1
            raise StopError

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """While they are handled; what they raise where an object is let go, Python itself ignores."""
        before, hook = signal.signal(signal.SIGALRM, self), sys.unraisablehook
        sys.unraisablehook = lambda _: None  # pytest's own would be interrupted in its turn, and fail
        try:
            yield
        finally:
            sys.unraisablehook = hook
            signal.signal(signal.SIGALRM, before)

    def during(self, act: Callable[[], object], count: int, after: float, every: float = 0.0) -> None:
        """So many signals while something is done; those that come late are forgotten."""
        try:
            self.left = count
            signal.setitimer(signal.ITIMER_REAL, after, every)
            act()
        except StopError:
            pass
        finally:
            self.left = 0
            signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.parametrize("form", FORMS)
def test_real_signals_at_any_time_leave_no_trace(form: str) -> None:
    """Timers whose handler raises, at random times of the first check and of later ones; and the guard can go on."""
    model, rng, storm = Model(form), np.random.default_rng(0), Storm()
    guard = model.guard()
    everything = model.everything()
    began = time.perf_counter()
    guard.after_backward(0, model.grads)
    seconds = time.perf_counter() - began
    with storm.handled():
        for step in range(1, 60):
            if step % 20 == 0:
                guard = model.guard()
            after = rng.uniform(1e-4, seconds if not guard.history else seconds / 30)
            storm.during(lambda guard=guard, step=step: guard.after_backward(step, model.grads), 1, after)  # type: ignore[misc]
            assert model.everything() == everything
    assert storm.raised >= 10
    report = model.guard().after_backward(0, model.grads)
    assert report is not None
    assert report.verdict is Verdict.ok


@pytest.mark.parametrize("form", FORMS)
def test_a_storm_of_signals_leaves_no_trace(form: str) -> None:
    """Up to six, 50 to 500 microseconds apart: the later ones come while it is put back what the first interrupted."""
    model, rng, storm = Model(form), np.random.default_rng(1), Storm()
    guard = model.guard()
    guard.after_backward(0, model.grads)
    everything = model.everything()
    with storm.handled():
        for step in range(1, 300):
            count, after, every = int(rng.integers(2, 7)), rng.uniform(1e-4, 5e-3), rng.uniform(5e-5, 5e-4)
            storm.during(lambda step=step: guard.after_backward(step, model.grads), count, after, every)  # type: ignore[misc]
            assert model.everything() == everything
    assert storm.raised > 300


@pytest.mark.parametrize("kind", ["function", "method", "partial", "object", "once"])
def test_what_a_signals_handler_raises_in_a_writer_is_no_failure_of_the_writer(kind: str, tmp_path: Path) -> None:
    """It goes on to the user, however the handler is made; the next check is on record again."""

    def handler(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signals call it
        raise StopError

    class Handler:
        def __call__(self, number: int, frame: FrameType | None) -> None:
            handler(number, frame)

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        handler(number, frame)

    class Slow(JSONLWriter):
        def write(self, report: Report) -> None:
            signal.raise_signal(signal.SIGALRM)
            super().write(report)

    kinds: dict[str, Any] = {"function": handler, "method": Handler().__call__, "once": once, "object": Handler()}
    model, log = Model("native"), tmp_path / "log.jsonl"
    options: Any = {"every_n_steps": 1, "max_overhead": None, "snapshot": model.snapshots()}
    guard = GradGuard(model.params, model.loss, writers=[Slow(log)], **options)
    everything = model.everything()
    before = signal.signal(signal.SIGALRM, kinds.get(kind, functools.partial(handler)))
    try:
        with pytest.raises(StopError):
            guard.after_backward(0, model.grads)
        assert model.everything() == everything
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        guard.after_backward(1, model.grads)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert [report["step"] for report in read_jsonl(log)] == [1]


def test_ctrl_c_and_sigterm_arrive_with_the_parameters_in_place(tmp_path: Path) -> None:
    """A process that saves its parameters when it is stopped in the middle of a check saves the right ones."""
    script = tmp_path / "train.py"
    script.write_text(STOPPED)
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"checking\n"
            process.send_signal(number)
            assert process.stdout.read() == {signal.SIGINT: b"KeyboardInterrupt", signal.SIGTERM: b"SystemExit"}[number]
        assert np.load(tmp_path / "saved.npy").tolist() == np.float32([0.3, 0.7, 1.1]).tolist()


STOPPED = """
import signal, sys, time
import numpy as np
from gradguard import GradGuard

params = {"w": np.array([0.3, 0.7, 1.1], np.float32)}
calls = 0

def loss():
    global calls
    calls += 1
    if params["w"].tolist() != np.float32([0.3, 0.7, 1.1]).tolist():
        if calls > 20:
            print("checking", flush=True)
            time.sleep(60)
    return np.sin(params["w"]).sum()

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background may have ignored
guard = GradGuard(params, loss, every_n_steps=1, precision="native")
try:
    guard.after_backward(0, {"w": np.cos(params["w"])})
except BaseException as error:
    np.save("saved.npy", params["w"])
    print(type(error).__name__, end="", flush=True)
"""


def test_an_exception_that_is_kept_puts_nothing_back_later() -> None:
    """An interactive session keeps the last traceback; when it goes, training has long moved the parameters on."""
    model, kept = Model("native"), list[BaseException]()
    lists = Interrupter()
    guard = model.guard()
    guard.after_backward(0, model.grads)
    state = guard.state_dict()
    assert not strike(model, routine(model, state), lists)
    entering = [place for place in lists.visits if place[0].co_name in ("__enter__", "moving", "_put_back")]
    for place in entering:
        act = routine(model, state)
        try:
            with Interrupter(place).active():
                act()
        except StopError as error:
            kept.append(error)
        model.params["w"] += 1
        expected = model.everything()
        kept.clear()
        gc.collect()
        assert model.everything() == expected
        model.params["w"] -= 1
        model.backward()
