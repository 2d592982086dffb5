"""Causes of a gradient that was clipped before the check."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradguard.arrays import reductions
from gradguard.diagnosis.causes.shared import share_one_factor
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms
from gradguard.diagnosis.explain import uncertain
from gradguard.report import TensorReport, Verdict
from gradguard.statistics import ALARM_Z, DerivativePairs

EQUAL = 1e-9  # relative distance of equal derivatives: each is measured over the step as realised in floating point
ROUND = 1e-5  # relative distance from a number of two digits
ALIKE = 1e-6  # relative distance of derivatives that are one number, beyond their bars
MIN_TIES = 3  # entries at the largest |g| that show a clip of a gradient that is wrong besides: chance makes pairs
MIN_FREE = 3  # entries below the limit that show whether they are wrong by a factor
COUNTS = (
    8  # the largest multiple of the smallest |g| in a gradient that counts: other printed numbers are multiples too
)
LIMITS = ("clip", "norm", "limit")  # in the name of a constant that a norm may be clipped to
TORCH_MARGIN = 1e-6  # that torch.nn.utils.clip_grad_norm_ adds to the norm before it divides by it


def clipped_by_value(tensor: Symptoms) -> Diagnosis | None:
    """Each entry is limited by itself, as by `np.clip(g, -1, 1)`: all wrong entries have the largest |g|."""
    if tensor.verdict is not Verdict.structure or not tensor.evidence.entries.size:
        return None
    entries, limit = tensor.evidence.entries, _limit(tensor)
    at_limit = np.abs(entries.g) >= limit.value * (1 - EQUAL)
    wrong = np.abs(entries.z) > ALARM_Z
    same_sign = np.sign(entries.n) == np.sign(entries.g)
    beyond = same_sign & ((np.abs(entries.n) > limit.value) | ~wrong)
    is_at_limit_only = at_limit.any() and not (wrong & ~at_limit).any() and beyond[at_limit].all()
    agrees = (entries.resolvable & ~at_limit).any()
    is_telling = limit.ties > 1 or (limit.ties == 1 and _is_round(limit.value) and agrees)
    if not (is_at_limit_only and is_telling and not limit.is_of_counts and _differ(entries.where(at_limit & wrong))):
        return None
    count = f"{limit.ties} entries have this value" if limit.ties > 1 else "one entry has this round value"
    return Diagnosis(
        key="clipped_by_value",
        explanation=(
            f"no |backprop| exceeds {limit.value:.6g}; {count} where |numerical| is larger, and the others agree"
        ),
        cause=_clipped(f"at {limit.value:.6g}"),
        verdict=Verdict.clipped,
    )


def clipped_and_wrong(tensor: Symptoms) -> Diagnosis | None:
    """Several entries have exactly the largest |g|, and others are wrong as well."""
    if tensor.verdict is not Verdict.structure or tensor.blocks:
        return None
    limit = _limit(tensor)
    rest = tensor.evidence.entries.where(np.abs(tensor.evidence.entries.g) < limit.value * (1 - EQUAL))
    if limit.ties < MIN_TIES or limit.is_of_counts or rest.size < MIN_FREE or not _is_round(limit.value):
        return None
    ratio = rest.ratio
    is_factor = ratio.purity <= tensor.evidence.rules.max_chi2 and abs(ratio.value - 1) > 3 * ratio.error
    besides = (
        f"numerical = {uncertain(ratio.value, ratio.error)} x backprop in the others"
        if is_factor
        else "the others are wrong too"
    )
    return Diagnosis(
        key="clipped_and_wrong",
        explanation=f"no |backprop| exceeds {limit.value:.6g}; {limit.ties} entries have this value, and {besides}",
        cause=f"{_clipped(f'at {limit.value:.6g}')}; there is another error, which a check without clipping shows best",
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    """The largest |g| of a tensor.

    Attributes:
        value: It.
        ties: The number of entries that have it.
        is_of_counts: Whether the sampled g are small multiples of one number and their n are, too, as counts are.
    """

    value: float
    ties: int
    is_of_counts: bool


def _limit(tensor: Symptoms) -> _Limit:
    """The largest |g| of the whole tensor, or where that is not known of its sampled entries."""
    n, g = np.abs(tensor.evidence.entries.n), np.abs(tensor.evidence.entries.g)
    gradient = tensor.surroundings.gradients.get(tensor.evidence.name)
    value = float(g.max(initial=0.0)) if gradient is None else reductions.largest_magnitude(gradient)
    at_least = value * (1 - EQUAL)
    ties = int((g >= at_least).sum()) if gradient is None else reductions.count_at_least(gradient, at_least)
    unit = float(g[g > 0].min(initial=value)) or 1.0
    multiples = np.concatenate([n, g]) / unit
    bars = np.tile(tensor.evidence.entries.deviation, 2) / unit + ALIKE * multiples
    is_whole = bool((np.abs(multiples - np.round(multiples)) <= 3 * bars).all())
    return _Limit(value, ties, is_whole and value <= COUNTS * unit)


def _differ(entries: DerivativePairs) -> bool:
    """Whether the numerical derivatives of entries of one g differ; equal ones are the same entry, several times."""
    if entries.size < 2:
        return entries.size == 1
    size = np.abs(entries.n)
    return bool(np.ptp(size) > np.hypot(ALIKE * size.max(), entries.deviation.max()))


@dataclass(frozen=True, slots=True)
class _Norm:
    """The norm that a gradient was clipped to.

    Attributes:
        value: It.
        scale: The name of the constant that was in the gradient when it was clipped; "" where there was none.
    """

    value: float
    scale: str = ""


def clipped_by_common_norm(model: Model) -> Mapping[str, Diagnosis]:
    """All gradients are wrong by one factor, and their norm together is a round number."""
    scaled = _maybe_clipped(model)
    if len(scaled) < 2 or not share_one_factor(scaled):
        return {}
    total = math.hypot(*model.norms.values())
    agrees = any(model.norms[tensor.name] > 0 for tensor in model.right)
    clip = None if agrees else _clip(total, scaled)
    if clip is None:
        return {}
    return {tensor.name: _clipped_by_norm(tensor, total, clip, "all gradients together") for tensor in scaled}


def clipped_by_own_norm(model: Model) -> Mapping[str, Diagnosis]:
    """A gradient is too small by a factor that the user has no name for, and its norm is a round number."""
    own = {
        tensor.name: (tensor, _clip(model.norms[tensor.name], [tensor]))
        for tensor in _maybe_clipped(model)
        if not tensor.factors and tensor.ratio > 1 and math.prod(tensor.shape) > 1
    }
    return {
        name: _clipped_by_norm(tensor, model.norms[name], clip, "this gradient")
        for name, (tensor, clip) in own.items()
        if clip is not None and not clip.scale
    }


def _maybe_clipped(model: Model) -> list[TensorReport]:
    """Gradients wrong by a factor that is no round number, which the factor of a clip is by chance only."""
    scaled = (tensor for tensor in model.wrong if tensor.verdict is Verdict.scale and tensor.ratio > 0)
    return [
        tensor for tensor in scaled if not _is_round(tensor.ratio, max(ROUND, 3 * tensor.ratio_error / tensor.ratio))
    ]


def _clip(total: float, scaled: Sequence[TensorReport]) -> _Norm | None:
    """The norm that gradients of one factor were clipped to; None where their norm is no sign of a clip."""
    best = min(scaled, key=lambda tensor: tensor.ratio_error / tensor.ratio)
    for norm in _norms(total, best):
        before = best.ratio * norm.value  # what was clipped, by the same multiple as the norm
        with_margin = norm.value * (1 + TORCH_MARGIN / before)
        limits = [given for name, given in best.constants.items() if any(word in name.lower() for word in LIMITS)]
        for value in (norm.value, with_margin):
            if _is_round(value) or any(abs(given / value - 1) < ROUND for given in limits):
                return _Norm(value, norm.scale)
    return None


def _norms(total: float, tensor: TensorReport) -> Iterator[_Norm]:
    """The norm as it is, and as it was while a scale of the loss was in the gradient."""
    scales = {name: value for name, value in tensor.constants.items() if "scale" in name.lower()}
    if tensor.ratio > 1:
        yield _Norm(total)
    for name, scale in scales.items():
        yield _Norm(total if tensor.ratio < 1 else total * scale, name)


def _is_round(value: float, within: float = ROUND) -> bool:
    return value > 0 and abs(float(f"{value:.1e}") / value - 1) < within


def _clipped_by_norm(tensor: TensorReport, total: float, clip: _Norm, of_what: str) -> Diagnosis:
    return Diagnosis(
        key="clipped_by_norm",
        explanation=f"{tensor.explanation}, and the norm of {of_what} is {total:.4g}{_is_what(total, clip)}",
        cause=_cause(total, clip),
        verdict=Verdict.clipped,
    )


def _is_what(total: float, clip: _Norm) -> str:
    if not clip.scale:
        return ", a round number" if _is_round(clip.value) else ", a limit given in constants"
    if _is_unscaled(total, clip):
        return f", which times `{clip.scale}` is {clip.value:.4g}, a round number"
    return ", a round number"


def _cause(total: float, clip: _Norm) -> str:
    if not clip.scale:
        return _clipped(f"to a norm of {clip.value:.4g}")
    how = f"the gradient is clipped to a norm of {clip.value:.4g} while it still has the loss scale `{clip.scale}`"
    then = ", and unscaled afterwards" if _is_unscaled(total, clip) else ""
    return f"{how}{then}; unscale first, then call after_backward, then clip"


def _is_unscaled(total: float, clip: _Norm) -> bool:
    """Whether the scale that was in a clipped gradient of this norm is no longer in it."""
    return clip.value > 2 * total


def _clipped(how: str) -> str:
    return f"the gradient is clipped {how} before the check; call after_backward before clipping"


TENSOR_CAUSES = (clipped_by_value, clipped_and_wrong)
MODEL_CAUSES = (clipped_by_common_norm, clipped_by_own_norm)
