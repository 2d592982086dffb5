"""Sequential evidence that a gradient is wrong, which may be looked at after every check.

Shiryaev-Roberts e-detectors: each sums the likelihood ratios of a change at any earlier check. On a correct gradient
the average run until the evidence exceeds A is at least A checks, with no tuning. Source: Shin, Ramdas and Rinaldo,
"E-detectors" (NEJSDS).
"""

import math
from typing import Self

import numpy as np

from gradguard.arrays.types import Float64

SIZES = np.array([0.25, 0.5, 1.0, 2.0])  # of the shifts looked for, in standard deviations
CLIP = 3.0  # tails are heavier than a Gaussian's; up to here a probe multiplies the sums by 1 at most, on average
HYPOTHESES = 3  # the ratio has gone up, or down, or something else has changed


class Detector:
    """The evidence of one stream of probes, kept as logarithms: it grows without bound once there is a fault."""

    def __init__(self) -> None:
        self._sums: Float64 = np.full((HYPOTHESES, SIZES.size), -np.inf)

    def to_plain(self) -> list[list[float]] | None:
        """The sums as lists; None before the first probe, where they are not finite."""
        plain: list[list[float]] = self._sums.tolist()
        return plain if np.isfinite(self._sums).all() else None

    @classmethod
    def from_plain(cls, plain: list[list[float]] | None) -> Self:
        """The evidence again.

        Raises:
            ValueError: The sums are not as many, or not finite.
        """
        detector = cls()
        if plain is not None:
            sums = np.array(plain, dtype=np.float64)
            if sums.shape != detector._sums.shape or not np.isfinite(sums).all():
                raise ValueError(f"expected {SIZES.size} finite numbers in each of three lists")
            detector._sums = sums
        return detector

    def update(self, z: float) -> None:
        """One more probe: `z` is about N(0, 1) on a correct gradient, positive where n/g is above 1."""
        shift = SIZES * min(max(z, -CLIP), CLIP)
        gained = np.array([shift, -shift, _log_cosh(shift)]) - SIZES**2 / 2
        self._sums = np.logaddexp(self._sums, 0) + gained

    @property
    def evidence(self) -> float:
        """log10 of the evidence: half for a moved ratio, half for anything else."""
        moved, either = self._sums[:2], self._sums[2]
        total = np.logaddexp(_log_mean(moved), _log_mean(either)) - math.log(2)
        return float(total) / math.log(10)


def _log_cosh(values: Float64) -> Float64:
    return np.logaddexp(values, -values) - math.log(2)


def _log_mean(logs: Float64) -> float:
    return float(np.logaddexp.reduce(logs, axis=None)) - math.log(logs.size)


def alarm_level(probes: int, checks: int, false_alarms: float) -> float:
    """log10 of the evidence at which the chance of one false alarm in the whole run is at most `false_alarms`.

    The chance that a stream ever passes A is at most its number of probes over A, and the streams' chances add up.

    Args:
        probes: How many a check adds, to all streams together.
        checks: How many the run may have.
        false_alarms: The chance.
    """
    return math.log10(probes * checks / false_alarms)
