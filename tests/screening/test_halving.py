"""Which tensors of a model are wrong, by probes of groups of them."""

from collections.abc import Callable

import numpy as np
import pytest
from deep_networks import Residual, Spoil, opened, scaled, transposed, without_column
from hypothesis import given
from hypothesis import strategies as st

from gradguard.measurement import MeasurementContext
from gradguard.screening import Located, Screen, halves, locate

LAYERS = 20


def located(context: MeasurementContext, seed: int, is_over: Callable[[], bool] = lambda: False) -> tuple[Located, int]:
    """What is located after a first screen, and the evaluations that it took."""
    assert context.near is not None
    rng = np.random.default_rng(seed)
    screen = Screen.of(context, list(context.arrays), context.near)
    alarm = screen.probe_all(context, rng).alarm
    assert alarm is not None
    before = context.objective.evaluations
    found = locate(context, screen, [screen.names], rng, is_over, alarm)
    return found, context.objective.evaluations - before


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("spoil", [scaled(1.05), transposed, without_column])
def test_one_wrong_tensor_of_many_is_found(spoil: Spoil, precision: str) -> None:
    """And no innocent is blamed; for the others it is known how small an error would have shown."""
    for seed in range(3):
        wrong = f"W{7 * seed + 2}"
        context = opened(Residual(LAYERS, seed=seed), precision, {wrong: spoil})
        found, evaluations = located(context, seed)
        assert found.wrong == (wrong,)
        assert found.left == ()
        assert set(found.visible) == set(context.arrays) - {wrong}
        assert all(error > 0 for error in found.visible.values())
        assert evaluations < 80


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_few_wrong_tensors_are_all_found(precision: str) -> None:
    """In the order of the model, wherever they lie."""
    wrong = ["b1", "W5", "W6", "b13", "V"]
    context = opened(Residual(LAYERS), precision, dict.fromkeys(wrong, scaled(1.3)))
    found, evaluations = located(context, 0)
    assert list(found.wrong) == wrong
    assert found.left == ()
    assert evaluations < 1000


def test_where_most_are_wrong_each_is_probed_by_itself() -> None:
    """Halving would cost twice as much: two probes for each tensor, and a few of groups."""
    wrong = [f"{kind}{layer}" for layer in range(LAYERS - 1) for kind in "Wb"]
    context = opened(Residual(LAYERS), "float64", dict.fromkeys(wrong, scaled(1.3)))
    found, evaluations = located(context, 0)
    assert list(found.wrong) == wrong
    assert set(found.visible) == set(context.arrays) - set(wrong)
    assert evaluations < 2 * 4 * len(context.arrays)


@pytest.mark.parametrize("rounds", [0, 1, 3, 5, 8, 11])
def test_what_there_was_no_time_for_is_left_in_groups(rounds: int) -> None:
    """Every tensor is wrong, right, or in one of them, and the wrong one is not among the right ones."""
    asked = iter(range(1000))
    context = opened(Residual(LAYERS), spoilt={"W9": transposed})
    found, _ = located(context, 0, lambda: next(asked) >= rounds)
    left = [name for group in found.left for name in group]
    assert sorted((*found.wrong, *found.visible, *left)) == sorted(context.arrays)
    assert ("W9" in left) != ("W9" in found.wrong)
    assert len(left) < len(context.arrays)  # a group is split once, however short the time is


@given(size=st.integers(1, 50))
def test_halves_are_neighbours(size: int) -> None:
    """Together they are the group, in order, and neither is empty."""
    group = tuple(str(i) for i in range(size))
    found = halves(group)
    assert sum(found, ()) == group
    assert all(found)
    assert len(found) == min(2, size)
    assert max(map(len, found)) - min(map(len, found)) <= 1 or size == 1
