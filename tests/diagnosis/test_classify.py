"""The verdict on one tensor, from numbers on either side of each limit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from tensor_evidence import evidence_of, pairs_of

from gradguard import TensorReport, Thresholds, Verdict
from gradguard.diagnosis.classify import diagnose_tensor
from gradguard.diagnosis.known_factors import History
from gradguard.statistics.pairs import DerivativePairs

RNG = np.random.default_rng(0)


def report_on(entries: DerivativePairs, directions: DerivativePairs | None = None, **changes: Any) -> TensorReport:
    """The report on these entries of a vector, unless another shape is given."""
    return diagnose_tensor(evidence_of(entries, directions, **changes), History({}), Thresholds())


def verdict_on(entries: DerivativePairs, directions: DerivativePairs | None = None, **changes: Any) -> Verdict:
    """The verdict alone."""
    return report_on(entries, directions, **changes).verdict


def test_a_discrepancy_above_the_threshold_may_be_float_precision() -> None:
    """D = 0.04 / 2.04 = 0.020 is above 0.01, and four bars of 0.02 explain up to 2 x 2 x 0.02 / 2.04 = 0.039."""
    assert verdict_on(pairs_of(4 * [1.04], error=0.02)) is Verdict.float_precision
    assert verdict_on(pairs_of(4 * [1.01], error=0.02)) is Verdict.ok


def test_a_discrepancy_below_the_threshold_needs_no_explanation() -> None:
    """D = 0.005, though the bars explain 0.001 only: a routine check does not call this wrong."""
    assert verdict_on(pairs_of(4 * [1.01], error=0.0005), deep=False) is Verdict.ok


def test_a_routine_check_does_not_tell_what_a_larger_discrepancy_is() -> None:
    """D = 0.024 is above both limits, and so is d = 1 where n or g is 0; a deep check tells a factor of 1.05."""
    off = pairs_of(4 * [1.05], error=0.001)
    for pairs in (off, pairs_of(4 * [0.0], error=0.001), pairs_of(4 * [1.0], g=0.0, error=0.001)):
        assert verdict_on(pairs, deep=False) is Verdict.inconclusive
    assert verdict_on(off) is Verdict.scale


@pytest.mark.parametrize(("error", "verdict"), [(0.19, Verdict.ok), (0.21, Verdict.inconclusive)])
def test_bars_of_ten_thresholds_tell_nothing(error: float, verdict: Verdict) -> None:
    """The floor is half the bar where n and g are 1: 0.095 and 0.105."""
    assert verdict_on(pairs_of(4 * [1.0], error=error)) is verdict


def test_wide_bars_are_no_obstacle_where_everything_cancels() -> None:
    """N is 0 within its bars, and g is backprop's rounding, little beside what passes; and both may be 0."""
    cancelled = pairs_of(4 * [0.5e-9], g=1e-9, error=1e-9, rounding=1e-8)
    assert verdict_on(cancelled, passing=1.0) is Verdict.float_precision
    assert verdict_on(cancelled, passing=0.0) is Verdict.inconclusive
    assert verdict_on(pairs_of(4 * [0.0], g=0.0)) is Verdict.ok


@pytest.mark.parametrize(("left_out", "is_too_many"), [(2, False), (3, True)])
def test_a_fifth_of_the_entries_may_be_left_out(left_out: int, is_too_many: bool) -> None:
    """2 of 10, but not 3 of 11: at kinks, or without a step; of the few entries of a routine check none is missed."""
    eight = pairs_of(8 * [1.0], error=1e-3)
    assert verdict_on(eight, kinks=left_out) is (Verdict.kink if is_too_many else Verdict.ok)
    assert verdict_on(eight, unresolved=left_out) is (Verdict.inconclusive if is_too_many else Verdict.ok)
    assert verdict_on(eight, unresolved=left_out, deep=False) is Verdict.ok


def test_without_any_pair_nothing_is_told() -> None:
    """Neither entries nor directions; directions alone are enough."""
    assert verdict_on(DerivativePairs.none()) is Verdict.inconclusive
    assert verdict_on(DerivativePairs.none(), pairs_of([1.0], error=1e-3)) is Verdict.ok


def test_a_gradient_of_zero_is_missing_and_a_derivative_of_zero_makes_it_spurious() -> None:
    """G of up to 1e-9 n counts as 0, and n up to three bars."""
    assert verdict_on(pairs_of(4 * [1.0], g=0.9e-9)) is Verdict.missing
    assert verdict_on(pairs_of(4 * [1.0], g=1.1e-9)) is not Verdict.missing
    assert verdict_on(pairs_of(4 * [0.29], g=1.0)) is Verdict.spurious
    assert verdict_on(pairs_of(4 * [0.31], g=1.0)) is Verdict.scale
    assert verdict_on(pairs_of(4 * [-0.31], g=1.0)) is Verdict.sign


@pytest.mark.parametrize(("off", "verdict"), [(5.9, Verdict.scale), (6.1, Verdict.structure)])
def test_no_entry_may_be_six_bars_off_the_factor(off: float, verdict: Verdict) -> None:
    """N = 2 g within bars of 0.01, one of 400 entries excepted."""
    g = np.linspace(1, 2, 400)
    n = 2 * g
    n[7] += 0.01 * off
    assert verdict_on(pairs_of(n, g, error=0.01)) is verdict


def wrong_in(rows: slice, untold: int = 0) -> DerivativePairs:
    """Entries of an 8 x 6 matrix: those in some rows are wrong, but for so many of each row that tell nothing."""
    g, factor = RNG.uniform(1, 2, (8, 6)), np.ones((8, 6))
    factor[rows] = RNG.uniform(2, 4, factor[rows].shape)
    g[rows, :untold] = 0.0
    return pairs_of((factor * g).ravel(), g.ravel(), error=1e-3)


def test_wrong_entries_that_lie_together_are_located() -> None:
    """In the second of four equal blocks along axis 0; elsewhere everything agrees."""
    report = report_on(wrong_in(slice(2, 4)), shape=(8, 6))
    assert (report.verdict, report.faulty_block) == (Verdict.structure, "block 2 of 4")
    assert "wrong only in block 2 of 4 along axis 0" in report.explanation


def test_entries_that_tell_nothing_do_not_count_as_right() -> None:
    """Two thirds of the block are 0 in n and in g: what is left of it is wrong throughout."""
    assert report_on(wrong_in(slice(2, 4), untold=4), shape=(8, 6)).faulty_block == "block 2 of 4"


def test_an_entry_that_the_loss_does_not_depend_on_may_be_wrong() -> None:
    """Its n is 0, whose sign cannot be told, and its g is not: all such entries lie in the last row."""
    n, g = np.ones((8, 6)), np.ones((8, 6))
    n[7], g[7] = 0.0, RNG.uniform(1, 2, 6)
    report = report_on(pairs_of(n.ravel(), g.ravel(), error=1e-3), shape=(8, 6))
    assert (report.verdict, report.faulty_block) == (Verdict.structure, "")
    assert "wrong only in index 7 of axis 0" in report.explanation


def clipped_at_one(**changes: Any) -> DerivativePairs:
    """Six entries that agree, and four whose g was clipped at 1; some may be changed."""
    n = np.array([0.5, -0.2, 0.9, -0.7, 0.1, 0.3, 1.5, -3.0, 2.0, -1.1])
    g = np.clip(n, -1, 1)
    for place, (new_n, new_g) in changes.get("entries", {}).items():
        n[place], g[place] = new_n, new_g
    return pairs_of(n, g, error=changes.get("error", 1e-3))


def test_many_gradients_at_one_extreme_are_clipped() -> None:
    """Where |n| is larger than they are, or as large within six bars: 0.995 is five bars below 1."""
    assert verdict_on(clipped_at_one()) is Verdict.clipped
    assert verdict_on(clipped_at_one(entries={9: (0.995, 1.0)})) is Verdict.clipped
    assert verdict_on(clipped_at_one(entries={6: (0.5, 0.5), 7: (-0.2, -0.2)})) is Verdict.clipped  # two are enough


@pytest.mark.parametrize(
    "entries",
    [
        {9: (0.99, 1.0)},
        {9: (1.5, -1.0)},
        {0: (0.6, 0.5)},
        {6: (0.5, 0.5), 7: (-0.2, -0.2), 8: (2.0, 1.0345), 9: (-0.1, -0.1)},
    ],
    ids=["smaller n", "other sign", "wrong elsewhere", "one only, and no round number"],
)
def test_what_a_clip_does_not_do_is_no_clip(entries: dict[int, tuple[float, float]]) -> None:
    """Ten bars below the extreme, on its other side, an entry wrong elsewhere, or one entry at the extreme."""
    assert verdict_on(clipped_at_one(entries=entries)) is Verdict.structure


def test_a_block_is_wrong_where_its_own_entries_are() -> None:
    """Of two blocks the second is off by a factor of 2; without a bug of the whole neither is called wrong."""
    n = np.repeat([1.0, 2.0], 6)
    blocks = {"first": np.arange(12) < 6, "second": np.arange(12) >= 6, "none": np.zeros(12, bool)}
    report = report_on(pairs_of(n, error=1e-3), blocks=blocks)
    verdicts = {name: block.verdict for name, block in report.blocks.items()}
    assert verdicts == {"first": Verdict.ok, "second": Verdict.scale, "none": Verdict.inconclusive}
    assert report.faulty_block == "second"
    routine = report_on(pairs_of(n, error=1e-3), blocks=blocks, deep=False)
    assert not any(block.verdict.is_bug for block in routine.blocks.values())


@pytest.mark.parametrize(("z", "is_bug"), [(5.9, False), (6.1, True)])
def test_a_block_is_called_wrong_beyond_six_deviations(z: float, is_bug: bool) -> None:
    """Where another block makes the tensor a suspect."""
    n = np.array([1 + 0.01 * z, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0])
    blocks = {"first": np.arange(8) < 6, "second": np.arange(8) >= 6}
    assert bool(report_on(pairs_of(n, error=0.01), blocks=blocks).blocks["first"].verdict.is_bug) is is_bug


@pytest.mark.parametrize(
    ("n", "g", "shape", "verdict"),
    [
        ([39.0], [1.0], (1,), Verdict.structure),
        ([-1.0], [1.0], (1, 1), Verdict.structure),
        ([39.0, 0.0, 0.0], [1.0, 0.0, 0.0], (3,), Verdict.structure),
        ([39.0, 78.0, 0.0], [1.0, 2.0, 0.0], (3,), Verdict.scale),
        ([39.0, 78.0], [1.0, 2.0], (5,), Verdict.scale),
        ([1.0], [0.0], (1,), Verdict.missing),
        ([0.0], [1.0], (1,), Verdict.spurious),
    ],
)
def test_one_entry_shows_no_factor(n: list[float], g: list[float], shape: tuple[int, ...], verdict: Verdict) -> None:
    """Any number is some factor times any other one; directions through the tensor are of the same entry."""
    entries, through = pairs_of(n, g, error=1e-3), pairs_of(4 * [39.0], error=1e-3)
    if len(n) == 1:
        through = pairs_of(4 * n, 4 * g, error=1e-3)
    evidence = dataclasses.replace(evidence_of(entries, through), shape=shape)
    report = diagnose_tensor(evidence, History({"timesteps": 39.0}), Thresholds())
    assert report.verdict is verdict
    if verdict is Verdict.structure:
        assert report.cause_key == "one_entry"
        assert "a single entry cannot show a factor" in report.explanation
        assert not report.factors


def test_a_block_of_one_sampled_entry_shows_no_factor() -> None:
    """Nor does a block in which nothing was sampled, or of which all entries are zero, agree."""
    n, g = np.array([1.0] * 4 + [-2.0] + [0.0] * 3), np.array([1.0] * 5 + [0.0] * 3)
    masks = {"i": slice(0, 4), "f": slice(4, 5), "o": slice(5, 8), "g": slice(0, 0)}
    blocks = {name: np.isin(np.arange(8), np.arange(8)[where]) for name, where in masks.items()}
    report = report_on(pairs_of(n, g, error=1e-3), blocks=blocks)
    assert (report.blocks["f"].verdict, report.faulty_block) == (Verdict.structure, "f")
    assert "wrong in f (in its only entry); no verdict on o and g; the other agrees" in report.explanation
    assert "alone" not in report.cause


def test_the_block_that_is_far_worse_than_the_others_is_named() -> None:
    """An error of one gate spoils the others through time; where all are wrong alike none is named."""
    g = RNG.uniform(1, 2, 40)
    scatter = RNG.choice([-1, 1], 40)
    blocks = {name: np.arange(40) // 10 == place for place, name in enumerate("ifgo")}
    for others, key in ((0.02, "worst_blocks:f"), (0.7, "chain_rule")):
        n = g * (1 + np.where(blocks["f"], 0.9, others) * scatter)
        report = report_on(pairs_of(n, g, error=1e-4), blocks=blocks)
        assert (report.cause_key, report.faulty_block) == (key, "")


def test_whole_multiples_of_one_value_are_not_clipped() -> None:
    """Windows that overlap: g is 1 where a share was assigned, and n counts the shares."""
    counts = np.array([0.0, 1, 1, 2, 4, 3, 1, 2, 1, 0])
    assert verdict_on(pairs_of(counts, np.minimum(counts, 1), error=1e-3)) is Verdict.structure


@pytest.mark.parametrize(("size", "is_small"), [(1e-3, True), (0.5, False)])
def test_a_small_difference_may_be_meant(size: float, is_small: bool) -> None:
    """What a module holds constant on purpose leaves a discrepancy far below the threshold."""
    g = RNG.uniform(1, 2, 40)
    report = report_on(pairs_of(g * (1 + size * RNG.choice([-1, 1], 40)), g, error=1e-6))
    assert report.verdict is Verdict.structure
    assert ("held constant on purpose" in report.cause) is is_small
