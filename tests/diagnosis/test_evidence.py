"""What the measurements of one tensor say together: every number is computed by hand."""

import pytest
from tensor_evidence import evidence_of, pairs_of

from gradguard.statistics.pairs import DerivativePairs

CLEAN = pairs_of([1.0])


@pytest.mark.parametrize("z", [6.01, -6.01])
def test_one_deviation_beyond_six_makes_a_suspect(z: float) -> None:
    """Of an entry, or of a direction."""
    off = pairs_of([1, 1], z=[0, z])
    assert evidence_of(off, CLEAN).is_suspect
    assert evidence_of(CLEAN, off).is_suspect


@pytest.mark.parametrize("z", [5.99, -5.99, 6.0])
def test_deviations_up_to_six_make_none(z: float) -> None:
    """On entries and directions."""
    off = pairs_of([1, 1], z=[0, z])
    assert not evidence_of(off, off).is_suspect


def test_entries_and_directions_are_not_pooled() -> None:
    """Fifteen pairs 2 deviations off tell of a factor by sqrt(15) x 1.5 = 5.8, and seventeen by 6.2."""
    assert not evidence_of(pairs_of(15 * [1.2]), pairs_of(15 * [1.2])).is_suspect
    assert evidence_of(pairs_of(17 * [1.2]), CLEAN).is_suspect


def test_where_nothing_is_known_of_the_noise_there_is_no_suspect() -> None:
    """However far the differences are off."""
    assert not evidence_of(pairs_of([9]), pairs_of([9]), noise_unknown=True).is_suspect


def test_on_a_rough_loss_a_disagreement_must_survive_short_steps() -> None:
    """And single ones must show it: kinks may give one factor everywhere."""
    single, factor = pairs_of([1.7]), pairs_of(100 * [1.2])
    assert evidence_of(single, nonsmooth=True, confirmed_at_short_steps=True).is_suspect
    assert not evidence_of(single, nonsmooth=True, confirmed_at_short_steps=False).is_suspect
    assert evidence_of(single, nonsmooth=False, confirmed_at_short_steps=False).is_suspect
    assert evidence_of(factor).is_suspect
    assert not evidence_of(factor, nonsmooth=True).is_suspect


def test_a_deep_check_shows_its_entries_and_a_routine_one_all_pairs() -> None:
    """Directions are shown where a deep check has no entries, or where a routine check has few."""
    two, three = pairs_of([1, 1]), pairs_of([2, 2, 2])
    assert evidence_of(two, three, deep=True).reported.n.tolist() == [1, 1]
    assert evidence_of(two, three, deep=False).reported.n.tolist() == [1, 1, 2, 2, 2]
    assert evidence_of(DerivativePairs.none(), three, deep=True).reported.n.tolist() == [2, 2, 2]


def test_entries_that_were_left_out_were_sampled_too() -> None:
    """Two measured, three without a step that suits them, four at kinks."""
    assert evidence_of(pairs_of([1, 1]), CLEAN, unresolved=3, kinks=4).sampled == 9


def test_entries_and_directions_show_small_errors_together() -> None:
    """N of 6 and 8 deviations: 6 / hypot(6, 8); the larger alone on a rough loss."""
    entry, direction = pairs_of([0.6]), pairs_of([0.8])
    assert evidence_of(entry, direction).smallest_visible == pytest.approx(0.6)
    assert evidence_of(entry, direction, nonsmooth=True).smallest_visible == pytest.approx(0.75)
