"""The sentences of each verdict: what was found, with its numbers, and the likely cause where none has a name.

A new verdict that a measurement may lead to is a function here and its line in the table at the end.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms
from gradguard.diagnosis.evidence import Evidence
from gradguard.report import Verdict, percent, told_apart
from gradguard.statistics import DerivativePairs

ROUGH = "the loss is too rough near these parameters: no step size gives a reliable difference"
MAX_WRITTEN_ERROR = 1e6  # an error above this is not written digit by digit
MIN_RATIOS_FOR_QUANTILES = 4  # ratios n/g; of fewer, the 10 % and 90 % quantiles are about the extremes
METHODS = {
    "differences": "at this step size",
    "complex step": "(complex step)",
    "forward mode": "(forward mode)",
    "reverse pass": "(reverse pass)",
}


def diagnosis_of_verdict(tensor: Symptoms) -> Diagnosis:
    """What the verdict alone says, of a tensor whose cause has no name or that has none."""
    return _DIAGNOSES[tensor.verdict](tensor)


SMALL_ERROR = "small_error"
ONE_ENTRY = "one_entry"
CHAIN_RULE = "chain_rule"


def diagnosis_of_small_error(tensor: Symptoms) -> Diagnosis:
    """What is said of a gradient whose error is confirmed, and smaller than the user finds relevant."""
    says = f"{_d(tensor)}, more than rounding and truncation account for, but below the relevant size"
    remedy = f"to report it as a bug, set Thresholds(relevant=...) below {tensor.thresholds.relevant:g}"
    return Diagnosis(SMALL_ERROR, says, f"a small error of the backward pass; {remedy}")


def _ok(tensor: Symptoms) -> Diagnosis:
    if tensor.evidence.loss_unchanged and not tensor.evidence.reported.g.any():
        return Diagnosis("", "the loss does not depend on this tensor, and its gradient is zero")
    if tensor.evidence.reported.discrepancy > tensor.evidence.reported.explained:
        below = f"below the threshold {tensor.thresholds.discrepancy:g}"
        return Diagnosis("", f"{_d(tensor)}, {below} {_method(tensor)}{_left_out(tensor)}")
    return Diagnosis("", f"{_d(tensor)}; {_explained(tensor)} {_method(tensor)}{_left_out(tensor)}")


def _float_precision(tensor: Symptoms) -> Diagnosis:
    pairs = tensor.evidence.reported
    if pairs.is_negligible(tensor.evidence.passing):
        largest, below = np.abs(pairs.g).max(), np.hypot(pairs.n, pairs.error).max()
        zero = f"numerical is zero within {below:.1g}, and backprop (up to {largest:.1g}) is rounding error"
        return Diagnosis("", f"{zero}{_left_out(tensor)}")
    over = f"{_d(tensor)} is over the threshold {tensor.thresholds.discrepancy:g}"
    return Diagnosis("", f"{over}; {_explained(tensor)} {_method(tensor)}{_left_out(tensor)}")


def _inconclusive(tensor: Symptoms) -> Diagnosis:
    evidence, left_out = tensor.evidence, _left_out(tensor)
    if not evidence.all.size:
        return Diagnosis("loss_too_rough", f"nothing could be measured{left_out}", ROUGH)
    says = f"{_d(tensor)}; {_explained(tensor)}"
    if evidence.reported.discrepancy > evidence.reported.explained:
        return Diagnosis(
            "not_confirmed",
            f"{says}; not enough evidence to confirm a bug{left_out}",
            _with_remedy("a bug, or the loss curves too strongly for finite differences here", evidence),
        )
    if evidence.all.g.any() and not evidence.all.n.any():
        largest = np.abs(evidence.all.g).max()
        return Diagnosis(
            "loss_not_moved",
            f"numerical is zero throughout, and |backprop| is up to {largest:.2g}{left_out}",
            _with_remedy(
                "the step may be too small to change the loss, or the loss does not depend on this tensor", evidence
            ),
        )
    visible = evidence.smallest_visible
    limit = f"smallest detectable error: {percent(visible)}" if visible < 1 else "no error can be detected"
    if evidence.unresolved > evidence.entries.size:
        return Diagnosis("loss_too_rough", f"{says}; {limit}{left_out}", ROUGH)
    noisy = _with_remedy("the rounding noise of the loss hides its slope here", evidence)
    return Diagnosis("loss_too_noisy", f"{says}; {limit}{left_out}", noisy)


def _with_remedy(cause: str, evidence: Evidence) -> str:
    """A cause with what would narrow the error bar, as far as that is not done already."""
    ways = ["precision='float64'"] if evidence.is_native else []
    ways += ["unreduced losses with a reduction"] if evidence.is_scalar else []
    ways += ["a loss summed in float64"] if evidence.is_native and evidence.is_scalar else []
    *others, last = ways or [""]
    return (
        f"{cause}; to narrow the error bar, use {', '.join(others)}{' or ' if others else ''}{last}" if ways else cause
    )


def _kink(tensor: Symptoms) -> Diagnosis:
    evidence = tensor.evidence
    shorter = ", or with precision='float64', whose steps are shorter" if evidence.is_native else ""
    count = f"{evidence.kinks} of {evidence.sampled} entries sit at a kink of the loss and were skipped"
    others = f"; in the others, {_d(tensor)}; {_explained(tensor)}" if evidence.reported.size else ""
    return Diagnosis(
        "kink",
        f"{count}{others}",
        "ReLU, clamp, max or abs at its corner, where left and right slopes differ and backprop may return either; "
        f"check at other parameters{shorter}",
    )


def _unnamed_factor(tensor: Symptoms) -> Diagnosis:
    ratio = tensor.evidence.factor
    key, cause = unnamed_factor(ratio.value, ratio.error)
    return diagnosis_of_factor(tensor, key, cause)


def unnamed_factor(ratio: float, error: float) -> tuple[str, str]:
    """The key and the cause of a ratio n/g that is no known number."""
    key, cause = too_small_or_large(ratio, error)
    return key, cause if abs(abs(ratio) - 1) < 0.1 else f"{cause}; pass constants={{...}} to have the factor identified"


def too_small_or_large(ratio: float, error: float) -> tuple[str, str]:
    """What a ratio n/g says of the backward pass, and the key of that."""
    k = abs(ratio)
    size = "small" if k > 1 else "large"
    if abs(k - 1) < 0.1:
        return (
            f"too_{size}",
            f"the backward pass is {uncertain(100 * abs(1 / k - 1), 100 * error)} % too {size} throughout",
        )
    times = uncertain(max(k, 1 / k), error / min(1, k) / min(1, k))
    return f"too_{size}", f"the backward pass is {times} times too {size}"


def diagnosis_of_factor(tensor: Symptoms, key: str, cause: str, is_what: str = "") -> Diagnosis:
    """What is said of a gradient that is wrong by one factor, its sign included.

    Args:
        tensor: The tensor, of which the verdict is `scale` or `sign`.
        key: The identifier of what makes the factor.
        cause: What makes it, in a clause.
        is_what: What the factor is, in a clause to put behind its value.
    """
    ratio = tensor.evidence.factor
    verdicts = {block.verdict for block in tensor.blocks.values()}
    where = f" in all {len(tensor.blocks)} blocks" if len(verdicts) == 1 else ""
    explanation = f"numerical = {uncertain(ratio.value, ratio.error)} x backprop{where}{is_what}"
    if tensor.verdict is not Verdict.sign:
        return Diagnosis(key, explanation, cause)
    wrong_sign = "the backward pass has the wrong sign"
    if abs(abs(ratio.value) - 1) <= 3 * ratio.error:
        return Diagnosis("wrong_sign", explanation, wrong_sign)
    return Diagnosis(f"wrong_sign, {key}", explanation, f"{wrong_sign}, and {cause}")


def _missing(tensor: Symptoms) -> Diagnosis:
    largest = np.abs(tensor.evidence.all.n).max()
    return Diagnosis(
        "never_written",
        f"backprop is zero and numerical is not (up to {largest:.2g})",
        "the backward pass never writes this gradient, or something detaches it",
    )


def _spurious(tensor: Symptoms) -> Diagnosis:
    largest = np.abs(tensor.evidence.all.g).max()
    is_given = math.isnan(tensor.evidence.step_size)
    step = "; or the step was too small to change the loss" if is_given and not tensor.evidence.all.n.any() else ""
    return Diagnosis(
        "not_in_the_loss",
        f"numerical is zero and backprop is not (up to {largest:.2g}): the loss does not depend on this tensor",
        "the gradient of another tensor, of another batch, or of a term that the loss lacks; or the loss reads another "
        f"array, such as a copy: pass the mapping that the loss reads{step}",
    )


def _structure(tensor: Symptoms) -> Diagnosis:
    if not tensor.evidence.shows_factor(tensor.evidence.all):
        return Diagnosis(
            ONE_ENTRY,
            f"{_d(tensor)}, {worst_entry(tensor)}; a single entry cannot show a factor",
            "a factor, a sign or a term of the chain rule (compare the other tensors of the layer), or numerical and "
            "backprop belong to different losses",
        )
    cause = "a term of the chain rule is wrong, missing or in the wrong place"
    if tensor.evidence.reported.discrepancy < tensor.thresholds.discrepancy:
        cause += "; or a small part is held constant on purpose (detach, no_grad, the vectors of a power iteration)"
    spread = _range_of_ratios(tensor.evidence.entries)
    says = f"d = {tensor.evidence.reported.discrepancy:.2g}; no single factor explains it{spread}"
    return Diagnosis(
        CHAIN_RULE,
        "; ".join(filter(None, [says, worst_entry(tensor)])),
        cause,
    )


def worst_entry(tensor: Symptoms) -> str:
    """The entry that deviates most, with its values; "" where no entry was measured."""
    if not tensor.worst:
        return ""
    worst = tensor.worst[0]
    n, g = told_apart(worst.numeric, worst.analytic, 3)
    return f"worst at {list(worst.index)}: numerical = {n}, backprop = {g}"


def _d(tensor: Symptoms) -> str:
    return f"d = {tensor.evidence.reported.discrepancy:.1e}"


def _explained(tensor: Symptoms) -> str:
    return f"rounding and truncation account for up to {min(1.0, tensor.evidence.reported.explained):.1e}"


def _method(tensor: Symptoms) -> str:
    return METHODS[tensor.evidence.method]


def _left_out(tensor: Symptoms) -> str:
    kinks, unresolved = tensor.evidence.kinks, tensor.evidence.unresolved
    counts = [f"{kinks} at a kink"] if kinks else []
    counts += [f"{unresolved} without a reliable step size"] if unresolved else []
    return f" (entries skipped: {', '.join(counts)})" if counts else ""


def _range_of_ratios(entries: DerivativePairs) -> str:
    clear = entries.where(entries.resolvable)
    if clear.size < MIN_RATIOS_FOR_QUANTILES:
        return ""
    low, high = np.quantile(clear.n / clear.g, [0.1, 0.9])
    return " (ratio n/g mostly from {} to {})".format(*told_apart(float(low), float(high), 3))


def uncertain(value: float, error: float = 0.0) -> str:
    """A value with its uncertainty in the last digits: 39.01(2), or 60(16)."""
    if not (error > 0 and math.isfinite(error) and math.isfinite(value)):
        return f"{value:.6g}"
    digits = max(0, -math.floor(math.log10(error)))
    last = round(error * 10**digits)
    if last == 10:
        digits, last = digits - 1, 1
    if digits <= 0 and error < MAX_WRITTEN_ERROR:
        return f"{value:.0f}({error:.0f})"
    if digits <= 0 or digits > 9:
        return f"{value:.6g}"
    return f"{value:.{digits}f}({last})"


_DIAGNOSES: Mapping[Verdict, Callable[[Symptoms], Diagnosis]] = {
    Verdict.ok: _ok,
    Verdict.float_precision: _float_precision,
    Verdict.inconclusive: _inconclusive,
    Verdict.kink: _kink,
    Verdict.scale: _unnamed_factor,
    Verdict.sign: _unnamed_factor,
    Verdict.missing: _missing,
    Verdict.spurious: _spurious,
    Verdict.structure: _structure,
}
