import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.differences.step_size import Steps, better_step, dithered, next_step

positive = st.floats(1e-12, 1e6)


@given(step=positive, z3=st.floats(0, 1e12), weak=st.booleans())
def test_a_step_changes_the_way_truncation_asks_for(step: float, z3: float, weak: bool) -> None:
    """Shorter where truncation shows, longer only where the difference is weak, and never by more than four times."""
    better = float(better_step(np.array([step]), np.array([z3]), np.array([weak]))[0])
    if z3 > 6:
        assert step / 4 <= better <= step / 1.3
    elif weak and z3 < 2:
        assert better == 2.5 * step
    else:
        assert better == step


@pytest.mark.parametrize("z3", [np.nan, np.inf])
def test_a_step_at_which_the_loss_overflows_is_shortened(z3: float) -> None:
    """Whatever else is known of it, in a deep check and in a routine one."""
    assert better_step(np.ones(1), np.array([z3]), np.array([True]))[0] == 1 / 4
    assert next_step(1.0, z3) == pytest.approx(1 / 3)


@given(curvature=st.floats(-30, 30), start=st.floats(-20, 0))
def test_steps_settle_where_truncation_just_shows(curvature: float, start: float) -> None:
    """From far too short or far too long, routine steps come to rest at a z3 between 2 and 6, and stay."""
    step = 10.0**start
    for _ in range(400):
        step = next_step(step, 10.0**curvature * step**3)
    assert 1 < 10.0**curvature * step**3 < 6.1


@given(step=positive, count=st.integers(1, 300))
def test_dithered_steps_are_all_different_and_near_the_one(step: float, count: int) -> None:
    """Within a factor of the square root of 2, spread evenly over it on a logarithmic scale."""
    steps = dithered(step, count)
    assert np.unique(steps).size == count
    places = np.sort(np.log2(steps / step)) + 0.5
    assert places[0] > -1e-9
    assert places[-1] < 1 + 1e-9
    if count > 10:
        assert np.abs(places - (np.arange(count) + 0.5) / count).max() < 0.2


def test_a_first_step_is_kept_in_range() -> None:
    """However long the steps of another tensor were."""
    steps = Steps(start=1e-3, shortest=1e-6, longest=2.0)
    assert steps.starting_at(50.0).start == 2.0
    assert steps.starting_at(1e-9).start == 1e-6
    assert steps.clip(np.array([1e-9, 0.5, 3.0])).tolist() == [1e-6, 0.5, 2.0]
