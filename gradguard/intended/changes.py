"""Whether a gradient that is expected to differ still differs as it did at first."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradguard.report import TensorReport, Thresholds, Verdict
from gradguard.statistics import ALARM_Z, norm

CHANGED = "expected:changed"
# What is no factor depends on the batch and on how far the training is. With truncated backpropagation through time,
# n/g ran from -0.07 to 2.1 and d from 0.01 to 0.78 in 18 trainings: only the order of size and the direction last.
OTHER_ORDER = math.log(10)  # of ||n|| / ||g||
CLEAR_COSINE = 0.5  # of n and g, in either direction
FACTOR_COSINE = 0.9  # below which it is clear that there is no factor


@dataclass(frozen=True, slots=True)
class Difference:
    """How a gradient differed at one check.

    Attributes:
        step: The step of the check.
        ratio: n / g, pooled.
        ratio_error: Its standard error.
        size: ||n|| / ||g|| over the sampled entries; nan where there are none.
        cosine: The cosine between n and g over the same entries; nan where one of them is zero.
        is_factor: Whether the ratio describes all of the difference.
        factors: The constants of the user that the ratio is.
    """

    step: int
    ratio: float
    ratio_error: float
    size: float
    cosine: float
    is_factor: bool
    factors: tuple[str, ...]

    @classmethod
    def of(cls, tensor: TensorReport, step: int, agreeing: NDArray[np.bool_] | None) -> "Difference":
        """The difference that a report tells of.

        Args:
            tensor: The report.
            step: The step of the check.
            agreeing: A mask over the entries of which nothing is declared; None where all of the tensor is declared.
        """
        entries = [entry for entry in tensor.entries if agreeing is None or not agreeing[entry.index]]
        n, g = (np.array([getattr(entry, side) for entry in entries]) for side in ("numeric", "analytic"))
        size_of_n, size_of_g = norm(n), norm(g)
        return cls(
            step=step,
            ratio=tensor.ratio,
            ratio_error=tensor.ratio_error,
            size=size_of_n / size_of_g if size_of_g else math.nan,
            cosine=float(n / size_of_n @ g / size_of_g) if size_of_n and size_of_g else math.nan,
            is_factor=agreeing is None and _is_factor(tensor),
            factors=tensor.factors,
        )


def is_another_ratio(
    examined: Difference, ratio: float, error: float, factors: Iterable[str], thresholds: Thresholds
) -> bool:
    """Whether the ratio along the gradient is another one than when the tensor was examined.

    Args:
        examined: The difference then.
        ratio: N / g along the gradient, by one probe; nan where g is zero.
        error: Its standard error.
        factors: The constants of the user that it is.
        thresholds: Of the drift of a ratio.
    """
    if math.isnan(ratio) or math.isnan(examined.ratio):
        return math.isnan(ratio) != math.isnan(examined.ratio)
    is_clear = abs(ratio - examined.ratio) > ALARM_Z * math.hypot(examined.ratio_error, error)
    least = thresholds.ratio_drift if examined.is_factor else OTHER_ORDER
    return is_clear and _log_move(examined.ratio, ratio) > least and not set(examined.factors) & set(factors)


def is_another_entry(examined: Difference, n: float, g: float) -> bool:
    """Whether an entry differs in another way than all of those that were examined.

    Args:
        examined: The difference that they had.
        n: The numerical derivative of the entry, which is clear.
        g: Its gradient, likewise.
    """
    now = dataclasses.replace(examined, size=abs(n / g), cosine=math.copysign(1, n / g))
    return bool(_change(examined, now))


def _is_factor(tensor: TensorReport) -> bool:
    """Whether one factor described all of the difference when it was last measured."""
    return tensor.cause_key in (f"{Verdict.expected}:{kind}" for kind in Verdict if kind.is_factor)


def with_change(tensor: TensorReport, first: Difference, now: Difference, thresholds: Thresholds) -> TensorReport:
    """The report of a tensor that differs as declared, which says so where the difference is another one than at first.

    Args:
        tensor: The report.
        first: The difference that was seen first.
        now: That of the report.
        thresholds: Of the drift of a ratio.
    """
    change = _change_of_factor(first, now, thresholds) if first.is_factor else _change(first, now)
    if not change:
        return tensor
    says = f"the difference has changed: {change}; check whether it is still as declared ({tensor.expected!r})"
    return dataclasses.replace(tensor, cause=says, cause_key=CHANGED)


def _change_of_factor(first: Difference, now: Difference, thresholds: Thresholds) -> str:
    """What has changed of a difference that was one factor, in a clause; "" for nothing that is clear."""
    if not now.is_factor:
        before = f"and numerical = {first.ratio:.4g} x backprop at step {first.step}"
        return f"no single factor explains it, {before}" if abs(now.cosine) < FACTOR_COSINE else _change(first, now)
    error = ALARM_Z * math.hypot(first.ratio_error, now.ratio_error)
    is_clear = abs(now.ratio - first.ratio) > error and _log_move(first.ratio, now.ratio) > thresholds.ratio_drift
    if not is_clear or set(first.factors) & set(now.factors):
        return ""
    return f"numerical/backprop = {now.ratio:.4g}, and {first.ratio:.4g} at step {first.step}"


def _change(first: Difference, now: Difference) -> str:
    """What has changed of a difference that has no factor, in a clause; "" for nothing that is clear."""
    if _log_move(first.size, now.size) > OTHER_ORDER:
        return f"||n|| / ||g|| = {now.size:.3g}, and {first.size:.3g} at step {first.step}"
    if min(abs(first.cosine), abs(now.cosine)) > CLEAR_COSINE and first.cosine * now.cosine < 0:
        return f"the cosine between n and g is {now.cosine:.2f}, and it was {first.cosine:.2f} at step {first.step}"
    return ""


def _log_move(before: float, after: float) -> float:
    """|log(after / before)|; inf where the sign changes, or only one of them is a number."""
    if math.isnan(before) or math.isnan(after):
        return 0.0 if math.isnan(before) == math.isnan(after) else math.inf
    quotient = after / before if before else 0.0
    return abs(math.log(quotient)) if quotient > 0 else math.inf
