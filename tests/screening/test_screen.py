"""The screen of whole models, right and wrong ones."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
from deep_networks import Residual, Spoil, opened, scaled, transposed, without_column

from gradguard.measurement import CheckTarget, MeasurementContext
from gradguard.perturbation import Rollback, combined_snapshot
from gradguard.report.plain import finite_or_name, to_plain
from gradguard.screening import Screen, Screened
from gradguard.training.checkpoint import from_plain

PRECISIONS = ("native", "float64")
SHALLOW, DEEP = 2, 20  # layers, of 5 and of 41 tensors
ENOUGH = 60  # evaluations by which a fault in one tensor is seen


def started(context: MeasurementContext) -> Screen:
    """A screen of all tensors."""
    assert context.near is not None
    return Screen.of(context, list(context.arrays), context.near)


def screened(context: MeasurementContext, seed: int, evaluations: int = ENOUGH) -> Iterator[Screened]:
    """What the screens of a model find, for so many evaluations."""
    screen, rng, before = started(context), np.random.default_rng(seed), context.objective.evaluations
    while context.objective.evaluations - before < evaluations:
        yield screen.probe_all(context, rng)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [SHALLOW, DEEP])
def test_a_right_model_does_not_alarm(layers: int, precision: str) -> None:
    """And each screen says of every tensor how small an error of it would show."""
    largest, usable = [], []
    for seed in range(10):
        for found in screened(opened(Residual(layers, seed=seed), precision), seed):
            assert not found.alarms
            assert not found.loss_unchanged
            assert found.of_model < 6
            assert max(found.evidence.values()) < 6
            assert len(found.visible) == 2 * layers + 1
            assert all(0 < error < np.inf for error in found.visible.values()) or not found.is_usable
            usable.append(found.is_usable)
            largest.append(float(np.median(list(found.visible.values()))))
    assert np.median(largest) < 2e-3
    assert np.mean(usable) > 0.95


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_rounding_of_the_forward_pass_is_in_the_bars_of_the_first_screen(precision: str) -> None:
    """It follows from the curvature of the loss, which the probes of the screen show."""
    context = opened(Residual(SHALLOW), precision)
    found = started(context).probe_all(context, np.random.default_rng(0))
    assert found.is_usable
    assert all(0 < probe.forward * probe.point.length[0] < probe.deviation for probe in found.probes if probe.suits)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layers", [SHALLOW, DEEP])
def test_an_error_of_twice_the_visible_one_alarms(layers: int, precision: str) -> None:
    """In nearly every draw: what the report promises of a tensor holds for each of them."""
    alarms = []
    for seed in range(6):
        model, rng = Residual(layers, seed=seed), np.random.default_rng(seed)
        context = opened(model, precision)
        screen = started(context)
        screen.probe_all(context, rng)
        usual = [screen.probe_all(context, rng).visible for _ in range(3)]
        for name in rng.permutation(list(model.params))[:4]:
            error = float(np.median([visible[name] for visible in usual]))
            wrong = opened(model, precision, {name: scaled(1 + 2 * error)})
            alarms.append(screen.restarted(screen.names).probe_all(wrong, rng).alarms)
    assert np.mean(alarms) > 0.8


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spoil", [scaled(1.05), scaled(0.99), scaled(-1), transposed, without_column])
def test_one_wrong_tensor_among_many_alarms(spoil: Spoil, precision: str) -> None:
    """Whichever it is, and whatever is wrong with it."""
    for seed in range(3):
        context = opened(Residual(DEEP, seed=seed), precision, {f"W{7 * seed + 2}": spoil})
        assert any(found.alarms for found in screened(context, seed))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_missing_gradient_alarms(precision: str) -> None:
    """The Gaussian direction moves it, where it has no share in what is predicted."""
    context = opened(Residual(DEEP), precision, {"b4": np.zeros_like})
    (*_, last) = (found for found in screened(context, 0) if found.alarms)
    assert last.visible["b4"] == np.inf


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_screen_costs_the_same_however_many_tensors_there_are(precision: str) -> None:
    """The first one searches for the step; later ones take eight evaluations, or four more for each unsuitable step."""
    first = {}
    for layers in (SHALLOW, DEEP):
        costs = []
        for seed in range(6):
            context = opened(Residual(layers, seed=seed), precision)
            screen, rng = started(context), np.random.default_rng(seed)
            before = context.objective.evaluations
            costs.append([])
            for _ in range(3):
                screen.probe_all(context, rng)
                costs[-1].append(context.objective.evaluations - before)
                before = context.objective.evaluations
        assert all(cost in (8, 12, 16) for _, *later in costs for cost in later)
        first[layers] = [cost[0] for cost in costs]
    assert max(first[DEEP]) <= 40
    assert abs(np.mean(first[DEEP]) - np.mean(first[SHALLOW])) <= 8


def test_corners_do_not_alarm() -> None:
    """A direction through a deep ReLU network crosses hundreds; 5 % in one tensor alarms all the same."""
    alarms, honest = [], []
    for seed in range(20):
        model, rng = Residual(6, batch=256, seed=seed, corners=True), np.random.default_rng(seed)
        context = opened(model)
        screen = started(context)
        alarms += [screen.probe_all(context, rng).alarms for _ in range(5)]
        found = screen.probe_all(opened(model, spoilt={"W1": scaled(1.05)}), rng)
        honest.append(found.alarms or found.visible["W1"] > 0.03)
    assert np.mean(alarms) <= 0.03
    assert all(honest)


def test_a_loss_that_does_not_depend_on_the_tensors_is_told() -> None:
    """No alarm means nothing then: the arrays are copies of those that the loss reads."""
    model = Residual(SHALLOW)
    copies = {name: array.copy() for name, array in model.params.items()}
    state = Rollback(model.grads(), combined_snapshot(None))
    detached = CheckTarget(copies, copies, model.loss, None, state).context("native")
    assert next(screened(detached, 0)).loss_unchanged
    assert not next(screened(opened(model), 0)).loss_unchanged


def test_a_restarted_screen_keeps_what_it_knows_of_the_loss() -> None:
    """Its steps and its noise: it needs no further search. The evidence and the ratios are those of new tensors."""
    model, rng = Residual(SHALLOW), np.random.default_rng(0)
    context = opened(model, spoilt={"W0": scaled(1.02)})
    screen = started(context)
    for _ in range(6):
        screen.probe_all(context, rng)
    assert screen.evidence["W0"] > 2
    again = screen.restarted(("W1", "b1"))
    assert (again.names, again.usual_step) == (("W1", "b1"), screen.usual_step)
    assert max(again.evidence.values()) == -np.inf
    assert {ratio for ratio, _ in again.ratios_by_name.values()} == {1.0}
    before = context.objective.evaluations
    found = again.probe_all(context, rng)
    assert context.objective.evaluations - before == 8
    assert list(found.visible) == ["W1", "b1"]
    assert not found.alarms


def test_a_screen_anew_finds_the_step_of_a_loss_that_became_much_sharper() -> None:
    """The old screen says that its steps are of no use; nothing wrong is told by either."""
    params, sharpness, rng = {"w": np.array([0.3, 0.7, 1.1]), "b": np.array([0.5])}, 1.0, np.random.default_rng(0)

    def context() -> MeasurementContext:
        grads = {name: sharpness * np.cos(sharpness * array) for name, array in params.items()}
        state = Rollback(grads, combined_snapshot(None))
        loss = lambda: float(sum(np.sin(sharpness * array).sum() for array in params.values()))  # noqa: E731
        return CheckTarget(params, dict(params), loss, None, state).context("native")

    screen = started(context())
    screen.probe_all(context(), rng)
    sharpness = 1e5
    found = screen.probe_all(context(), rng)
    assert not found.is_usable
    assert not found.alarms
    again = Screen.anew(context(), screen.names, rng)
    for _ in range(4):
        found = again.probe_all(context(), rng)
        assert found.is_usable
        assert not found.alarms


def test_the_ratio_of_every_tensor_is_told_by_the_screens_so_far() -> None:
    """Right ones are 1 and wrong ones what they are, within their errors, although all share the probes."""
    context = opened(Residual(SHALLOW), spoilt={"b1": scaled(0.5), "V": scaled(1.01)})
    screen, rng = started(context), np.random.default_rng(0)
    for _ in range(20):
        screen.probe_all(context, rng)
    truth = {"W0": 1.0, "b0": 1.0, "W1": 1.0, "b1": 2.0, "V": 1 / 1.01}
    for name, (ratio, error) in screen.ratios_by_name.items():
        assert error < 0.02
        assert ratio == pytest.approx(truth[name], abs=5 * error)


def test_a_checkpoint_holds_a_screen() -> None:
    """Strict JSON and back: the screens that follow are the same."""
    context, screens = opened(Residual(SHALLOW)), []
    screen, rng = started(context), np.random.default_rng(0)
    screen.probe_all(context, rng)
    plain = json.loads(json.dumps(to_plain(screen, finite_or_name), allow_nan=False))
    for each in (screen, from_plain(Screen, plain, "screen")):
        found = each.probe_all(context, np.random.default_rng(1))
        screens.append((found.visible, found.evidence, found.of_model, each.usual_step, each.ratios_by_name))
    assert screens[0] == screens[1]
