"""The step that suits a loss: where truncation just shows above the noise."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays.types import Float64

TARGET_Z3 = 3.5  # the step is best where truncation just shows
TOO_LONG_Z3 = 6.0
TOO_SHORT_Z3 = 2.0
GOLDEN = 0.6180339887498949  # its multiples fill an interval evenly


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps that a kind of probe of one tensor may take.

    Attributes:
        start: The first to try.
        shortest: The dtype of the tensor resolves no shorter one well.
        longest: Further away the loss is another one: where it has not moved by then, it cannot be measured.
    """

    start: float
    shortest: float
    longest: float

    def starting_at(self, start: float) -> Self:
        """The same range, with another first step."""
        return replace(self, start=float(min(max(start, self.shortest), self.longest)))

    def clip(self, steps: Float64 | float) -> Float64:
        """The nearest steps in range."""
        return np.asarray(np.clip(steps, self.shortest, self.longest))


def dithered(step: float, count: int) -> Float64:
    """Steps within a factor sqrt(2) of one, all different, shape (count,).

    Rounding to the loss's quantum depends on where within a quantum the four points fall. Equal steps along like probes
    would make the same error each time, and averaging over the probes would not lessen it.
    """
    places: Float64 = GOLDEN * np.arange(count, dtype=np.float64) % 1 - 0.5
    return step * np.exp2(places)


def better_step(step: Float64, z3: Float64, weak: NDArray[np.bool_]) -> Float64:
    """The step to measure with again: shorter where truncation shows, longer where only noise does.

    Args:
        step: h, shape (K,).
        z3: Truncation in standard deviations of its noise; not finite where the loss overflowed.
        weak: Where the difference itself is not yet clear of the noise.
    """
    shorter = step / np.clip((z3 / TARGET_Z3) ** (1 / 3), 1.3, 4)
    longer = np.where(weak & (z3 < TOO_SHORT_Z3), 2.5 * step, step)
    return np.where(np.isfinite(z3), np.where(z3 > TOO_LONG_Z3, shorter, longer), step / 4)


def next_step(step: float, z3: float) -> float:
    """The step of the next routine check: it creeps to where truncation just shows."""
    if not math.isfinite(z3):
        return step / 3
    if z3 > TOO_LONG_Z3:
        return step / min(max(math.cbrt(z3 / 4), 1.15), 3.0)
    return 1.25 * step if z3 < TOO_SHORT_Z3 else step
