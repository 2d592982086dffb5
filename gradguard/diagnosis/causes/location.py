"""Causes of a gradient that is wrong in one part of a tensor only."""

import math
from collections.abc import Sequence

from gradguard.diagnosis.causes.shared import is_unnamed, is_vector
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms
from gradguard.diagnosis.explain import uncertain, worst_entry
from gradguard.report import BlockReport, TensorReport, Verdict, listed
from gradguard.statistics import DerivativePairs, Rules

LESS = 0.2  # of the discrepancy of the worst blocks, below which the others are wrong because these are


def wrong_blocks(tensor: Symptoms) -> Diagnosis | None:
    """Some of the named blocks are wrong, such as one gate, and the others agree."""
    wrong = tensor.wrong_blocks
    if tensor.verdict is not Verdict.structure or not wrong:
        return None
    where = ", ".join(f"{block.name} ({_short(block)})" for block in wrong)
    untold = [block.name for block in tensor.blocks.values() if not block.verdict.is_bug and not _agrees(block)]
    agreeing = len(tensor.blocks) - len(wrong) - len(untold)
    others = [f"the other {agreeing} agree" if agreeing > 1 else "the other agrees"] if agreeing else []
    others = [f"no verdict on {listed(untold)}", *others] if untold else others
    return Diagnosis(
        key="wrong_blocks",
        explanation="; ".join([f"d = {tensor.evidence.reported.discrepancy:.2g}, wrong in {where}", *others]),
        cause=_where_to_look(tensor.faulty_block),
    )


def worst_blocks(tensor: Symptoms) -> Diagnosis | None:
    """All named blocks are wrong, and some far more than the others, which an error of theirs spoils through time."""
    if tensor.verdict is not Verdict.structure or len(tensor.blocks) < 2 or tensor.wrong_blocks:
        return None
    blocks = sorted(tensor.blocks.values(), key=lambda block: -block.discrepancy)
    count = next((i for i in range(1, len(blocks)) if blocks[i].discrepancy < LESS * blocks[i - 1].discrepancy), 0)
    if not count or not all(block.verdict.is_bug for block in blocks):
        return None
    worst, most = listed([block.name for block in blocks[:count]]), blocks[count].discrepancy
    d = tensor.evidence.reported.discrepancy
    return Diagnosis(
        key=f"worst_blocks:{worst}",
        explanation=(
            f"d = {d:.2g}, wrong in all {len(blocks)} blocks and most in {worst} "
            f"(d = {blocks[count - 1].discrepancy:.2g} there and at most {most:.2g} elsewhere); {worst_entry(tensor)}"
        ),
        cause=f"look first at the gradient code of {worst}",
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
        explanation=f"d = {d:.2g}, wrong only in {where}{shared}; {worst_entry(tensor)}",
        cause=_where_to_look(str(where)),
    )


def _where_to_look(part: str) -> str:
    return f"look at the gradient code of {part}"


def _agrees(block: BlockReport) -> bool:
    """Whether entries that are not zero show that it agrees."""
    return block.verdict.is_bug is False and block.resolvable > 0


def _short(block: BlockReport) -> str:
    if block.sampled == 1:
        return "in its only entry"
    if block.verdict.is_factor:
        return f"numerical = {uncertain(block.ratio, block.ratio_error)} x backprop"
    return str(block.verdict)


def _inside(entries: DerivativePairs, rules: Rules) -> str:
    """What the entries of the slice have in common, if anything."""
    ratio = entries.ratio
    if not entries.g.any():
        return ", where backprop is zero"
    is_pure = entries.size > 1 and ratio.purity <= rules.max_chi2
    is_one_factor = is_pure and abs(ratio.value) > 3 * ratio.error
    return f", where numerical = {uncertain(ratio.value, ratio.error)} x backprop" if is_one_factor else ""


def weights_only(model: Model) -> Diagnosis | None:
    """Matrices are wrong by no factor, and the biases beside them agree: what reaches these layers is right."""
    tensors, wrong = list(model.tensors.values()), model.wrong
    if len(wrong) < 2 or any(is_vector(tensor) for tensor in wrong) or not all(map(is_unnamed, wrong)):
        return None
    with_bias = [tensor for tensor in tensors if not is_vector(tensor) and _own_bias(tensor, tensors)]
    biased = [tensor for tensor in wrong if tensor in with_bias]
    is_whole_kind = biased == wrong or (biased and biased == with_bias)
    if not is_whole_kind or any(_own_bias(tensor, tensors) not in model.right for tensor in biased):
        return None
    return Diagnosis(
        key="weights_only",
        explanation=f"The biases agree and the matrices beside them are wrong ({listed([one.name for one in wrong])})",
        cause=(
            "what reaches these layers is right; look at the outer product with their inputs (inputs of another step, "
            "row or layer, taken before the activation or dropout, or not transposed)"
        ),
    )


def _own_bias(tensor: TensorReport, tensors: Sequence[TensorReport]) -> TensorReport | None:
    """The bias of a matrix: the next tensor, where that is a vector with the length of an axis of the matrix."""
    following = tensors[tensors.index(tensor) + 1 :][:1]
    return next((one for one in following if is_vector(one) and math.prod(one.shape) in tensor.shape), None)


TENSOR_CAUSES = (wrong_blocks, worst_blocks, wrong_slice)
HINTS = (weights_only,)
