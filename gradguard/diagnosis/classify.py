"""Verdict and cause, from what was measured of one tensor."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from gradguard.diagnosis import explain
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.known_factors import History
from gradguard.diagnosis.localize import AxisSlice, locate
from gradguard.report.results import BlockReport, Entry, TensorReport
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.statistics.discrepancy import norm
from gradguard.statistics.pairs import ALARM, DerivativePairs

PURE = 3.0  # reduced chi^2 of n - k g; one factor gave up to 1.6, wrong structure 6 and more
NEXT_TO_NOTHING = 0.01  # of n - g, that one factor leaves
BLIND = 10.0  # floors above this many discrepancy thresholds tell nothing
LEFT_OUT = 0.2  # of the entries, above which the rest do not speak for the tensor
CLIPPED = 2  # entries at one extreme value that make it a clip
SHOWN = 300  # entries that a report keeps one by one
SAME = 1e-9  # relative distance of equal derivatives, each measured over a realised step


def diagnose_tensor(evidence: Evidence, history: History, thresholds: Thresholds) -> TensorReport:
    """Verdict, cause and the numbers behind them, for one tensor.

    Args:
        evidence: What was measured.
        history: Earlier ratios of this tensor with the constants of their time, and the constants now.
        thresholds: What counts as agreement.
    """
    entries, pairs, shown = evidence.entries, evidence.all, evidence.reported
    verdict = (
        _kind_of_bug(pairs, entries) if evidence.deep and evidence.is_suspect else _without_bug(evidence, thresholds)
    )
    blocks = {name: _block(name, entries.where(mask), evidence, thresholds) for name, mask in evidence.blocks.items()}
    ratio, signs, worst = pairs.ratio, entries.signs, _worst(evidence)
    place = _place(evidence) if verdict is Verdict.structure and not blocks else None
    sentence = explain.Explanation(
        evidence=evidence,
        blocks=blocks,
        worst=worst,
        place=place,
        names=history.names_of(ratio.value, ratio.error, evidence.shape) if verdict.is_factor else (),
        thresholds=thresholds,
    )
    explanation, cause = sentence.of(verdict)
    return TensorReport(
        name=evidence.name,
        shape=evidence.shape,
        verdict=verdict,
        cause=cause,
        explanation=explanation,
        faulty_block=_faulty_block(blocks, place),
        discrepancy=shown.discrepancy,
        floor=shown.floor,
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
        blocks=blocks,
        worst=worst,
        ratios=_ratios(entries.where(entries.resolvable)),
        entries=_entries(evidence, _spread(entries.size)),
        constants=history.constants,
    )


def _place(evidence: Evidence) -> AxisSlice | None:
    """Where the wrong entries lie together, among those that could be told right from wrong."""
    entries = evidence.entries
    telling = entries.resolvable | (np.abs(entries.z) > ALARM)
    index = [place for place, tells in zip(evidence.index, telling, strict=True) if tells]
    return locate(index, np.abs(entries.z[telling]) > ALARM, evidence.shape)


def _faulty_block(blocks: Mapping[str, BlockReport], place: AxisSlice | None) -> str:
    wrong = [block.name for block in blocks.values() if block.verdict.is_bug]
    if wrong and len(wrong) < len(blocks):
        return " and ".join(wrong)
    return place.block_name if place is not None else ""


def _worst(evidence: Evidence, count: int = 5) -> tuple[Entry, ...]:
    entries = evidence.entries
    return _entries(evidence, np.argsort(-np.abs(entries.z), kind="stable")[:count])


def _spread(size: int) -> Iterable[int]:
    """All places, or as many as a picture can show, evenly."""
    return range(0, size, max(1, math.ceil(size / SHOWN)))


def _entries(evidence: Evidence, chosen: Iterable[int]) -> tuple[Entry, ...]:
    entries = evidence.entries
    return tuple(
        Entry(evidence.index[i], float(entries.g[i]), float(entries.n[i]), float(entries.error[i])) for i in chosen
    )


def _ratios(clear: DerivativePairs) -> tuple[float, ...]:
    with np.errstate(over="ignore"):
        return tuple(float(k) for k in clear.n / clear.g)


def _kind_of_bug(pairs: DerivativePairs, entries: DerivativePairs) -> Verdict:
    if np.abs(pairs.g).max() <= 1e-9 * np.abs(pairs.n).max():
        return Verdict.missing
    if not (np.abs(pairs.n) > 3 * pairs.error).any():
        return Verdict.spurious
    ratio = pairs.ratio
    told = min(abs(ratio.value - 1), abs(ratio.value)) > 3 * ratio.error
    if told and _is_one_factor(pairs):
        return Verdict.sign if ratio.value < 0 else Verdict.scale
    return Verdict.clipped if _is_clipped(entries) else Verdict.structure


def _is_one_factor(pairs: DerivativePairs) -> bool:
    """Whether n = k g says it all, or leaves next to nothing of n - g: noise may be a little more than was heard."""
    ratio = pairs.ratio
    left = norm(pairs.n - ratio.value * pairs.g)
    return ratio.worst <= ALARM and (ratio.purity <= PURE or left <= NEXT_TO_NOTHING * norm(pairs.n - pairs.g))


def _is_clipped(entries: DerivativePairs) -> bool:
    """Whether many |g| are at one extreme value, |n| is larger there, and everything else agrees."""
    extreme = np.abs(entries.g).max(initial=0.0)
    clipped = np.abs(entries.g) >= extreme * (1 - SAME)
    beyond = (np.abs(entries.n) > extreme) | (np.abs(entries.z) <= ALARM)
    same_sign = np.sign(entries.n) == np.sign(entries.g)
    wrong = (np.abs(entries.z) > ALARM) & ~clipped
    return bool(clipped.sum() >= CLIPPED and (beyond & same_sign)[clipped].all() and not wrong.any())


def _without_bug(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    if evidence.kinks > LEFT_OUT * evidence.sampled:
        return Verdict.kink
    too_few = evidence.deep and evidence.unresolved > LEFT_OUT * evidence.sampled
    if too_few or not evidence.all.size:
        return Verdict.inconclusive
    return _agreement(evidence.reported, evidence.passing, thresholds)


def _agreement(pairs: DerivativePairs, passing: float, thresholds: Thresholds) -> Verdict:
    if not pairs.n.any() and not pairs.g.any():
        return Verdict.ok
    unexplained = pairs.discrepancy > max(thresholds.discrepancy, pairs.explained)
    if unexplained or (pairs.floor > BLIND * thresholds.discrepancy and not pairs.is_negligible(passing)):
        return Verdict.inconclusive
    return Verdict.float_precision if pairs.discrepancy > thresholds.discrepancy else Verdict.ok


def _block(name: str, entries: DerivativePairs, evidence: Evidence, thresholds: Thresholds) -> BlockReport:
    if not entries.size:
        verdict = Verdict.inconclusive
    elif evidence.is_suspect and evidence.deep and entries.significance(evidence.nonsmooth) > ALARM:
        verdict = _kind_of_bug(entries, entries)
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
