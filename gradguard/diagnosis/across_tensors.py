"""The tensors read together, as an expert would: what they share, where to look, and the check in a sentence."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from gradguard.arrays.reductions import norm
from gradguard.arrays.types import Array
from gradguard.report.results import TensorReport
from gradguard.report.verdict import Verdict

SHARED = 0.2  # relative distance within which a pooled ratio is the same factor with something else on top
FACTOR = 0.05  # a factor closer to 1 than that is not worth looking for in other tensors
ROUND = 1e-5  # relative distance from a number of two digits
MANY = 8  # tensors that a sentence names
CARRY = (
    "The recurrence is wrong and not all of the rest: look at the carry through time (the derivative of the cell's "
    "tanh, the carried dc and dh, the transpose of the recurrent matrix, `=` where steps are summed by `+=`)."
)


def worst_verdict(tensors: Mapping[str, TensorReport]) -> Verdict:
    """The gravest verdict, the first of its kind; ok where there are no tensors."""
    return max((tensor.verdict for tensor in tensors.values()), key=lambda verdict: verdict.level, default=Verdict.ok)


def revise_across_tensors(
    tensors: Mapping[str, TensorReport], gradients: Mapping[str, Array]
) -> dict[str, TensorReport]:
    """The reports, revised where only all tensors together show the cause: a gradient clipped by its norm.

    Args:
        tensors: The reports of all tensors.
        gradients: And their gradients.
    """
    shrunk = [tensor for tensor in tensors.values() if tensor.verdict is Verdict.scale and _may_be_clip(tensor)]
    if not shrunk:
        return dict(tensors)
    norms = {name: norm(gradient) for name, gradient in gradients.items()}
    agrees = any(tensor.verdict.is_bug is False and norms[name] > 0 for name, tensor in tensors.items())
    total = math.hypot(*norms.values())
    if len(shrunk) > 1 and not agrees and _one_factor(shrunk) and _is_round(total):
        together = {tensor.name: _clipped(tensor, total, "all gradients together") for tensor in shrunk}
        return {name: together.get(name, tensor) for name, tensor in tensors.items()}
    return {
        name: _clipped(tensor, norms[name], "it")
        if tensor in shrunk and "`" not in tensor.explanation and _is_round(norms[name])
        else tensor
        for name, tensor in tensors.items()
    }


def _one_factor(tensors: Sequence[TensorReport]) -> bool:
    first = min(tensors, key=lambda tensor: tensor.ratio_error)
    return all(
        abs(tensor.ratio - first.ratio) <= 4 * math.hypot(tensor.ratio_error, first.ratio_error) for tensor in tensors
    )


def _may_be_clip(tensor: TensorReport) -> bool:
    """Whether a gradient is too small by a factor that is no round number, as a clip's is by chance only."""
    return tensor.ratio > 1 and not _is_round(tensor.ratio, max(ROUND, 3 * tensor.ratio_error / tensor.ratio))


def _is_round(value: float, within: float = ROUND) -> bool:
    return value > 0 and abs(float(f"{value:.1e}") / value - 1) < within


def _clipped(tensor: TensorReport, norm: float, what: str) -> TensorReport:
    says = f"{tensor.explanation}, and the norm of {what} is {norm:.6g}, a round number"
    cause = f"the gradient is clipped to a norm of {norm:.6g} before the check; call after_backward before clipping"
    return dataclasses.replace(tensor, verdict=Verdict.clipped, explanation=says, cause=cause)


def summary(tensors: Mapping[str, TensorReport]) -> str:
    """What the check says, in a sentence or two: which tensors are wrong and how, or what float precision explains."""
    wrong = [tensor for tensor in tensors.values() if tensor.verdict.is_bug]
    unclear = [tensor for tensor in tensors.values() if tensor.verdict.is_bug is None]
    right = [tensor for tensor in tensors.values() if tensor.verdict.is_bug is False]
    if wrong:
        return " ".join(["Float precision does not explain it:", *_told(wrong), *_hints(wrong, right), *_agree(right)])
    if unclear:
        told = "; ".join(f"{_names(alike)}: {alike[0].explanation}" for alike in _alike(unclear))
        return f"This check cannot tell: {told}."
    furthest = max(right, key=lambda tensor: tensor.discrepancy, default=None)
    if furthest is None or furthest.discrepancy == 0:
        return "No bug: the gradients agree with the differences of the loss."
    return (
        f"No bug: float precision explains every difference (the largest, on {furthest.name}: {furthest.explanation})."
    )


def _told(wrong: Sequence[TensorReport]) -> list[str]:
    return [f"{_names(alike)}: {_group(alike)}." for alike in _alike(wrong)]


def _group(alike: Sequence[TensorReport]) -> str:
    first = alike[0]
    if first.faulty_block and len(alike) > 1:
        return f"{first.verdict}, each wrong on {first.faulty_block} only ({first.name}: {first.explanation})"
    if first.verdict is Verdict.structure and len(alike) > 1:
        return "structure, no single factor explains any of them"
    return f"{first.verdict}, {first.explanation}; {first.cause}"


def _alike(tensors: Iterable[TensorReport]) -> list[list[TensorReport]]:
    groups: dict[tuple[str, str], list[TensorReport]] = {}
    for tensor in tensors:
        shared = tensor.faulty_block or ("" if tensor.verdict is Verdict.structure else tensor.cause)
        groups.setdefault((tensor.verdict, shared), []).append(tensor)
    return list(groups.values())


def _hints(wrong: Sequence[TensorReport], right: Sequence[TensorReport]) -> list[str]:
    structural = [tensor for tensor in wrong if tensor.verdict is Verdict.structure]
    scaled = [tensor for tensor in wrong if tensor.verdict is Verdict.scale]
    if not right and len(wrong) > 1 and len(scaled) == len(wrong) and _one_factor(scaled):
        return ["All tensors are wrong alike: normalisation, loss scale or accumulation, not a term of the chain rule."]
    for tensor in scaled:
        with_more = [other for other in structural if abs(other.ratio / tensor.ratio - 1) < SHARED]
        if with_more and abs(tensor.ratio - 1) > FACTOR:
            return [f"The factor {tensor.ratio:.4g} of {tensor.name} is in {_names(with_more)} too, with more on top."]
    if right and len(structural) > 1 and any(map(_is_recurrent, structural)) and not structural[0].faulty_block:
        return [CARRY]
    return []


def _is_recurrent(tensor: TensorReport) -> bool:
    """Whether the shape is that of a recurrent matrix: (H, H), or (H, kH) with k fused gates."""
    if len(tensor.shape) != 2:
        return False
    short, long = sorted(tensor.shape)
    return short > 0 and long in (short, 3 * short, 4 * short)


def _agree(right: Sequence[TensorReport]) -> list[str]:
    return [f"{_names(right)} {'agrees' if len(right) == 1 else 'agree'}."] if right else []


def _names(tensors: Sequence[TensorReport]) -> str:
    names = [tensor.name for tensor in tensors]
    if len(names) > MANY:
        return f"{', '.join(names[: MANY - 1])} and {len(names) - MANY + 1} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def unmeasured(
    shapes: Mapping[str, tuple[int, ...]], verdict: Verdict, explanation: str, cause: str, *, deep: bool = True
) -> dict[str, TensorReport]:
    """Reports of tensors of which nothing was measured, by their shapes."""
    return {
        name: TensorReport(
            name=name,
            shape=shape,
            verdict=verdict,
            cause=cause,
            explanation=explanation,
            faulty_block="",
            discrepancy=0.0 if verdict is Verdict.ok else math.nan,
            floor=0.0 if verdict is Verdict.ok else math.inf,
            ratio=math.nan,
            ratio_error=math.inf,
            sign_agreement=1.0,
            sign_interval=(0.0, 1.0),
            resolvable=0,
            sampled=0,
            unresolved=0,
            kinks=0,
            coverage=0.0,
            step_size=math.nan,
            noise=math.nan,
            smallest_visible=math.inf,
            deep=deep,
        )
        for name, shape in shapes.items()
    }
