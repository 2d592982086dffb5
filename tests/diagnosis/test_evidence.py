"""What the measurements of one tensor say together: every number is computed by hand."""

from typing import Any

import numpy as np
import pytest

from gradguard.diagnosis.evidence import Evidence
from gradguard.statistics.pairs import Pairs


def pairs(*z: float, n: float = 1.0, g: float = 1.0, error: float = 0.1) -> Pairs:
    """Equal pairs with these deviations."""
    size = len(z)
    return Pairs(*(np.full(size, value) for value in (n, g, error, 0.0)), np.array(z), np.zeros(size))


def evidence(entries: Pairs, directions: Pairs, **changes: Any) -> Evidence:
    """Evidence of a vector that is smooth and clear unless said otherwise."""
    facts: dict[str, Any] = {
        "name": "w",
        "shape": (entries.size,),
        "norm": 1.0,
        "index": tuple((place,) for place in range(entries.size)),
        "unresolved": 0,
        "kinks": 0,
        "coverage": 1.0,
        "step_size": 1e-3,
        "noise": 1e-8,
        "rough": False,
        "survives": True,
        "blocks": {},
    }
    return Evidence(entries=entries, directions=directions, **facts | changes)


@pytest.mark.parametrize("z", [6.01, -6.01])
def test_one_deviation_beyond_six_makes_a_suspect(z: float) -> None:
    """Of an entry, or of a direction."""
    assert evidence(pairs(0, z), pairs(0)).is_suspect
    assert evidence(pairs(0), pairs(z, 0)).is_suspect


@pytest.mark.parametrize("z", [5.99, -5.99, 6.0])
def test_deviations_up_to_six_make_none(z: float) -> None:
    """On both."""
    assert not evidence(pairs(0, z), pairs(z, 0)).is_suspect


def test_entries_and_directions_are_not_pooled() -> None:
    """Fifteen pairs 2 deviations off tell of a factor by sqrt(15) x 1.5 = 5.8 each; both pooled would by 8.2."""
    off = pairs(*15 * [2.0], n=1.2)
    assert not evidence(off, off).is_suspect
    assert evidence(pairs(*17 * [2.0], n=1.2), pairs(0)).is_suspect  # sqrt(17) x 1.5 = 6.2


def test_where_nothing_is_known_of_the_noise_there_is_no_suspect() -> None:
    """However far the differences are off."""
    assert not evidence(pairs(100), pairs(100), deaf=True).is_suspect


def test_on_a_rough_loss_a_disagreement_must_survive_short_steps() -> None:
    """And single ones must show it: one factor everywhere may be the work of kinks."""
    factor = pairs(*100 * [2.0], n=1.2)
    assert evidence(pairs(7), pairs(0), rough=True, survives=True).is_suspect
    assert not evidence(pairs(7), pairs(0), rough=True, survives=False).is_suspect
    assert evidence(pairs(7), pairs(0), rough=False, survives=False).is_suspect
    assert evidence(factor, pairs(0)).is_suspect
    assert not evidence(factor, pairs(0), rough=True).is_suspect


def test_a_deep_check_shows_its_entries_and_a_routine_one_all_pairs() -> None:
    """Directions are shown where a deep check has no entries, or where a routine check has few."""
    two, three, none = pairs(0, 0), pairs(1, 1, 1), Pairs.none()
    assert evidence(two, three, deep=True).shown.size == 2
    assert evidence(two, three, deep=False).shown.size == 5
    assert evidence(none, three, deep=True).shown.z.tolist() == [1, 1, 1]


def test_entries_that_were_left_out_were_sampled_too() -> None:
    """Two measured, three without a step that suits them, four at kinks."""
    assert evidence(pairs(0, 0), pairs(0), unresolved=3, kinks=4).sampled == 9


def test_entries_and_directions_show_small_errors_together() -> None:
    """N of 6 and 8 deviations: 6 / hypot(6, 8); the larger alone on a rough loss."""
    entry, direction = pairs(0, n=0.6), pairs(0, n=0.8)
    assert evidence(entry, direction).smallest_visible == pytest.approx(0.6)
    assert evidence(entry, direction, rough=True).smallest_visible == pytest.approx(0.75)
