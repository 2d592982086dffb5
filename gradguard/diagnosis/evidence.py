"""What was measured of one tensor, and whether its gradient differs from that beyond rounding and truncation.

Single derivatives show an error in one place, the pooled ratio a small error everywhere.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradguard.statistics import DEFAULT_RULES, DerivativePairs, Ratio, Rules, norm

MIN_PAIRS_OF_SCATTER = 4  # pairs whose scatter about a factor tells its error

Method = Literal["differences", "complex step", "forward mode", "reverse pass"]


@dataclass(frozen=True)
class Evidence:
    """All that was measured of one tensor.

    Attributes:
        name: The tensor.
        shape: Its shape.
        norm: ||g|| of the whole tensor.
        entries: Derivatives of its sampled entries, those left out excepted.
        index: The index of each of these entries in the tensor.
        directions: Derivatives along directions through the tensor.
        unresolved: The number of entries left out because no step size gave a reliable difference.
        kinks: The number of entries left out because the loss has a kink there.
        coverage: The share of ||g||^2 that the sampled entries hold.
        step_size: The median step of the entries, in units of the parameters.
        noise: The standard deviation of one loss, in units of the loss.
        nonsmooth: Whether the loss is not smooth on the scale of the steps.
        confirmed_at_short_steps: Whether a disagreement is as clear at much shorter steps.
        blocks: For each named block, a mask over the sampled entries.
        passing: The size that the derivative of an entry has where nothing in it cancels; 0 if unknown.
        loss_unchanged: Whether the loss did not change at all, along any probe.
        noise_unknown: Whether the noise of the loss could not be measured, along this tensor or any other.
        deep: Whether this is a deep check, which alone may report a bug.
        is_native: Whether the loss is evaluated in the precision of the training.
        is_scalar: Whether the loss returns one number, and not unreduced ones.
        method: How the derivatives were measured: by differences, or by a method without step and noise.
        rules: The rules of the check.
    """

    name: str
    shape: tuple[int, ...]
    norm: float
    entries: DerivativePairs
    index: tuple[tuple[int, ...], ...]
    directions: DerivativePairs
    unresolved: int
    kinks: int
    coverage: float
    step_size: float
    noise: float
    nonsmooth: bool
    confirmed_at_short_steps: bool
    blocks: Mapping[str, NDArray[np.bool_]]
    passing: float = 0.0
    loss_unchanged: bool = False
    noise_unknown: bool = False
    deep: bool = True
    is_native: bool = True
    is_scalar: bool = True
    method: Method = "differences"
    rules: Rules = DEFAULT_RULES

    @cached_property
    def all(self) -> DerivativePairs:
        """Entries and directions."""
        return DerivativePairs.joined([self.entries, self.directions])

    @cached_property
    def factor(self) -> Ratio:
        """The one factor n / g, for a tensor that is wrong by one.

        Rounding may push all entries the same way, but hardly further than it scatters them about the factor: where
        many entries scatter little, that is the error of the factor, however wide the bars of backprop are.
        """
        ratio, pairs = self.all.ratio, self.all
        if pairs.size < MIN_PAIRS_OF_SCATTER:
            return ratio
        scatter = norm(pairs.n - ratio.value * pairs.g) / (norm(pairs.n) or math.inf)
        return replace(ratio, error=min(ratio.error, abs(ratio.value) * scatter))

    @property
    def kinds(self) -> list[DerivativePairs]:
        """Entries and directions apart, as far as there are any."""
        return [pairs for pairs in (self.entries, self.directions) if pairs.size]

    def shows_factor(self, pairs: DerivativePairs) -> bool:
        """Whether some pairs can show one factor: any single n is a factor times g.

        Directions through a tensor of which one entry alone has a gradient are of that entry.
        """
        is_whole = self.entries.size == math.prod(self.shape)
        telling = self.entries if is_whole and pairs is self.all else pairs
        return int(np.count_nonzero((telling.g != 0) | (np.abs(telling.z) > self.rules.alarm))) > 1

    @property
    def reported(self) -> DerivativePairs:
        """The derivatives that discrepancy and floor are of: entries, and directions as well where entries are few."""
        return self.entries if self.deep and self.entries.size else self.all

    @property
    def smallest_visible(self) -> float:
        """The smallest relative error of the whole gradient that would have raised an alarm; inf if none would."""
        return self.all.smallest_visible(self.nonsmooth)

    @property
    def sampled(self) -> int:
        """The number of entries measured, those left out included."""
        return self.entries.size + self.unresolved + self.kinks

    @property
    def is_suspect(self) -> bool:
        """Whether the gradient differs from the numerical one by more than rounding and truncation account for.

        Where the loss is not smooth, a disagreement must be as clear at steps too short to reach its kinks.
        """
        needs_confirmation = self.nonsmooth and self.rules.nonsmooth_confirmation
        if self.noise_unknown or (needs_confirmation and not self.confirmed_at_short_steps):
            return False
        both = (self.entries, self.directions)
        return any(pairs.significance(needs_confirmation, self.rules) > self.rules.alarm for pairs in both)
