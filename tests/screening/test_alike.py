"""Tensors that a screen of the whole model hides, probed with their like."""

import numpy as np
from deep_networks import Residual, opened, scaled

from gradguard import GradGuard
from gradguard.measurement import MeasurementContext
from gradguard.screening import Covered, Screen, cover

LAYERS = 60
ENOUGH = 0.02  # the smallest error that must show


def covered(context: MeasurementContext, *, is_over: bool = False) -> tuple[list[str], Covered, int]:
    """The tensors that the first screen hides, what is found of them, and the evaluations that it took."""
    assert context.near is not None
    rng = np.random.default_rng(0)
    screen = Screen.of(context, list(context.arrays), context.near)
    result = screen.probe_all(context, rng)
    assert not result.alarms
    before = context.objective.evaluations
    found = cover(context, screen, result.visible, lambda error: error <= ENOUGH, rng, lambda: is_over)
    hidden = [name for name, error in result.visible.items() if error > ENOUGH]
    return hidden, found, context.objective.evaluations - before


def test_what_the_whole_model_hides_shows_beside_its_like() -> None:
    """A few probes of groups promise as much of each tensor as its own numbers would, for a twentieth of the cost."""
    hidden, found, evaluations = covered(opened(Residual(LAYERS)))
    assert len(hidden) > 20
    assert found.located.wrong == found.located.left == ()
    assert max(found.located.visible[name] for name in hidden) <= ENOUGH
    assert evaluations <= len(hidden)
    assert sorted(name for screen in found.screens for name in screen.names) == sorted(Residual(LAYERS).params)


def test_an_error_that_the_whole_model_hides_is_located() -> None:
    """5 % in the bias with the least influence does not alarm beside all others; no innocent is blamed."""
    plain = Residual(LAYERS)
    hidden, _, _ = covered(opened(plain))
    weakest = min(hidden, key=lambda name: float(np.linalg.norm(plain.grads()[name])))
    _, found, _ = covered(opened(Residual(LAYERS), spoilt={weakest: scaled(1.05)}))
    assert found.located.wrong == (weakest,)


def test_nothing_is_probed_when_the_time_is_over() -> None:
    """And nothing is promised."""
    _, found, evaluations = covered(opened(Residual(LAYERS)), is_over=True)
    assert evaluations == 0
    assert found.located.visible == {}


def test_groups_take_turns_at_later_checks() -> None:
    """Each check stays within 24 evaluations, hardly a tensor is in doubt, and an error in a hidden one is told."""
    model = Residual(40)
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
    guard.after_backward(0, model.grads())
    weakest = min(model.grads(), key=lambda name: float(np.linalg.norm(model.grads()[name])))
    told, in_doubt = None, 0
    for step in range(1, 30):
        grads = model.grads()
        if step >= 10:
            grads[weakest] = np.float32(1.1) * grads[weakest]
        report = guard.after_backward(step, grads)
        assert report is not None
        if step < 10:
            assert report.evaluations <= 24
            assert not report.verdict.is_bug
            in_doubt += sum(tensor.verdict.is_bug is None for tensor in report.tensors.values())
        elif report.verdict.is_bug:
            told = report
            break
    assert in_doubt < 0.05 * 9 * len(model.params)
    assert told is not None
    assert [name for name, tensor in told.tensors.items() if tensor.verdict.is_bug] == [weakest]
