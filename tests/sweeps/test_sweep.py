"""The curve over step sizes: discrepancy, floor, the best step, and where the loss stops moving."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from swept_losses import swept

from gradguard import Sweep, sweep
from gradguard.testing import LSTM, Batch, random_batch

Arrays = Mapping[str, NDArray[Any]]


def test_the_best_step_for_the_network_of_the_question_lies_near_that_of_its_author(right: Sweep) -> None:
    """The sweet spot of the float32 loss is near 0.02, and what is left there is far below a thousandth."""
    assert 0.005 <= right.best_step <= 0.05
    assert right.discrepancy[right.best] < 5e-4
    assert right.discrepancy[right.best] < 3 * right.discrepancy.min()
    assert right.explained


def test_the_floor_is_what_a_correct_gradient_shows(right: Sweep) -> None:
    """At every step the discrepancy of a correct gradient is about the floor."""
    shares = right.discrepancy / right.floor
    assert shares.min() > 0.3
    assert shares.max() < 2
    for curve in right.tensors.values():
        assert 0.5 < np.median(curve.discrepancy / curve.floor) < 2


def test_the_curve_is_that_of_plain_centered_differences(model: LSTM, batch: Batch) -> None:
    """Discrepancies are those that one would measure by hand, over the steps that float32 made of the nominal ones."""
    _, grads = model.loss_and_grads(batch)
    found = swept(model, batch, steps=[1e-3, 1e-2, 1e-1])
    for j, step in enumerate(found.steps):
        n, g = differences(model, batch, step), flat(grads)
        by_hand = np.linalg.norm(n - g) / (np.linalg.norm(n) + np.linalg.norm(g))
        assert found.discrepancy[j] == pytest.approx(by_hand, rel=1e-6)


def flat(arrays: Arrays) -> NDArray[np.float64]:
    """All entries, in float64."""
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])


def differences(model: LSTM, batch: Batch, step: float) -> NDArray[np.float64]:
    """Centered differences along every entry."""
    n = []
    for param in model.params.values():
        for index in np.ndindex(param.shape):
            start, points, losses = param[index], [], []
            for sign in (1, -1):
                param[index] = float(start) + sign * step
                points.append(float(param[index]))
                losses.append(float(model.loss(batch)))
            param[index] = start
            n.append((losses[0] - losses[1]) / (points[0] - points[1]))
    return np.array(n)


def test_nothing_but_the_discrepancy_looks_at_the_gradient(model: LSTM, batch: Batch) -> None:
    """Floor, best step and where the loss changes are bit for bit the same for a right, a wrong and a zero gradient."""
    _, grads = model.loss_and_grads(batch)
    rng = np.random.default_rng(0)
    wrong = {name: rng.standard_normal(grad.shape).astype(grad.dtype) for name, grad in grads.items()}
    absent = {name: np.zeros_like(grad) for name, grad in grads.items()}
    first, *others = (sweep(model.params, given, lambda: model.loss(batch)) for given in (grads, wrong, absent))
    for other in others:
        for field in ("floor", "noise", "truncation", "loss_unchanged"):
            assert np.array_equal(getattr(first, field), getattr(other, field))
        assert (first.best_step, first.loss_unchanged_up_to) == (other.best_step, other.loss_unchanged_up_to)


def coarse(slope: float = 1e-3) -> tuple[dict[str, Any], dict[str, Any], Callable[[], object]]:
    """A float32 loss near 1 with a small slope: it moves by its quantum of 1.2e-7 from steps of about 6e-5 on."""
    x = {"x": np.linspace(0.1, 1, 20, dtype=np.float32)}
    grads = {"x": np.full(20, slope, dtype=np.float32)}
    return x, grads, lambda: np.float32(1.2 + slope * np.sum(x["x"], dtype=np.float64))


def test_it_says_where_the_loss_stops_moving() -> None:
    """The longest step at which most entries do not move the loss is told, with the quantum that is the reason."""
    found = sweep(*coarse())
    assert found.loss_unchanged_up_to in (1e-5, 2e-5)
    assert (found.loss_unchanged[found.steps <= found.loss_unchanged_up_to] > 0.5).all()
    assert found.loss_unchanged[0] == 1
    assert found.quantum == pytest.approx(2.0**-23)
    assert f"At steps of {found.loss_unchanged_up_to:g} and below, the loss does not change for most entries" in (
        found.explanation
    )
    assert "values of the loss, 1.2e-07" in found.explanation


def test_entries_that_never_move_the_loss_do_not_count_as_unchanged(model: LSTM, batch: Batch) -> None:
    """A row of weights that is never fed does not make the loss look unchanged."""
    model.params["unused"] = np.ones((50,), np.float32)
    grads = model.loss_and_grads(batch)[1] | {"unused": np.zeros(50, np.float32)}
    found = sweep(model.params, grads, lambda: model.loss(batch))
    assert found.loss_unchanged[-1] == 0
    assert found.tensors["unused"].explained


def test_a_step_that_the_dtype_rounds_away_is_told_as_such() -> None:
    """In float16 the parameters themselves do not move at short steps, and no error arises from what is left of one."""
    x = {"x": np.linspace(0.3, 0.9, 20).astype(np.float16)}
    grads = {"x": np.full(20, 3.0, np.float16)}
    found = sweep(x, grads, lambda: 3 * float(x["x"].astype(np.float64).sum()), steps=[1e-6, 1e-5, 7e-4, 1.1e-3])
    assert found.loss_unchanged_up_to == 1e-5
    assert "the dtype of the parameters rounds the step away" in found.explanation
    assert found.discrepancy[2:] == pytest.approx([0, 0], abs=1e-9)


def test_default_steps_follow_the_size_of_the_parameters() -> None:
    """They reach from a millionth of the parameters to their size, three a decade."""
    for size in (1e-4, 1.0, 1e5):
        x = {"x": np.full(4, size, np.float32)}
        steps = sweep(x, {"x": np.ones(4, np.float32)}, lambda x=x: float(x["x"].sum()), entries=1).steps
        assert steps[0] == pytest.approx(1e-6 * size)
        assert steps[-1] == pytest.approx(size)
        assert len(steps) == 19


def test_steps_far_beyond_the_parameters_do_not_mislead(model: LSTM, batch: Batch) -> None:
    """Where every gate is saturated the loss is flat, and that is not taken for precision."""
    found = swept(model, batch, steps=np.logspace(-6, 6, 25))
    assert 1e-4 < found.best_step < 1
    assert found.explained


def test_steps_are_sorted_and_told_once(model: LSTM, batch: Batch) -> None:
    """The given steps come back rising."""
    assert swept(model, batch, steps=[0.1, 1e-3, 0.1, 0.01], entries=1).steps.tolist() == [1e-3, 0.01, 0.1]


def test_it_measures_in_the_precision_of_the_model_unless_told_otherwise(model: LSTM, batch: Batch) -> None:
    """By default the curve is that of the float32 loss; in float64 the best step is shorter and far less is left."""
    native, exact = (swept(model, batch, entries=5, **options) for options in ({}, {"precision": "float64"}))
    assert (native.precision, exact.precision) == ("native", "float64")
    assert exact.best_step < native.best_step / 10
    assert exact.discrepancy[exact.best] < 1e-6 < native.discrepancy[native.best]
    assert exact.steps[0] < native.steps[0]
    assert native.explained
    assert exact.explained


def test_unreduced_losses_lower_the_floor() -> None:
    """Differences taken loss by loss are less noisy than those of a float32 mean."""
    model, batch = LSTM(), random_batch(20, 4)
    _, grads = model.loss_and_grads(batch)
    options: dict[str, Any] = {"entries": 4, "steps": [1e-4, 1e-3, 1e-2]}
    reduced = sweep(model.params, grads, lambda: model.loss(batch), **options)
    unreduced = sweep(model.params, grads, lambda: model.losses(batch), reduction="mean", **options)
    assert unreduced.noise[0] < reduced.noise[0] / 3
    assert unreduced.discrepancy[0] < reduced.discrepancy[0]


def test_the_same_seed_gives_the_same_sweep() -> None:
    """Which entries are drawn depends on the seed alone."""
    model, batch = LSTM(), random_batch(3, 1)
    first, again, other = (swept(model, batch, entries=3, steps=[1e-3, 1e-2], seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.discrepancy, again.discrepancy)
    assert not np.array_equal(first.discrepancy, other.discrepancy)
