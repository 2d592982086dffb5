"""The best step of a difference: where truncation just shows above the noise."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import Float64

TARGET_Z3 = 3.5  # truncation, in its noise, at the best step: it just shows
TOO_LONG_Z3 = 6.0  # above which the step is too long
TOO_LONG_Z4 = 4.0  # the fourth difference, in its noise, above which a kink or strong curvature lies within the step
TOO_SHORT_Z3 = 2.0  # below which a longer step gains precision
GOLDEN = 0.6180339887498949  # the golden ratio: its multiples modulo 1 fill an interval evenly


@dataclass(frozen=True, slots=True)
class Steps:
    """The range of steps of one kind of probe of one tensor.

    Attributes:
        start: The first step to try.
        shortest: The shortest step that the dtype of the tensor resolves well.
        longest: The longest step; a loss that has not changed by then cannot be measured.
    """

    start: float
    shortest: float
    longest: float

    def starting_at(self, start: float) -> Self:
        """The range with another first step."""
        return replace(self, start=float(min(max(start, self.shortest), self.longest)))

    def clip(self, steps: Float64 | float) -> Float64:
        """The nearest steps in the range."""
        return np.asarray(np.clip(steps, self.shortest, self.longest))


def dithered(step: float, count: int, octaves: float = 1.0) -> Float64:
    """Different steps about one, shape (count,), that spread over some octaves evenly.

    How a loss is rounded depends on where within a quantum the four points fall. Equal steps along similar probes make
    the same error each time, and averaging over the probes does not lessen it.
    """
    places: Float64 = GOLDEN * np.arange(count, dtype=np.float64) % 1 - 0.5
    return step * np.exp2(octaves * places)


def better_step(step: Float64, z3: Float64, weak: NDArray[np.bool_]) -> Float64:
    """The steps to measure with next: shorter where truncation shows, longer where only noise shows.

    Truncation grows as the cube of the step, hence the cube root.

    Args:
        step: h, shape (K,).
        z3: Truncation in standard deviations of its noise, (K,); not finite where the loss overflowed.
        weak: Whether the difference is not yet clear of the noise, (K,).
    """
    shorter = step / np.clip((z3 / TARGET_Z3) ** (1 / 3), 1.3, 4)
    longer = np.where(weak & (z3 < TOO_SHORT_Z3), 2.5 * step, step)
    return np.where(np.isfinite(z3), np.where(z3 > TOO_LONG_Z3, shorter, longer), step / 4)


def next_step(step: float, z3: float, z4: float = 0.0, most: float = 3.0) -> float:
    """The step of the next probe: it moves by small factors to where truncation just shows.

    Args:
        step: h.
        z3: Truncation in standard deviations of its noise.
        z4: The fourth difference in standard deviations of its noise, which shows kinks.
        most: The largest factor by which the step is shortened.
    """
    if not (math.isfinite(z3) and math.isfinite(z4)):
        return step / 3
    if z3 > TOO_LONG_Z3 or z4 > TOO_LONG_Z4:
        return step / min(max(math.cbrt(z3 / 4), math.sqrt(math.sqrt(z4 / 2)), 1.15), most)
    return 1.25 * step if z3 < TOO_SHORT_Z3 else step
