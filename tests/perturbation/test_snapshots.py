import copy
import pickle
import random
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gradguard.perturbation.snapshots import Snapshot, combined_snapshot, snapshot_attributes, snapshot_rng


def test_an_array_is_restored_in_place() -> None:
    """The attribute is the same object again, and every view of it sees the values it had."""
    model = SimpleNamespace(hidden=np.arange(6.0).reshape(2, 3))
    held, view = model.hidden, model.hidden[1]
    restore = snapshot_attributes(model, "hidden")()
    held *= 10
    restore()
    assert model.hidden is held
    assert view.tolist() == [3, 4, 5]


def test_an_array_that_the_loss_rebinds_is_put_back() -> None:
    """`self.hidden = new` instead of `self.hidden[:] = new` comes to the same."""
    model = SimpleNamespace(hidden=np.ones(3, np.float32))
    held = model.hidden
    restore = snapshot_attributes(model, "hidden")()
    model.hidden = model.hidden + 1
    restore()
    assert model.hidden is held
    assert (held == 1).all()


def test_one_snapshot_restores_any_number_of_times() -> None:
    """Each evaluation of a check begins at the same state, whatever the one before did to it."""
    model = SimpleNamespace(hidden=np.zeros(2), calls=0, states=[np.zeros(2), {"mean": 0.5}])
    restore = snapshot_attributes(model, "hidden", "calls", "states")()
    for _ in range(3):
        model.hidden += 1
        model.calls += 1
        model.states[0] += 1
        model.states[1]["mean"] = 7
        model.states.append("more")
        restore()
        assert not model.hidden.any()
        assert model.calls == 0
        assert not model.states[0].any()
        assert model.states[1:] == [{"mean": 0.5}]


def test_a_snapshot_holds_the_state_of_the_time_it_is_taken() -> None:
    """One made before training is taken anew at each check, so that training is not set back."""
    model = SimpleNamespace(hidden=np.zeros(2), calls=0)
    snapshot = snapshot_attributes(model, "hidden", "calls")
    model.hidden += 5
    model.calls = 5
    restore = snapshot()
    model.hidden += 1
    model.calls += 1
    restore()
    assert (model.hidden == 5).all()
    assert model.calls == 5


@pytest.mark.parametrize(
    "state",
    [
        np.random.default_rng(0),
        [np.zeros(2)],
        {"mean": np.zeros(2)},
    ],
    ids=["generator", "list of arrays", "dict of arrays"],
)
def test_another_name_for_what_an_attribute_holds_sees_it_restored(state: Any) -> None:
    """Training that reaches the same generator, states or statistics under another name is not changed either."""
    model = SimpleNamespace(state=state)
    restore = snapshot_attributes(model, "state")()
    expected = repr(state.bit_generator.state if isinstance(state, np.random.Generator) else state)
    if isinstance(state, np.random.Generator):
        state.random()
    else:
        state[0 if isinstance(state, list) else "mean"] += 1
    restore()
    assert model.state is state
    assert repr(state.bit_generator.state if isinstance(state, np.random.Generator) else state) == expected


def test_attributes_that_do_not_exist_are_named_at_once() -> None:
    """A misspelt attribute, or none, is an error before any check."""
    with pytest.raises(AttributeError, match="SimpleNamespace has no attribute 'hiden'"):
        snapshot_attributes(SimpleNamespace(hidden=0), "hidden", "hiden")
    with pytest.raises(ValueError, match="no names"):
        snapshot_attributes(SimpleNamespace(hidden=0))


def streams() -> list[tuple[object, Callable[[], object]]]:
    """Every kind of random stream, and a draw from it."""
    generator, own = np.random.default_rng(1), random.Random(1)  # noqa: S311 - no secrets here
    legacy = np.random.RandomState(1)
    philox = np.random.Generator(np.random.Philox(1))
    return [
        (generator, lambda: generator.standard_normal(3).tolist()),
        (philox, lambda: philox.integers(1 << 62, size=3).tolist()),
        (legacy, lambda: legacy.standard_normal(3).tolist()),  # an odd number: one Gaussian is kept back
        (np.random, lambda: np.random.standard_normal(3).tolist()),  # noqa: NPY002 - users have them
        (random, random.random),
        (own, lambda: own.gauss(0, 1)),
    ]


@pytest.mark.parametrize("kind", range(len(streams())), ids=["PCG64", "Philox", "legacy", "numpy", "random", "Random"])
def test_a_random_stream_goes_on_as_if_nothing_had_been_drawn(kind: int) -> None:
    """After each restore the same numbers come again."""
    stream, draw = streams()[kind]
    draw()
    restore = snapshot_rng(stream)()
    first = [draw(), draw()]
    restore()
    again = [draw(), draw()]
    restore()
    assert first == again == [draw(), draw()]


@pytest.mark.parametrize("stream", [0, None, np.random.PCG64(0), "numpy.random"])
def test_what_is_no_random_stream_is_told_by_its_type(stream: object) -> None:
    """A seed instead of a generator is an error that lists what would do."""
    with pytest.raises(TypeError, match=rf"{type(stream).__name__}; expected .*Generator.*numpy\.random or random"):
        snapshot_rng(stream)


def test_several_snapshots_are_taken_and_restored_together() -> None:
    """None, one, or any iterable of them; a generator expression is not used up by the first check."""
    model, rng = SimpleNamespace(calls=0), np.random.default_rng(0)
    both = combined_snapshot(snapshot for snapshot in (snapshot_attributes(model, "calls"), snapshot_rng(rng)))
    drawn = []
    for _ in range(2):
        restore = both()
        model.calls += 1
        drawn.append(rng.random())
        restore()
        assert model.calls == 0
    assert drawn[0] == drawn[1]
    combined_snapshot(None)()()
    restore = combined_snapshot(snapshot_attributes(model, "calls"))()
    model.calls += 1
    restore()
    assert model.calls == 0


def test_what_is_no_snapshot_is_told_with_an_example() -> None:
    """The object itself instead of a snapshot of it, or a snapshot that returns nothing, is an error."""
    no_snapshots: Any = [SimpleNamespace()]
    with pytest.raises(TypeError, match=r"SimpleNamespace; expected a callable.*snapshot_attributes\("):
        combined_snapshot(no_snapshots)
    returns_nothing: Any = [lambda: None]
    with pytest.raises(TypeError, match="returned a NoneType; expected the callable that restores"):
        combined_snapshot(returns_nothing)()


def test_a_snapshot_that_is_neither_callable_nor_iterable_is_told() -> None:
    """The message speaks of the snapshot."""
    number: Any = 5
    with pytest.raises(TypeError, match="snapshot"):
        combined_snapshot(number)


def test_any_callable_that_returns_a_callable_is_a_snapshot() -> None:
    """A user's own state needs no base class."""
    state = {"mean": 0.5}

    def mine() -> Callable[[], None]:
        saved = dict(state)
        return lambda: state.update(saved)

    snapshot: Snapshot = mine
    restore = combined_snapshot([snapshot])()
    state["mean"] = 7
    restore()
    assert state == {"mean": 0.5}


def test_one_that_fails_to_restore_does_not_keep_the_others_from_it() -> None:
    """All states are put back, and then the error comes out."""
    model = SimpleNamespace(first=0, last=0)

    def broken() -> Callable[[], None]:
        return lambda: {}["nothing"]

    snapshots = [snapshot_attributes(model, "first"), broken, snapshot_attributes(model, "last")]
    restore = combined_snapshot(snapshots)()
    model.first, model.last = 1, 1
    with pytest.raises(KeyError, match="nothing"):
        restore()
    assert (model.first, model.last) == (0, 0)


@pytest.mark.parametrize("kind", range(len(streams())), ids=["PCG64", "Philox", "legacy", "numpy", "random", "Random"])
@pytest.mark.parametrize("carry", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])  # noqa: S301 - our own bytes
def test_a_snapshot_of_a_stream_can_be_carried_to_another_process(kind: int, carry: Callable[[Any], Any]) -> None:
    """A module's stream is that of the process it comes to; any other goes along."""
    stream, _ = streams()[kind]
    carried, snapshot = carry((None if isinstance(stream, ModuleType) else stream, snapshot_rng(stream)))
    draw = (carried or stream).random
    restore = snapshot()
    first = draw()
    restore()
    assert draw() == first
