"""Causes of a gradient that was clipped before the check."""

import math
from collections.abc import Mapping

import numpy as np

from gradguard.diagnosis.causes.shared import share_one_factor
from gradguard.diagnosis.causes.symptoms import Diagnosis, Model, Symptoms
from gradguard.report import TensorReport, Verdict
from gradguard.statistics import ALARM_Z, DerivativePairs

MIN_CLIPPED = 2  # entries at the limit: the largest |g| of any tensor is one entry
EQUAL = 1e-9  # relative distance of equal derivatives: each is measured over the step as realised in floating point
WHOLE = 1e-2  # distance from a whole number: two clipped entries come so near to two of them once in 2,500 times
CLIP_EPSILON = 1e-6  # of `torch.nn.utils.clip_grad_norm_`
ROUND = 1e-5  # relative distance from a number of two digits


def is_clipped_by_value(entries: DerivativePairs) -> bool:
    """Whether many |g| are at one extreme value, |n| is larger there, and everything else agrees.

    Where n are whole multiples of that value, shares of it were counted once, and nothing was clipped.
    """
    limit = np.abs(entries.g).max(initial=0.0)
    clipped = np.abs(entries.g) >= limit * (1 - EQUAL)
    beyond = (np.abs(entries.n) > limit) | (np.abs(entries.z) <= ALARM_Z)
    same_sign = np.sign(entries.n) == np.sign(entries.g)
    wrong = (np.abs(entries.z) > ALARM_Z) & ~clipped
    multiples = np.abs(entries.n[clipped]) / (limit or 1.0)
    if (np.abs(multiples - np.round(multiples)) <= WHOLE).all():
        return False
    return bool(clipped.sum() >= MIN_CLIPPED and (beyond & same_sign)[clipped].all() and not wrong.any())


def clipped_by_value(tensor: Symptoms) -> Diagnosis | None:
    """Each entry is limited by itself, as by `np.clip(g, -1, 1)`."""
    if tensor.verdict is not Verdict.clipped:
        return None
    limit = np.abs(tensor.evidence.entries.g).max()
    return Diagnosis(
        key="clipped_by_value",
        explanation=(
            f"no sampled |g| exceeds {limit:.6g}, many are just that where |n| is larger, and the others agree"
        ),
        cause=_clipped(f"at {limit:.6g}"),
    )


def clipped_by_common_norm(model: Model) -> Mapping[str, Diagnosis]:
    """All gradients are too small by one factor, and their norm together is a round number."""
    shrunk = _maybe_shrunk_by_clipping(model)
    if len(shrunk) < 2 or not share_one_factor(shrunk):
        return {}
    total = math.hypot(*model.norms.values())
    agrees = any(model.norms[tensor.name] > 0 for tensor in model.right)
    if agrees or not _is_round_norm(total, min(shrunk, key=lambda tensor: tensor.ratio_error)):
        return {}
    return {tensor.name: _clipped_by_norm(tensor, total, "all gradients together") for tensor in shrunk}


def clipped_by_own_norm(model: Model) -> Mapping[str, Diagnosis]:
    """A gradient is too small by a factor that the user has no name for, and its norm is a round number."""
    return {
        tensor.name: _clipped_by_norm(tensor, model.norms[tensor.name], "it")
        for tensor in _maybe_shrunk_by_clipping(model)
        if not tensor.factors and math.prod(tensor.shape) > 1 and _is_round_norm(model.norms[tensor.name], tensor)
    }


def _maybe_shrunk_by_clipping(model: Model) -> list[TensorReport]:
    """Gradients too small by a factor that is no round number, which the factor of a clip is by chance only."""
    scaled = (tensor for tensor in model.wrong if tensor.verdict is Verdict.scale and tensor.ratio > 1)
    return [
        tensor for tensor in scaled if not _is_round(tensor.ratio, max(ROUND, 3 * tensor.ratio_error / tensor.ratio))
    ]


def _is_round(value: float, within: float = ROUND) -> bool:
    return value > 0 and abs(float(f"{value:.1e}") / value - 1) < within


def _is_round_norm(norm: float, tensor: TensorReport) -> bool:
    """Whether gradients of this norm were clipped to a round one; PyTorch adds 1e-6 to the norm that it divides by."""
    return _is_round(norm) or _is_round(norm + CLIP_EPSILON / tensor.ratio)


def _clipped_by_norm(tensor: TensorReport, norm: float, of_what: str) -> Diagnosis:
    return Diagnosis(
        key="clipped_by_norm",
        explanation=f"{tensor.explanation}, and the norm of {of_what} is {norm:.4g}, a round number",
        cause=_clipped(f"to a norm of {norm:.4g}"),
        verdict=Verdict.clipped,
    )


def _clipped(how: str) -> str:
    return f"the gradient is clipped {how} before the check; call after_backward before clipping"


TENSOR_CAUSES = (clipped_by_value,)
MODEL_CAUSES = (clipped_by_common_norm, clipped_by_own_norm)
