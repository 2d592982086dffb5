"""Numerical and backprop derivatives of one tensor in pairs, with their error bars."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64
from gradguard.statistics.discrepancy import discrepancy_of, floor_of, norm
from gradguard.statistics.ratio import Ratio, evidence_of_factor, fit_ratio
from gradguard.statistics.rules import ALARM_Z, DEFAULT_RULES, Rules
from gradguard.statistics.signs import Signs, count_signs, resolvable_signs

ZERO_BARS = 2.0  # ||n|| in norms of its error bars, which derivatives of 0 seldom exceed together
NEGLIGIBLE_N = 1e-3  # ||n|| in ||g||, below which n is negligible
NEGLIGIBLE_ROUNDING = 1e-3  # backprop's rounding, in the derivative of an entry of which nothing cancels
EXPLAINED_FLOORS = 2.0  # discrepancy in floors that error bars explain; on correct gradients it reached 1.8


def explained_by(floor: float, size: int) -> float:
    """The largest discrepancy that error bars with a floor explain.

    Args:
        floor: The discrepancy that rounding and truncation alone would give.
        size: The number of pairs; the discrepancy of few scatters more.
    """
    return EXPLAINED_FLOORS * (1 + 2 / math.sqrt(max(1, size))) * floor


@dataclass(frozen=True)
class DerivativePairs:
    """Derivatives of one tensor along m entries or directions; every field has shape (m,).

    Attributes:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error, in the units of g.
        z: n - g in standard deviations, less what truncation explains.
        proportional_rounding: The part of `rounding` that is in proportion to g; the rest is of the forward pass.
    """

    n: Float64
    g: Float64
    error: Float64
    rounding: Float64
    z: Float64
    proportional_rounding: Float64

    @classmethod
    def none(cls) -> Self:
        """No pairs at all."""
        return cls(*(np.empty(0) for _ in dataclasses.fields(cls)))

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "DerivativePairs":
        """Some of the pairs, by mask or by position."""
        return DerivativePairs(*(column[chosen] for column in self._columns))

    @classmethod
    def joined(cls, parts: Sequence["DerivativePairs"]) -> "DerivativePairs":
        """The pairs of each part, one part after the other."""
        columns = [part._columns for part in parts or [DerivativePairs.none()]]
        return DerivativePairs(*map(np.concatenate, zip(*columns, strict=True)))

    @property
    def _columns(self) -> tuple[Float64, ...]:
        return self.n, self.g, self.error, self.rounding, self.z, self.proportional_rounding

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return self.n.size

    @cached_property
    def floor(self) -> float:
        """The discrepancy that the error bars alone would give."""
        return floor_of(self.n, self.g, self.error, self.rounding)

    @cached_property
    def discrepancy(self) -> float:
        """||n - g|| / (||n|| + ||g||)."""
        return discrepancy_of(self.n, self.g)

    @property
    def explained(self) -> float:
        """The largest discrepancy that the error bars explain."""
        return explained_by(self.floor, self.size)

    @cached_property
    def ratio(self) -> Ratio:
        """The one factor n / g of all pairs."""
        return fit_ratio(self.n, self.g, self.error, self.rounding, self.proportional_rounding)

    def is_negligible(self, passing: float) -> bool:
        """True if n is negligible (against g or its error bar) and g is explained by a little rounding of backprop.

        Args:
            passing: The derivative of an entry of which nothing cancels, against which the rounding is little.
        """
        n, error, rounding = norm(self.n), norm(self.error), norm(self.rounding)
        is_zero = n <= ZERO_BARS * error and bool((np.abs(self.n) <= ALARM_Z * self.error).all())
        largest = float(self.rounding.max(initial=0.0))
        is_rounding = error <= rounding and largest <= NEGLIGIBLE_ROUNDING * passing and self.floor > 1
        return (is_zero or n <= NEGLIGIBLE_N * norm(self.g)) and is_rounding

    @property
    def deviation(self) -> Float64:
        """The standard deviation of n - g."""
        return np.hypot(self.error, self.rounding)

    @property
    def resolvable(self) -> NDArray[np.bool_]:
        """Where both signs are resolved."""
        return resolvable_signs(self.n, self.g, self.error, self.rounding)

    @property
    def signs(self) -> Signs:
        """How many signs agree, of those that are resolved."""
        return count_signs(self.n, self.g, self.error, self.rounding)

    def significance(self, nonsmooth: bool, rules: Rules = DEFAULT_RULES) -> float:
        """How many standard deviations the pairs are from a correct gradient, by the clearer of two tests.

        One test is the largest single deviation, the other is the one factor between n and g. Many moderate deviations
        without a common factor are no evidence: a loss with more noise, or with small kinks, gives the same.

        Args:
            nonsmooth: Whether the loss is not smooth on the scale of the steps. Then errors from kinks do not average
                out, and only single deviations count.
            rules: The rules of the check.
        """
        if not self.size:
            return 0.0
        single = float(np.abs(self.z).max())
        return single if nonsmooth or not rules.factor_test else max(single, self._evidence_of_factor(rules))

    def _evidence_of_factor(self, rules: Rules) -> float:
        """The deviation of the one factor from 1, less the more the pairs scatter about it."""
        purity = self.ratio.purity
        scatter = math.sqrt(max(1.0, purity)) if math.isfinite(purity) else 1.0
        return evidence_of_factor(self.n, self.g, self.error, self.rounding, rules.factor_clear) / scatter

    def smallest_visible(self, nonsmooth: bool) -> float:
        """The smallest relative error of the whole gradient that would have alarmed; inf if none would.

        Args:
            nonsmooth: Whether a single difference must show it.
        """
        nonzero = self.where(self.n != 0)
        exact = np.full(nonzero.size, math.inf)
        z = np.abs(np.divide(nonzero.n, nonzero.deviation, out=exact, where=nonzero.deviation > 0))
        of_all = float(z.max(initial=0.0)) if nonsmooth else norm(z)
        return ALARM_Z / of_all if of_all > 0 else math.inf
