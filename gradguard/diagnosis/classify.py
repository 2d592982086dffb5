"""Verdict and report of one tensor, from what was measured of it."""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradguard.diagnosis.causes.registry import cause_of_tensor
from gradguard.diagnosis.causes.symptoms import Surroundings, Symptoms
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.explain import diagnosis_of_small_error, diagnosis_of_verdict
from gradguard.diagnosis.known_factors import History
from gradguard.report import BlockReport, Entry, TensorReport, Thresholds, Verdict
from gradguard.statistics import DerivativePairs, Rules, norm

MAX_REST_OF_FACTOR = 0.01  # of n, and of n - g: what one factor leaves is nothing beside what it explains
MAX_REST_OF_CLEAR_FACTOR = 0.1  # the same for a factor that is neither 0 nor 1, whatever its error bar is
MAX_FLOOR = 10.0  # discrepancy thresholds; a check with a wider error bar tells nothing
MAX_LEFT_OUT = 0.2  # of the entries; with more left out, the others do not speak for the tensor
WORST_ENTRIES = 5  # that a report lists
MAX_ENTRIES = 300  # that a report keeps one by one, as many as a chart shows
RESOLVED = 3.0  # standard errors by which a derivative, or a ratio, must differ from what it is compared with


def diagnose_tensor(
    evidence: Evidence, history: History, thresholds: Thresholds, surroundings: Surroundings | None = None
) -> TensorReport:
    """Verdict, cause and the numbers behind them, for one tensor.

    Args:
        evidence: What was measured.
        history: Earlier ratios of this tensor with the constants of their time, and the constants now.
        thresholds: What counts as agreement.
        surroundings: The arrays of the model; None where only this tensor's numbers are known.
    """
    differs = evidence.deep and evidence.is_suspect
    is_wrong = differs and max(pairs.discrepancy for pairs in evidence.kinds) >= thresholds.relevant
    symptoms = Symptoms(
        verdict=_kind_of_bug(evidence.all, evidence) if is_wrong else _without_bug(evidence, thresholds),
        evidence=evidence,
        blocks={name: _block(name, mask, evidence, thresholds) for name, mask in evidence.blocks.items()},
        worst=_worst(evidence),
        history=history,
        thresholds=thresholds,
        surroundings=surroundings or Surroundings(),
    )
    return _report(symptoms)


def _report(symptoms: Symptoms) -> TensorReport:
    evidence, reported = symptoms.evidence, symptoms.evidence.reported
    diagnosis = cause_of_tensor(symptoms) or diagnosis_of_verdict(symptoms)
    if symptoms.verdict.is_bug is False and evidence.deep and evidence.is_suspect:
        diagnosis = diagnosis_of_small_error(symptoms)
    ratio, signs = evidence.factor if symptoms.verdict.is_factor else evidence.all.ratio, evidence.entries.signs
    return TensorReport(
        name=evidence.name,
        shape=evidence.shape,
        verdict=diagnosis.verdict or symptoms.verdict,
        cause=diagnosis.cause,
        explanation=diagnosis.explanation,
        faulty_block=symptoms.faulty_block,
        discrepancy=reported.discrepancy if reported.size else math.nan,
        floor=reported.floor if reported.size else math.nan,
        ratio=ratio.value,
        ratio_error=ratio.error,
        sign_agreement=signs.share,
        sign_interval=signs.interval,
        resolvable=signs.resolvable,
        sampled=evidence.sampled,
        unresolved=evidence.unresolved,
        kinks=evidence.kinks,
        coverage=evidence.coverage,
        step_size=evidence.step_size,
        noise=evidence.noise,
        smallest_visible=evidence.smallest_visible,
        deep=evidence.deep,
        blocks=symptoms.blocks,
        worst=tuple(symptoms.worst),
        ratios=_ratios(evidence.entries),
        entries=_entries(evidence, _evenly(evidence.entries.size)),
        constants=symptoms.history.constants,
        cause_key=diagnosis.key,
        factors=tuple(factor.label for factor in symptoms.factors if factor.is_named_by_user),
    )


def _worst(evidence: Evidence) -> tuple[Entry, ...]:
    return _entries(evidence, np.argsort(-np.abs(evidence.entries.z), kind="stable")[:WORST_ENTRIES])


def _evenly(size: int) -> Iterable[int]:
    """All places, or at most MAX_ENTRIES of them at equal distances."""
    return range(0, size, max(1, math.ceil(size / MAX_ENTRIES)))


def _entries(evidence: Evidence, chosen: Iterable[int]) -> tuple[Entry, ...]:
    entries = evidence.entries
    return tuple(
        Entry(evidence.index[i], float(entries.g[i]), float(entries.n[i]), float(entries.error[i])) for i in chosen
    )


def _ratios(entries: DerivativePairs) -> tuple[float, ...]:
    """N / g of each entry of which both signs can be told."""
    clear = entries.where(entries.resolvable)
    with np.errstate(over="ignore"):
        return tuple(float(k) for k in clear.n / clear.g)


def _kind_of_bug(pairs: DerivativePairs, evidence: Evidence) -> Verdict:
    """What is wrong with a gradient that is known to be wrong.

    Args:
        pairs: Entries and directions, or those of one block.
        evidence: What was measured of the tensor.
    """
    if np.abs(pairs.g).max() <= 1e-9 * np.abs(pairs.n).max():
        return Verdict.missing
    if not (np.abs(pairs.n) > RESOLVED * pairs.error).any():
        return Verdict.spurious
    if not evidence.shows_factor(pairs):
        return Verdict.structure
    ratio = pairs.ratio
    is_resolved = min(abs(ratio.value - 1), abs(ratio.value)) > RESOLVED * ratio.error
    # Rounding may push all entries the same way: in bfloat16 that bound is wide, even where n and g are parallel.
    is_clear = is_resolved or _rest_of_factor(pairs) <= MAX_REST_OF_CLEAR_FACTOR
    if is_clear and _is_one_factor(pairs, evidence.rules):
        return Verdict.sign if ratio.value < 0 else Verdict.scale
    return Verdict.structure


def _is_one_factor(pairs: DerivativePairs, rules: Rules) -> bool:
    """Whether n = k g leaves no more than noise, or nothing beside n and n - g: bars may be narrow in low precision."""
    is_pure = pairs.ratio.purity <= rules.max_chi2 or _rest_of_factor(pairs) <= MAX_REST_OF_FACTOR
    return is_pure and (pairs.ratio.worst <= rules.alarm or not rules.worst_entry)


def _rest_of_factor(pairs: DerivativePairs) -> float:
    """What n = k g leaves, as a share of n or of n - g, whichever is smaller."""
    explained = min(norm(pairs.n), norm(pairs.n - pairs.g))
    return norm(pairs.n - pairs.ratio.value * pairs.g) / explained if explained else math.inf


def _without_bug(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    if evidence.kinks > MAX_LEFT_OUT * evidence.sampled:
        return Verdict.kink
    too_few = evidence.deep and evidence.unresolved > MAX_LEFT_OUT * evidence.sampled
    if too_few or not evidence.all.size:
        return Verdict.inconclusive
    return _agreement(evidence.reported, evidence.passing, thresholds)


def _agreement(pairs: DerivativePairs, passing: float, thresholds: Thresholds) -> Verdict:
    if not pairs.n.any() and not pairs.g.any():
        return Verdict.ok
    unexplained = pairs.discrepancy > max(thresholds.discrepancy, pairs.explained)
    if unexplained or (pairs.floor > MAX_FLOOR * thresholds.discrepancy and not pairs.is_negligible(passing)):
        return Verdict.inconclusive
    return Verdict.float_precision if pairs.discrepancy > thresholds.discrepancy else Verdict.ok


def _is_suspect(entries: DerivativePairs, evidence: Evidence) -> bool:
    return entries.significance(evidence.nonsmooth, evidence.rules) > evidence.rules.alarm


def _block(name: str, mask: NDArray[np.bool_], evidence: Evidence, thresholds: Thresholds) -> BlockReport:
    entries = evidence.entries.where(mask)
    if not entries.size:
        verdict = Verdict.inconclusive
    elif evidence.is_suspect and evidence.deep and _is_suspect(entries, evidence):
        verdict = _kind_of_bug(entries, evidence)
    else:
        verdict = _agreement(entries, evidence.passing, thresholds)
    ratio, signs = entries.ratio, entries.signs
    return BlockReport(
        name=name,
        verdict=verdict,
        discrepancy=entries.discrepancy,
        floor=entries.floor,
        ratio=ratio.value,
        ratio_error=ratio.error,
        sign_agreement=signs.share,
        resolvable=signs.resolvable,
        sampled=entries.size,
    )
