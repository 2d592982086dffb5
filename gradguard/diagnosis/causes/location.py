"""Causes of a gradient that is wrong in one part of a tensor only."""

from gradguard.diagnosis.causes.symptoms import Diagnosis, Symptoms
from gradguard.diagnosis.explain import uncertain, worst_entry
from gradguard.report import BlockReport, Verdict
from gradguard.statistics import DerivativePairs, Rules


def wrong_blocks(tensor: Symptoms) -> Diagnosis | None:
    """Some of the named blocks are wrong, such as one gate, and the others agree."""
    wrong = tensor.wrong_blocks
    if tensor.verdict is not Verdict.structure or not wrong:
        return None
    where = ", ".join(f"{block.name} ({_short(block)})" for block in wrong)
    others = len(tensor.blocks) - len(wrong)
    return Diagnosis(
        key="wrong_blocks",
        explanation=f"d = {tensor.evidence.reported.discrepancy:.2g}, wrong on {where}; the other {others} agree",
        cause=_alone(tensor.faulty_block),
    )


def wrong_slice(tensor: Symptoms) -> Diagnosis | None:
    """The wrong entries lie together in a slice of one axis, such as a row or a fourth of a fused matrix."""
    where = tensor.wrong_slice
    if where is None:
        return None
    inside = tensor.evidence.entries.where(where.holds(tensor.evidence.index))
    d = tensor.evidence.reported.discrepancy
    shared = _inside(inside, tensor.evidence.rules)
    return Diagnosis(
        key=f"wrong_slice:axis {where.axis}, {where.first} to {where.last}",
        explanation=f"d = {d:.2g}, wrong on {where} only{shared}; {worst_entry(tensor)}",
        cause=_alone(str(where)),
    )


def _alone(part: str) -> str:
    return f"what the backward pass does for {part} alone"


def _short(block: BlockReport) -> str:
    if block.verdict.is_factor:
        return f"n = {uncertain(block.ratio, block.ratio_error)} x g"
    return str(block.verdict)


def _inside(entries: DerivativePairs, rules: Rules) -> str:
    """What the entries of the slice have in common, if anything."""
    ratio = entries.ratio
    if not entries.g.any():
        return ", where g is zero"
    is_pure = entries.size > 1 and ratio.purity <= rules.max_chi2
    is_one_factor = is_pure and abs(ratio.value) > 3 * ratio.error
    return f", where n = {uncertain(ratio.value, ratio.error)} x g" if is_one_factor else ""


TENSOR_CAUSES = (wrong_blocks, wrong_slice)
