"""An interrupt at any place of a check, or of what puts back after one, leaves no trace."""

import gc
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from disturbed_model import FORMS, Model, routine
from interrupter import Interrupter, strike
from signal_storm import StopError

from gradguard import GradGuard, check, sweep
from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.spaces import Moved, PerturbedArray


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
    array, moves = np.ones(2), UndoLog()
    move = moves.recorded(Moved(PerturbedArray(array, array.copy())))
    move.__enter__().write(np.zeros(2))
    moves.restore()
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
