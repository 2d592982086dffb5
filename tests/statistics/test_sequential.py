import itertools
import json
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.arrays.types import Float64
from gradguard.statistics.sequential import MAX_Z, SHIFTS, Detector, ShiftDetectors, alarm_level

LEVEL = alarm_level(probes=15, checks=10_000, false_alarms=0.01)


def track(values: Iterable[float]) -> list[float]:
    """The evidence after each value."""
    detector, evidence = Detector(), []
    for z in values:
        detector.update(float(z))
        evidence.append(detector.evidence)
    return evidence


def delay(values: Iterable[float]) -> int:
    """How many checks it takes to alarm; 500 if it takes more."""
    return next((check for check, evidence in enumerate(track(values), start=1) if evidence > LEVEL), 500)


def test_on_correct_gradients_the_evidence_stays_below_its_level() -> None:
    """By construction its mean after k checks is at most k, so that it rarely exceeds 20 k, and never alarms here."""
    rng, checks = np.random.default_rng(0), 250
    tracks = np.array([track(rng.standard_normal(checks)) for _ in range(120)])
    assert tracks.max() < LEVEL
    reached = tracks > np.log10(20 * np.arange(1, checks + 1))
    assert reached.mean(axis=0).max() <= 0.1
    assert tracks[:, -1].mean() < math.log10(checks)
    assert np.mean(10.0 ** tracks[:, 9]) < 3 * 10


@pytest.mark.parametrize(("degrees", "deviation"), [(4, 0.83), (np.inf, 1 / 1.1)])
def test_a_probe_of_a_correct_gradient_adds_no_evidence(degrees: float, deviation: float) -> None:
    """On average no likelihood ratio is above 1: for Gaussian Z in bars of 1.1, and with tails as heavy as measured."""
    rng = np.random.default_rng(4)
    z = rng.standard_normal(400_000) if np.isinf(degrees) else rng.standard_t(degrees, 400_000) / np.sqrt(2)
    clipped = np.clip(deviation * z, -MAX_Z, MAX_Z)
    for size in SHIFTS:
        assert np.mean(np.exp(size * clipped - size**2 / 2)) < 1


def test_it_is_as_calm_on_evidence_that_is_narrower_than_it_should_be() -> None:
    """Error bars on the safe side, such as the factor of 1.1 in Z, only make it rarer."""
    rng = np.random.default_rng(1)
    narrow = np.mean([track(0.7 * rng.standard_normal(150))[-1] for _ in range(40)])
    usual = np.mean([track(rng.standard_normal(150))[-1] for _ in range(40)])
    assert narrow < usual


@pytest.mark.parametrize(("shift", "most"), [(1.0, 45), (2.0, 14), (0.5, 160), (-1.0, 45)])
def test_a_shift_is_found_in_few_checks(shift: float, most: int) -> None:
    """The median delay of a shift of one standard deviation is some thirty checks, at one false alarm in 100 runs."""
    rng = np.random.default_rng(2)
    delays = [delay(rng.standard_normal(300) + shift) for _ in range(25)]
    assert 3 < np.median(delays) <= most


def test_a_shift_is_found_as_quickly_after_a_long_calm() -> None:
    """Hundreds of checks on a correct gradient do not count against a bug that comes late."""
    rng = np.random.default_rng(3)
    delays = []
    for _ in range(10):
        evidence = track(np.concatenate([rng.standard_normal(400), rng.standard_normal(100) + 1]))
        delays.append(next((check for check, value in enumerate(evidence[400:], start=1) if value > LEVEL), 500))
    assert np.median(delays) <= 45


def test_errors_of_changing_sign_are_found_too() -> None:
    """A wrong gradient need not lean to one side: alternating deviations alarm, at the same speed whatever the sign."""
    assert 3 < delay([3.0, -3.0] * 20) < 20
    assert delay([3.0, -3.0] * 20) == delay([-3.0, 3.0] * 20)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=12))
def test_the_evidence_does_not_ask_for_the_sign(values: list[float]) -> None:
    """Too large and too small gradients are found alike."""
    assert track(values) == pytest.approx(track([-z for z in values]), rel=1e-9, abs=1e-9)


@given(st.floats(3, 1e300))
def test_one_wild_probe_does_not_alarm(z: float) -> None:
    """It counts as three standard deviations at most: one beyond six alarms by itself."""
    assert track([z]) == track([3.0])
    assert track([0.0, z, 0.0])[-1] < LEVEL


def test_the_evidence_of_a_long_fault_is_finite() -> None:
    """It grows with each check and never overflows."""
    evidence = track([5.0] * 600)
    assert np.isfinite(evidence).all()
    assert all(after > before for before, after in itertools.pairwise(evidence))
    assert evidence[-1] > 1000


def test_the_alarm_level_shares_one_chance_among_all_probes_and_checks() -> None:
    """More probes, more checks or a smaller chance ask for more evidence: 1e7 for ten probes and 10,000 checks."""
    assert alarm_level(10, 10_000, 0.01) == pytest.approx(7)
    assert alarm_level(20, 10_000, 0.01) == pytest.approx(7 + math.log10(2))
    assert alarm_level(10, 20_000, 0.02) == pytest.approx(7)


def evidence_of_streams(z: Float64) -> Float64:
    """The evidence after each probe of several streams; `z` is (probes, streams)."""
    detectors, evidence = ShiftDetectors(z.shape[1]), []
    for each in z:
        detectors.update(each)
        evidence.append(detectors.evidence)
    return np.array(evidence)


def test_streams_that_share_their_probes_stay_below_their_levels() -> None:
    """Each probe has a sign for each tensor: the evidence of a stream is on average at most the number of probes."""
    rng, probes, streams = np.random.default_rng(0), 250, 41
    level = alarm_level(probes=2 * streams, checks=10_000, false_alarms=0.01)
    tracks = np.array(
        [
            evidence_of_streams(rng.choice([-1, 1], (probes, streams)) * rng.standard_normal((probes, 1)))
            for _ in range(40)
        ]
    )
    assert tracks.max() < level
    for after in (10, 100):
        assert np.mean(10.0 ** tracks[:, after - 1]) < 3 * after
        assert np.mean(tracks[:, after - 1] > np.log10(20 * after)) <= 0.05


def test_the_average_run_until_a_false_alarm_is_at_least_the_level() -> None:
    """By construction: at an evidence of 50 no stream exceeds it sooner than after 50 probes on average."""
    rng = np.random.default_rng(1)
    over = evidence_of_streams(rng.standard_normal((2000, 60))) > np.log10(50)
    assert over.any(axis=0).all()
    assert over.argmax(axis=0).mean() >= 50


@pytest.mark.parametrize("shift", [1.0, -1.0, 0.5])
def test_one_stream_that_shifts_is_seen_among_many(shift: float) -> None:
    """Its tensor has the most evidence, and the others, which share its probes, stay far below."""
    rng, streams, wrong = np.random.default_rng(2), 41, 17
    signs = rng.choice([-1, 1], (300, streams))
    z = signs * (rng.standard_normal((300, 1)) + shift * signs[:, [wrong]])
    evidence = evidence_of_streams(z)
    level = alarm_level(probes=2 * streams, checks=10_000, false_alarms=0.01)
    assert evidence[-1].argmax() == wrong
    assert evidence[-1, wrong] > level
    assert np.delete(evidence[-1], wrong).max() < level


@given(
    st.lists(st.lists(st.floats(-1e300, 1e300), min_size=3, max_size=3), max_size=8),
)
def test_a_checkpoint_holds_the_evidence_of_all_streams(values: list[list[float]]) -> None:
    """The plain form survives strict JSON, and the evidence that follows is the same; before any probe too."""
    detectors = ShiftDetectors(3)
    for z in values:
        detectors.update(np.array(z))
    again = ShiftDetectors.from_plain(json.loads(json.dumps(detectors.to_plain(), allow_nan=False)))
    assert np.array_equal(again.evidence, detectors.evidence)
    for each in (detectors, again):
        each.update(np.array([1.0, -2.0, 0.0]))
    assert np.array_equal(again.evidence, detectors.evidence)


@pytest.mark.parametrize("plain", [[[[1.0]]], [[[1.0]] * 4] * 3, [[[float("nan")]] * 4] * 2, [[1.0] * 4] * 2])
def test_evidence_of_another_form_is_refused(plain: list[list[list[float]]]) -> None:
    """The message says what was expected."""
    with pytest.raises(ValueError, match=r"two lists of 4 lists of finite numbers"):
        ShiftDetectors.from_plain(plain)
