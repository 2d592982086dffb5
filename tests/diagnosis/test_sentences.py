"""No sentence contradicts its verdict or its numbers, whatever was measured."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tensor_evidence import evidence_of, pairs_of

from gradguard import TensorReport, Thresholds, Verdict
from gradguard.diagnosis import Evidence, diagnose_tensor, revise_across_tensors, summary
from gradguard.diagnosis.known_factors import History

Vector = NDArray[np.float64]
Fault = Callable[[Vector, np.random.Generator], Vector]
NUMBER = r"(-?(?:\d+\.?\d*|inf|nan)(?:e[+-]?\d+)?)"
FAULTS: dict[str, Fault] = {
    "none": lambda n, _: n,
    "a factor": lambda n, rng: n / rng.choice([0.25, 0.98, 1.001, 2.0, 16.0, 39.0, 41.7]),
    "sign": lambda n, rng: -n / rng.choice([1.0, 39.0]),
    "zero": lambda n, _: 0 * n,
    "scattered": lambda n, rng: n * rng.uniform(0.5, 1.5, n.size),
    "scattered a little": lambda n, rng: n * (1 + 4e-4 * rng.standard_normal(n.size)),
    "clipped": lambda n, _: np.clip(n, -0.5, 0.5),
    "a part": lambda n, _: np.where(np.arange(n.size) % 4 == 1, -n, n),
    "one entry": lambda n, _: np.where(np.arange(n.size) == 0, 3 * n, n),
    "rounded": lambda n, _: np.round(n),
}


@dataclass(frozen=True)
class Case:
    """One tensor: what is wrong with it, and what was measured."""

    fault: str
    evidence: Evidence
    constants: dict[str, float]

    @property
    def report(self) -> TensorReport:
        """The report on it."""
        return diagnose_tensor(self.evidence, History(self.constants), Thresholds())


@st.composite
def cases(draw: st.DrawFn, name: str = "w") -> Case:
    """Tensors of 1 to 48 entries with zeros among them, all sizes of noise, with blocks or without."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    size, fault = draw(st.sampled_from([1, 2, 3, 8, 48])), draw(st.sampled_from(list(FAULTS)))
    truth = rng.standard_normal(size) * (rng.random(size) > draw(st.sampled_from([0.0, 0.0, 0.6, 1.0])))
    g = FAULTS[fault](truth, rng)
    error = draw(st.sampled_from([1e-9, 1e-5, 1e-3, 0.02, 0.2, 3.0]))
    rounding = draw(st.sampled_from([0.0, 1e-7]))
    n = truth + error * rng.standard_normal(size) * draw(st.sampled_from([0.0, 0.7, 2.5]))
    parts = np.arange(size) * 4 // max(4, size)
    blocks = {one: parts == place for place, one in enumerate("ifgo")} if draw(st.booleans()) else {}
    evidence = evidence_of(
        pairs_of(n, g, error=error, rounding=rounding),
        name=name,
        blocks=blocks,
        deep=draw(st.sampled_from([True, True, False])),
        is_native=draw(st.booleans()),
        is_scalar=draw(st.booleans()),
        unresolved=draw(st.sampled_from([0, 0, 1, 60])),
        kinks=draw(st.sampled_from([0, 0, 1, 60])),
        passing=draw(st.sampled_from([0.0, 1.0])),
    )
    constants = draw(st.sampled_from([{}, {"batch": 16.0, "heads": 39.0}, {"a": 39.0, "b": 39.0, "c": 39.0}]))
    return Case(fault, evidence, constants)


def numbers(pattern: str, text: str) -> Iterator[tuple[float, float]]:
    """The numbers that stand where a pattern has #, each with the half of a unit of its last digit."""
    for found in re.findall(pattern.replace("#", NUMBER), text):
        mantissa, _, exponent = found.partition("e")
        decimals = len(mantissa.partition(".")[2])
        yield float(found), 0.501 * 10.0 ** (int(exponent or 0) - decimals)


def words_of(report: TensorReport) -> str:
    """All that is said of a tensor."""
    return f"{report.explanation}; {report.cause}"


@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_the_numbers_of_a_sentence_are_those_of_the_report(case: Case) -> None:
    """D, the ratio, the worst entry and the counts, to the digits written; different numbers look different."""
    report, explanation = case.report, case.report.explanation
    for value, half in numbers(r"^d = #", explanation):
        assert value == pytest.approx(report.discrepancy, abs=half)
    for value, half in numbers(r"^numerical = #(?:\(\d+\))? x backprop", explanation):
        assert value == pytest.approx(report.ratio, abs=half + 0.01 * abs(value))
    for n, g in re.findall(rf"worst at .*?: numerical = {NUMBER}, backprop = {NUMBER}", explanation):
        assert (n != g) or report.worst[0].numeric == report.worst[0].analytic
        assert float(n) == pytest.approx(report.worst[0].numeric, rel=6e-3)
        assert float(g) == pytest.approx(report.worst[0].analytic, rel=6e-3)
    for low, high in re.findall(rf"mostly from {NUMBER} to {NUMBER}", explanation):
        assert float(low) <= float(high)
    for count in re.findall(r"the other (\d+) agree", explanation):
        assert int(count) == sum(block.verdict.is_bug is False for block in report.blocks.values())


@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_a_sentence_says_what_its_verdict_says(case: Case) -> None:
    """What rounding accounts for, the threshold, the sign, the size of the factor, and which kind of fault it is."""
    report, words = case.report, words_of(case.report)
    verdict = report.verdict
    d = next((value for value, _ in numbers(r"^d = #", words)), None)
    explained = next((value for value, _ in numbers(r"rounding and truncation account for up to #", words)), None)
    if d is not None and explained is not None and verdict in (Verdict.ok, Verdict.float_precision):
        assert d <= explained
    if d is not None and explained is not None and report.cause_key == "not_confirmed":
        assert d >= explained
    for relation, sign in (("over", 1), ("below", -1)):
        for threshold, _ in numbers(f"{relation} the threshold #", words):
            assert sign * (report.discrepancy - threshold) > 0
    only_for = {
        "wrong sign": {Verdict.sign},
        "too small": {Verdict.scale, Verdict.sign},
        "too large": {Verdict.scale, Verdict.sign},
        "clipped": {Verdict.clipped, Verdict.structure},  # it may be wrong besides
        "backprop is zero and numerical is not": {Verdict.missing},
        "numerical is zero and backprop is not": {Verdict.spurious},
        "no single factor": {Verdict.structure},
        "its gradient is zero": {Verdict.ok},
    }
    for phrase, verdicts in only_for.items():
        assert phrase not in words or verdict in verdicts
    assert "too small" not in words or abs(report.ratio) > 1
    assert "too large" not in words or abs(report.ratio) < 1
    assert bool(report.cause) == (verdict.is_bug is not False) or report.cause_key == "small_error"


@given(case=cases())
@settings(max_examples=200, deadline=None)
def test_no_sentence_says_more_than_was_measured(case: Case) -> None:
    """No factor of one number, no advice that is followed, no recurrence, no third guess, no block without a sample."""
    report, words = case.report, words_of(case.report)
    nonzero = np.count_nonzero(case.evidence.entries.g)
    assert nonzero > 1 or not report.verdict.is_factor
    for block in report.blocks.values():
        assert not block.verdict.is_factor or block.sampled > 1
    assert case.evidence.is_native or "precision='float64'" not in words
    assert case.evidence.is_scalar or "unreduced losses" not in words
    assert "recurren" not in words
    assert "through time" not in words
    assert len(report.factors) <= 2
    assert words.count(", or perhaps ") <= 1
    untold = [name for name, block in report.blocks.items() if not block.sampled]
    assert not untold or report.cause_key != "wrong_blocks" or all(name in report.explanation for name in untold)


@given(several=st.lists(cases(), min_size=2, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_summary_names_the_wrong_tensors_and_no_right_one_as_wrong(several: list[Case]) -> None:
    """Each wrong one with its verdict; those that agree only as such; nothing is called wrong where nothing is."""
    reports = {f"tensor{i}": replace(case.report, name=f"tensor{i}") for i, case in enumerate(several)}
    gradients = {f"tensor{i}": case.evidence.entries.g for i, case in enumerate(several)}
    revised = revise_across_tensors(reports, gradients)
    text = summary(revised)
    assert [one.verdict.level for one in revised.values()] == [one.verdict.level for one in reports.values()]
    wrong = [name for name, report in revised.items() if report.verdict.is_bug]
    assert text.startswith("Gradient bug in ") is bool(wrong)
    assert all(name in text for name in wrong)
    agree = re.findall(r"([\w, ]+) agrees?\.", text)
    assert not any(name in agree[-1] for name in wrong) if agree else True
    assert "Every tensor is wrong" not in text or len(wrong) == len(revised)
    assert "All tensors are wrong by the same" not in text or len(wrong) == len(revised)
    assert "recurren" not in text
