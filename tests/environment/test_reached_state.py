"""What a loss writes to anything that the guard can see is back after a check: the same objects, the same bits."""

import functools
import queue
import random
import signal
import threading
from collections import Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from recorder import Recorder

from gradguard import GradGuard, batched, check, sweep
from gradguard.environment import ReachedState
from gradguard.environment.reach import Limits

Array = NDArray[Any]
Params = dict[str, Array]
hidden_of_module: Any = None
seen_by_module: list[Any] = []


def fresh() -> Params:
    """A parameter in float32."""
    return {"w": np.array([0.3, -0.7, 1.1], np.float32)}


def value_of(params: Params) -> Any:
    """The loss that all share, and the state that it leaves."""
    return np.sin(params["w"]).sum()


def grads_of(params: Params) -> Params:
    """Its gradient."""
    return {"w": np.cos(params["w"])}


class Model:
    """A model that leaves its state in one of many ways."""

    of_class: Any = None
    counts: ClassVar = Counter[str]()

    def __init__(self) -> None:
        self.params = fresh()
        self.last = np.zeros(3, np.float32)
        self.inner = SimpleNamespace(mean=np.zeros(3), calls=0)
        self.seen: list[Any] = [1, 2]
        self.latest: deque[Any] = deque([1, 2, 3], maxlen=3)
        self.table: dict[Any, Any] = {"a": 1, "b": np.ones(2)}
        self.ordered = OrderedDict(a=1, b=2, c=3)
        self.lists: defaultdict[str, list[Any]] = defaultdict(list, a=[1])
        self.user: UserDict[str, Any] = UserDict(a=[1])
        self.members = {1, 2}
        self.bytes = bytearray(b"abc")
        self.rng = np.random.default_rng(3)
        self.old = np.random.RandomState(3)
        self.dice = random.Random(3)  # noqa: S311 - no secret
        self.slotted = Slotted(np.zeros(3))
        self.pair = Pair(np.zeros(2), [0])
        self.batch = np.arange(12.0).reshape(3, 4)
        self.fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4))[:, ::2]
        self.objects = np.empty(2, dtype=object)
        self.objects[:] = [[1], [2]]
        self.grads = grads_of(self.params)
        self.me = self

    @functools.cached_property
    def lazily(self) -> list[int]:
        """Made when it is first asked for."""
        return [1]


@dataclass(slots=True)
class Slotted:
    """Attributes outside a `__dict__`."""

    mean: Array
    calls: int = 0
    names: list[str] = field(default_factory=list)


class Pair(NamedTuple):
    """A tuple of things that can be written to."""

    array: Array
    items: list[int]


class Raised(Model):
    """A subclass."""


def rebinds(model: Model) -> None:
    """An attribute is bound to a new array."""
    model.last = np.tanh(model.params["w"])


def writes(model: Model) -> None:
    """An array is written to."""
    model.last += np.tanh(model.params["w"])


def writes_deeply(model: Model) -> None:
    """Attributes of an object of the model."""
    model.inner.mean[...] += 1
    model.inner.calls += 1
    model.inner.new = 1


def deletes(model: Model) -> None:
    """An attribute is deleted."""
    if hasattr(model, "last"):
        del model.last


def appends(model: Model) -> None:
    """Containers grow, and lose."""
    model.seen.append(model.params["w"].copy())
    model.latest.append(0)
    model.lists["b"].append(1)
    model.lists["a"].append(1)
    model.user["a"].append(2)
    model.user["b"] = 3
    model.members.add(len(model.members) + 1)
    model.members.discard(1)
    model.bytes += b"d"


def reorders(model: Model) -> None:
    """Containers change their order."""
    model.ordered.move_to_end("a")
    model.table.pop("a", None)
    model.table["a"] = 2
    model.seen.reverse()


def binds_items(model: Model) -> None:
    """Items are replaced."""
    model.seen[0] = 7
    model.table["b"] = np.zeros(2)
    model.objects[0] = model.objects[1]
    model.objects[1].append(3)


def draws(model: Model) -> None:
    """Random streams move on."""
    model.rng.random()
    model.old.rand()
    model.dice.random()


def writes_slots(model: Model) -> None:
    """Attributes outside a `__dict__`."""
    model.slotted.mean = np.ones(3)
    model.slotted.calls += 1
    model.slotted.names.append("a")


def writes_in_tuples(model: Model) -> None:
    """What a tuple holds is written to."""
    model.pair.array[0] += 1
    model.pair.items.append(1)


def writes_to_the_class(model: Model) -> None:
    """Attributes of the class."""
    type(model).of_class = np.ones(2)
    type(model).counts["a"] += 1
    type(model).new_of_class = 1  # type: ignore[attr-defined]  # the point


def normalizes_its_batch(model: Model) -> None:
    """The batch is normalized in place."""
    for batch in (model.batch, model.fortran):
        batch -= batch.mean()
        batch /= batch.std()


def fills_caches(model: Model) -> None:
    """A cached property is made."""
    assert model.lazily


def binds_a_global(_: Model) -> None:
    """A variable of the module."""
    global hidden_of_module
    hidden_of_module = np.ones(2)
    seen_by_module.append(1)


def writes_gradients(model: Model) -> None:
    """The backward pass is run too."""
    model.grads["w"] = np.cos(model.params["w"])


def binds_parameters(model: Model) -> None:
    """The parameters are bound anew."""
    model.params["w"] = model.params["w"] * 1


WRITES: list[Callable[[Model], None]] = [
    rebinds, writes, writes_deeply, deletes, appends, reorders, binds_items, draws, writes_slots, writes_in_tuples,
    writes_to_the_class, normalizes_its_batch, fills_caches, binds_a_global, writes_gradients, binds_parameters,
]  # fmt: skip


def fingerprint(found: Any, seen: dict[int, int] | None = None) -> Any:
    """The identity and the content of an object and all in it."""
    seen = {} if seen is None else seen
    if id(found) in seen:
        return seen[id(found)]
    seen[id(found)] = len(seen)
    if isinstance(found, np.ndarray) and found.dtype != object:
        return id(found), found.dtype, found.tobytes()
    if isinstance(found, np.random.Generator):
        return id(found), str(found.bit_generator.state)
    if isinstance(found, np.random.RandomState):
        return id(found), str(found.get_state(legacy=False))
    if isinstance(found, random.Random):
        return id(found), found.getstate()
    if isinstance(found, dict):
        return id(found), [(name, fingerprint(value, seen)) for name, value in found.items()]
    if isinstance(found, list | tuple | deque | np.ndarray):
        return id(found), [fingerprint(value, seen) for value in found]
    if isinstance(found, set | bytearray):
        return id(found), sorted(found)
    if hasattr(found, "__slots__") and hasattr(found, "calls"):
        return id(found), [fingerprint(getattr(found, name), seen) for name in found.__slots__]
    return id(found), fingerprint(vars(found), seen) if hasattr(found, "__dict__") else found


def everything(model: Model) -> Any:
    """All that the losses above can write to."""
    names = [item for kind in type(model).__mro__[:-1] for item in vars(kind).items()]
    of_class = [value for name, value in names if not name.startswith("__")]
    return [fingerprint(part) for part in (model, *of_class, hidden_of_module, seen_by_module)]


def by_check(model: Model, loss: Callable[[], object]) -> None:
    """One check."""
    check(model.params, grads_of(model.params), loss)


def by_guard(model: Model, loss: Callable[[], object]) -> None:
    """A first check and two later ones, each with a new closure as loops make them."""
    guard = GradGuard(model.params, every_n_steps=1, max_overhead=None)
    for step in range(3):
        guard.after_backward(step, grads_of(model.params), loss=lambda: loss())


def by_sweep(model: Model, loss: Callable[[], object]) -> None:
    """A sweep."""
    sweep(model.params, grads_of(model.params), loss, entries=1)


def natively(model: Model, loss: Callable[[], object]) -> None:
    """One check in native precision."""
    check(model.params, grads_of(model.params), loss, precision="native")


CALLS = [by_check, by_guard, by_sweep, natively]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("write", WRITES)
def test_what_a_loss_writes_is_back_after_a_check(write: Callable[[Model], None], call: Any) -> None:
    """The same objects with the same bits in the same order."""
    model = Raised()

    def loss() -> Any:
        write(model)
        return value_of(model.params)

    before = everything(model)
    call(model, loss)
    assert everything(model) == before


@given(
    chosen=st.lists(st.sampled_from(WRITES), min_size=1, max_size=6),
    fails_at=st.integers(1, 60),
    error=st.sampled_from([ValueError, KeyboardInterrupt]),
)
@settings(max_examples=25, deadline=None)
def test_it_is_back_also_where_the_loss_raises(chosen: list[Any], fails_at: int, error: type[BaseException]) -> None:
    """At any evaluation, and whatever it wrote before."""
    model, calls = Model(), iter(range(1, 10**6))

    def loss() -> Any:
        for write in chosen:
            write(model)
        if next(calls) >= fails_at:
            raise error
        return value_of(model.params)

    before = everything(model)
    with suppress(error):
        check(model.params, grads_of(model.params), loss)
    assert everything(model) == before


class Caller:
    """A callable object."""

    def __init__(self) -> None:
        self.params = fresh()
        self.seen: list[int] = []

    def __call__(self) -> Any:
        """The loss."""
        self.seen.append(1)
        return value_of(self.params)

    def loss(self, *_: Any) -> Any:
        """The same as a method."""
        return self()


def nonlocal_variable() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """A variable of the enclosing function."""
    params, calls = fresh(), 0

    def loss() -> Any:
        nonlocal calls
        calls += 1
        return value_of(params)

    return params, loss, lambda: calls


def default_argument() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """A default that is written to."""
    params = fresh()

    def loss(seen: list[int] = [], *, more: list[int] = []) -> Any:  # noqa: B006 - the point
        seen.append(1)
        more.append(1)
        return value_of(params)

    return params, loss, lambda: (list(loss.__defaults__[0]), list(loss.__kwdefaults__["more"]))  # type: ignore[index]


def partial_argument() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """Arguments of a `functools.partial`."""
    params, seen, more = fresh(), [0], [0]

    def loss(first: list[int], second: list[int]) -> Any:
        first.append(1)
        second.append(1)
        return value_of(params)

    return params, functools.partial(loss, seen, second=more), lambda: (list(seen), list(more))


def bound_method() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """The owner of a method."""
    caller = Caller()
    return caller.params, caller.loss, lambda: list(caller.seen)


def callable_object() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """An object that is called."""
    caller = Caller()
    return caller.params, caller, lambda: list(caller.seen)


def function_attribute() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """An attribute of the function itself."""
    params = fresh()

    def loss() -> Any:
        loss.calls = getattr(loss, "calls", 0) + 1  # type: ignore[attr-defined]  # the point
        return value_of(params)

    return params, loss, lambda: dict(vars(loss))


def function_within() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """A variable of a decorator around a function that the loss calls."""
    params, seen = fresh(), [0]

    def logged(function: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(function)
        def call() -> Any:
            seen.append(1)
            return function()

        return call

    @logged
    def inner() -> Any:
        return value_of(params)

    return params, lambda: inner(), lambda: list(seen)


def batched_loss() -> tuple[Params, Callable[..., Any], Callable[[], Any]]:
    """A loss that is marked as batched."""
    params, seen = fresh(), [0]

    def loss(moved: Params) -> Any:
        seen.append(1)
        return np.sin(moved["w"]).sum(axis=-1)

    return params, batched(loss), lambda: list(seen)


FORMS = [
    batched_loss,
    nonlocal_variable, default_argument, partial_argument, bound_method, callable_object, function_attribute,
    function_within,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_whatever_form_a_loss_has_its_state_is_found(form: Callable[[], Any]) -> None:
    """Closures, defaults, partial arguments, owners of methods, callable objects."""
    params, loss, state = form()
    before = state()
    check(params, grads_of(params), loss)
    assert state() == before
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    for step in range(3):
        guard.after_backward(step, grads_of(params))
    assert state() == before


def test_a_class_without_a_name_of_a_module_is_passed_by() -> None:
    """The classes of compiled functions have a descriptor in its place."""
    meta = type("Meta", (type,), {"__module__": property(lambda _: "user")})
    params, seen, owner = fresh(), [0], meta("Owner", (), {})

    def loss() -> Any:
        seen.append(owner is None)
        return value_of(params)

    check(params, grads_of(params), loss)
    assert seen == [0]


def test_a_place_that_is_far_and_large_is_found_at_the_first_check_and_held_later() -> None:
    """Later checks look at what is near and small, and at the places to which the loss has written."""
    far: Any = np.zeros(100_000)
    for _ in range(30):
        far = [far, *([index] for index in range(30))]
    params = fresh()

    def loss() -> Any:
        deep = far
        while isinstance(deep, list):
            deep = deep[0]
        deep += 1
        return value_of(params)

    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    deep = far
    while isinstance(deep, list):
        deep = deep[0]
    for step in range(3):
        guard.after_backward(step, grads_of(params))
        assert not deep.any()


def test_an_array_that_is_too_large_to_be_copied_is_refused_where_the_loss_writes_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its name, with the remedy; with the remedy it is checked."""
    limits = Limits(100, 100, array_bytes=10, own_bytes=10, copied_bytes=10**6, checked_bytes=10**6)
    monkeypatch.setattr("gradguard.environment.state.FIRST", limits)
    params, cache = fresh(), np.zeros(100)

    def loss() -> Any:
        cache[0] += 1
        return value_of(params)

    with pytest.raises(ValueError, match=r"writes to cache; (.|\n)*snapshot="):
        check(params, grads_of(params), loss)

    def snapshot() -> Callable[[], None]:
        kept = cache.copy()
        return lambda: cache.__setitem__(..., kept)

    assert check(params, grads_of(params), loss, snapshot=snapshot).verdict == "ok"


def test_a_loss_that_writes_to_a_large_parameter_is_refused() -> None:
    """A check keeps one copy of what it moves, and no further one of what the loss writes to."""
    weights = np.full(2**18 + 1, 0.5, np.float32)

    def loss() -> float:
        weights[0] += 1
        return float(np.sin(weights[1:].astype(np.float64)).sum())

    with pytest.raises(ValueError, match="writes to weights"):
        check({"w": weights}, {"w": np.cos(weights)}, loss, precision="native")


def test_what_other_threads_write_meanwhile_stays() -> None:
    """A buffer that a thread fills is not the loss's to put back, where its owner shows that threads share it."""
    params = fresh()

    class Prefetch:
        def __init__(self) -> None:
            self.lock, self.batches = threading.Lock(), [0]

    prefetch, requests, answers = Prefetch(), queue.SimpleQueue[bool](), queue.SimpleQueue[bool]()

    def fill() -> None:
        while requests.get():
            with prefetch.lock:
                prefetch.batches.append(1)
            answers.put(True)

    def loss() -> Any:
        requests.put(True)
        answers.get()
        return value_of(params) + 0 * prefetch.batches[0]

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        report = check(params, grads_of(params), loss)
    finally:
        requests.put(False)
        thread.join()
    assert len(prefetch.batches) == 1 + report.evaluations


def test_a_gradient_written_once_is_put_back_beside_other_threads() -> None:
    """A loss that writes to a gradient at one evaluation only does not pass for another thread."""
    params, calls, done = fresh(), Recorder(), threading.Event()
    grads = grads_of(params)
    before = {name: grad.tobytes() for name, grad in grads.items()}

    def loss() -> Any:
        calls.append()
        if len(calls) == 30:
            grads["w"][...] = 7
        return value_of(params)

    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        GradGuard(params, loss, max_overhead=None).after_backward(0, grads)
    finally:
        done.set()
        thread.join()
    assert len(calls) > 30
    assert {name: grad.tobytes() for name, grad in grads.items()} == before


@pytest.mark.parametrize("call", [by_check, by_guard])
def test_a_flag_that_a_signal_handler_sets_stays(call: Any) -> None:
    """As a trainer is told to stop: it is not the loss's doing, whatever else the loss writes to the same object."""
    trainer, calls = Model(), Recorder()
    trainer.stop, trainer.requests = False, []  # type: ignore[attr-defined]  # as trainers have them

    def handler(*_: Any) -> None:
        trainer.stop = "please"  # type: ignore[attr-defined]
        trainer.asked = 1  # type: ignore[attr-defined]
        trainer.requests.append(1)  # type: ignore[attr-defined]

    def loss() -> Any:
        calls.append()
        trainer.last = np.tanh(trainer.params["w"])
        trainer.seen.append(1)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGUSR1)
        return value_of(trainer.params)

    before, last = signal.signal(signal.SIGUSR1, handler), trainer.last
    try:
        call(trainer, loss)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (trainer.stop, trainer.asked, trainer.requests) == ("please", 1, [1])  # type: ignore[attr-defined]
    assert trainer.last is last
    assert trainer.seen == [1, 2]


def test_what_a_thread_writes_to_a_bare_deque_stays() -> None:
    """Nothing shows that it is shared, but one more evaluation does not change it again."""
    params, buffer, calls = fresh(), deque([0]), Recorder()
    requests, answers = queue.SimpleQueue[bool](), queue.SimpleQueue[bool]()

    def fill() -> None:
        while requests.get():
            buffer.append(1)
            answers.put(True)

    def loss() -> Any:
        calls.append()
        if len(calls) in (7, 80):
            requests.put(True)
            answers.get()
        return value_of(params) + 0 * buffer[0]

    thread = threading.Thread(target=fill)
    thread.start()
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None)
    try:
        for step in range(3):
            guard.after_backward(step, grads_of(params))
    finally:
        requests.put(False)
        thread.join()
    assert len(calls) > 80
    assert list(buffer) == [0, 1, 1]


@pytest.mark.parametrize("write", WRITES)
def test_beside_other_threads_what_a_loss_writes_is_back_too(write: Callable[[Model], None]) -> None:
    """One more evaluation shows that it is the loss's doing."""
    model, stop = Raised(), threading.Event()

    def loss() -> Any:
        write(model)
        return value_of(model.params)

    before = everything(model)
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        by_guard(model, loss)
    finally:
        stop.set()
        thread.join()
    assert everything(model) == before


def test_looking_calls_nothing_of_the_users() -> None:
    """No property, no `__getattr__`, no method of a container."""

    def refuse(*_: Any) -> Any:
        raise AssertionError

    names = ("__iter__", "__len__", "__getitem__", "__contains__", "__eq__", "keys", "values", "items", "copy")
    refusing = dict.fromkeys(names, refuse)
    kinds = [type(kind.__name__, (kind,), dict(refusing, __hash__=None)) for kind in (dict, list, deque)]
    made = [kinds[0](a=[1]), kinds[1]([[1]]), kinds[2]([1])]
    shy = type("Shy", (), {"value": property(refuse), "__getattr__": refuse, "__eq__": refuse, "__hash__": None})()

    def loss() -> Any:
        return made, shy

    state = ReachedState.of(loss, fresh())
    state.put_back()
    assert not state.written
