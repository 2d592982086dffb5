"""What several wrong tensors have in common, as a hint where to look."""

import math
from collections.abc import Sequence

from gradguard.diagnosis.causes.symptoms import Diagnosis, Model
from gradguard.report import TensorReport, Verdict, listed

EQUAL_RATIOS = 4.0  # standard errors, within which two ratios are one factor
SAME_FACTOR_WITH_MORE = 0.2  # relative distance of a pooled ratio from a factor that is in it, with more on top
MIN_FACTOR = 0.05  # distance of a factor from 1, below which other tensors come near it by chance


def share_one_factor(tensors: Sequence[TensorReport]) -> bool:
    """Whether the ratios of some tensors are equal, each within its error."""
    best = min(tensors, key=lambda tensor: tensor.ratio_error)
    return all(
        abs(tensor.ratio - best.ratio) <= EQUAL_RATIOS * math.hypot(tensor.ratio_error, best.ratio_error)
        for tensor in tensors
    )


def one_factor_everywhere(model: Model) -> Diagnosis | None:
    """Every tensor is wrong by the same factor."""
    scaled = _of(Verdict.scale, model)
    if model.right or len(scaled) < 2 or len(scaled) < len(model.wrong) or not share_one_factor(scaled):
        return None
    return Diagnosis(
        key="one_factor_everywhere",
        explanation="All tensors are wrong alike",
        cause="normalisation, loss scale or accumulation, not a term of the chain rule",
    )


def factor_with_more_on_top(model: Model) -> Diagnosis | None:
    """The factor of one tensor is in the pooled ratio of others, in which something else is wrong as well."""
    for tensor in _of(Verdict.scale, model):
        others = [
            other
            for other in _of(Verdict.structure, model)
            if abs(other.ratio / tensor.ratio - 1) < SAME_FACTOR_WITH_MORE
        ]
        if others and abs(tensor.ratio - 1) > MIN_FACTOR:
            names = listed([other.name for other in others])
            return Diagnosis(
                key="factor_with_more_on_top",
                explanation=f"The factor {tensor.ratio:.4g} of {tensor.name} is in {names} too, with more on top",
            )
    return None


def carry_through_time(model: Model) -> Diagnosis | None:
    """Several tensors are wrong by no factor, a recurrent matrix among them, and others agree."""
    structural = _of(Verdict.structure, model)
    if not model.right or len(structural) < 2 or structural[0].faulty_block or not any(map(_is_recurrent, structural)):
        return None
    return Diagnosis(
        key="carry_through_time",
        explanation="The recurrence is wrong and not all of the rest",
        cause=(
            "look at the carry through time (the derivative of the cell's tanh, the carried dc and dh, the transpose "
            "of the recurrent matrix, `=` where steps are summed by `+=`)"
        ),
    )


def _of(verdict: Verdict, model: Model) -> list[TensorReport]:
    return [tensor for tensor in model.wrong if tensor.verdict is verdict]


def _is_recurrent(tensor: TensorReport) -> bool:
    """Whether the shape is that of a recurrent matrix: (H, H), or (H, kH) with k fused gates."""
    if len(tensor.shape) != 2:
        return False
    short, long = sorted(tensor.shape)
    return short > 0 and long in (short, 3 * short, 4 * short)


HINTS = (one_factor_everywhere, factor_with_more_on_top, carry_through_time)
