"""Numerical and backprop derivatives of one tensor in pairs, with their error bars."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64
from gradguard.statistics.discrepancy import discrepancy_of, floor_of, norm
from gradguard.statistics.ratio import Ratio, evidence_of_factor, fit_ratio
from gradguard.statistics.rules import DEFAULT_RULES, Rules
from gradguard.statistics.signs import Signs, count_signs, resolvable_signs

ALARM = 6.0  # standard deviations; on correct gradients single probes reached 5.4 in 127,790
UNRESOLVED = 2.0  # error bars, that as many derivatives of 0 seldom exceed together
NOTHING = 1e-3  # of g, that n is
LITTLE = 1e-3  # of what passes, that rounding is
BEYOND_FLOOR = 2.0  # discrepancy in floors; on correct gradients it reached 1.8


@dataclass(frozen=True)
class DerivativePairs:
    """Derivatives of one tensor along m entries or directions; arrays of shape (m,).

    Attributes:
        n: Numerical.
        g: Backprop.
        error: The error bar of n.
        rounding: Backprop's own rounding error, in the units of g.
        z: How far n is from g in standard deviations, what truncation explains taken off.
        own: Of `rounding`, what is in proportion to g; the rest is of the forward pass.
    """

    n: Float64
    g: Float64
    error: Float64
    rounding: Float64
    z: Float64
    own: Float64

    @classmethod
    def none(cls) -> Self:
        """No pairs at all."""
        return cls(*(np.empty(0) for _ in dataclasses.fields(cls)))

    def where(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> "DerivativePairs":
        """Some of the pairs: those marked, or those at some places."""
        return DerivativePairs(*(column[chosen] for column in self._columns))

    @classmethod
    def joined(cls, parts: Sequence["DerivativePairs"]) -> "DerivativePairs":
        """The pairs of each part, one part after the other."""
        columns = [part._columns for part in parts or [DerivativePairs.none()]]
        return DerivativePairs(*map(np.concatenate, zip(*columns, strict=True)))

    @property
    def _columns(self) -> tuple[Float64, ...]:
        return self.n, self.g, self.error, self.rounding, self.z, self.own

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
        """The largest discrepancy that the error bars explain: it scatters more where few pairs make it up."""
        return BEYOND_FLOOR * (1 + 2 / math.sqrt(max(1, self.size))) * self.floor

    @cached_property
    def ratio(self) -> Ratio:
        """N / g, pooled."""
        return fit_ratio(self.n, self.g, self.error, self.rounding, self.own)

    def is_negligible(self, passing: float) -> bool:
        """Whether n is nothing beside g, or beside its own bars, and g is nothing but a little rounding of backprop.

        Args:
            passing: The derivative that is little beside: of an entry of which nothing cancels.
        """
        n, error, rounding = norm(self.n), norm(self.error), norm(self.rounding)
        unresolved = n <= UNRESOLVED * error and bool((np.abs(self.n) <= ALARM * self.error).all())
        little = error <= rounding and float(self.rounding.max(initial=0.0)) <= LITTLE * passing
        return (unresolved or n <= NOTHING * norm(self.g)) and little and self.floor > 1

    @property
    def deviation(self) -> Float64:
        """The standard deviation of n - g."""
        return np.hypot(self.error, self.rounding)

    @property
    def resolvable(self) -> NDArray[np.bool_]:
        """Where both signs can be told."""
        return resolvable_signs(self.n, self.g, self.error, self.rounding)

    @property
    def signs(self) -> Signs:
        """How many signs agree, of those that can be told."""
        return count_signs(self.n, self.g, self.error, self.rounding)

    def significance(self, nonsmooth: bool, rules: Rules = DEFAULT_RULES) -> float:
        """How many standard deviations the more telling of two tests is from a correct gradient.

        One is the largest single deviation, the other the one factor between n and g. Many moderate deviations without
        a common factor count for nothing: a loss with more noise, or with small kinks, gives the same.

        Args:
            nonsmooth: Whether the loss is not smooth on the scale of the steps. Then what kinks add to the differences
                does not average out, and only single ones count.
            rules: The rules of the check.
        """
        if not self.size:
            return 0.0
        single = float(np.abs(self.z).max())
        return single if nonsmooth or not rules.factor_test else max(single, self._of_factor(rules))

    def _of_factor(self, rules: Rules) -> float:
        purity = self.ratio.purity
        scatter = math.sqrt(max(1.0, purity)) if math.isfinite(purity) else 1.0
        return evidence_of_factor(self.n, self.g, self.error, self.rounding, rules.factor_clear) / scatter

    def smallest_visible(self, nonsmooth: bool) -> float:
        """The smallest relative error of the whole gradient that would have alarmed; inf where none would.

        Args:
            nonsmooth: Whether single differences must show it.
        """
        moving = self.where(self.n != 0)
        exact = np.full(moving.size, math.inf)
        clear = np.abs(np.divide(moving.n, moving.deviation, out=exact, where=moving.deviation > 0))
        seen = float(clear.max(initial=0.0)) if nonsmooth else norm(clear)
        return ALARM / seen if seen > 0 else math.inf
