"""Sequential evidence that a gradient is wrong, valid at every check.

Shiryaev-Roberts e-detectors: each sums the likelihood ratios of a change at any earlier check. On a correct gradient
the average number of checks until the evidence exceeds A is at least A, with no tuning. Source: Shin, Ramdas and
Rinaldo, "E-detectors" (NEJSDS).
"""

import math
from typing import Self

import numpy as np

from gradguard.arrays import Float64

SHIFTS = np.array([0.25, 0.5, 1.0, 2.0])  # of the mean of z that are looked for, in standard deviations
MAX_Z = (
    3.0  # clip of z, whose tails are heavier than Gaussian: a probe then multiplies the sums by 1 at most on average
)
HYPOTHESES = 3  # the ratio has risen, the ratio has fallen, z scatters more


class Detector:
    """The evidence of one stream of probes, as logarithms: it grows without bound once there is a fault."""

    def __init__(self) -> None:
        self._sums: Float64 = np.full((HYPOTHESES, SHIFTS.size), -np.inf)

    def to_plain(self) -> list[list[float]] | None:
        """The log sums as lists; None before the first probe, when they are not finite."""
        plain: list[list[float]] = self._sums.tolist()
        return plain if np.isfinite(self._sums).all() else None

    @classmethod
    def from_plain(cls, plain: list[list[float]] | None) -> Self:
        """A detector from what `to_plain` returned.

        Raises:
            ValueError: The sums have another shape, or are not finite.
        """
        detector = cls()
        if plain is not None:
            sums = np.array(plain, dtype=np.float64)
            if sums.shape != detector._sums.shape or not np.isfinite(sums).all():
                raise ValueError(f"expected {SHIFTS.size} finite numbers in each of three lists")
            detector._sums = sums
        return detector

    def update(self, z: float) -> None:
        """Add one probe: `z` is about N(0, 1) on a correct gradient, and positive where n/g is above 1."""
        shift = SHIFTS * min(max(z, -MAX_Z), MAX_Z)
        gained = np.array([shift, -shift, _log_cosh(shift)]) - SHIFTS**2 / 2
        self._sums = np.logaddexp(self._sums, 0) + gained

    @property
    def evidence(self) -> float:
        """log10 of the evidence: half is for a shifted ratio, half for any other change."""
        shifted, scattered = self._sums[:2], self._sums[2]
        total = np.logaddexp(_log_mean(shifted), _log_mean(scattered)) - math.log(2)
        return float(total) / math.log(10)


class ShiftDetectors:
    """The evidence of T streams that share their probes, as logarithms: one for the ratio of each tensor.

    Args:
        count: T.
    """

    def __init__(self, count: int) -> None:
        self._sums: Float64 = np.full((2, SHIFTS.size, count), -np.inf)

    def to_plain(self) -> list[list[list[float]]] | int:
        """The log sums as lists; T before the first probe, when they are not finite."""
        plain: list[list[list[float]]] = self._sums.tolist()
        return plain if np.isfinite(self._sums).all() else self._sums.shape[-1]

    @classmethod
    def from_plain(cls, plain: list[list[list[float]]] | int) -> Self:
        """Detectors from what `to_plain` returned.

        Raises:
            ValueError: The sums have another shape, or are not finite.
        """
        if isinstance(plain, int):
            return cls(plain)
        sums = np.array(plain, dtype=np.float64)
        if sums.ndim != 3 or sums.shape[:2] != (2, SHIFTS.size) or not np.isfinite(sums).all():
            raise ValueError(f"expected two lists of {SHIFTS.size} lists of finite numbers")
        detectors = cls(sums.shape[-1])
        detectors._sums = sums
        return detectors

    def update(self, z: Float64) -> None:
        """Add one probe: each z, (T,), is about N(0, 1) on a correct gradient, and positive where n/g is above 1."""
        shift = SHIFTS[:, None] * np.clip(z, -MAX_Z, MAX_Z)
        gained = np.array([shift, -shift]) - SHIFTS[:, None] ** 2 / 2
        self._sums = np.logaddexp(self._sums, 0) + gained

    @property
    def evidence(self) -> Float64:
        """log10 of the evidence of each stream, shape (T,)."""
        logs = np.logaddexp.reduce(self._sums, axis=(0, 1)) - math.log(2 * SHIFTS.size)
        return np.asarray(logs / math.log(10))


def _log_cosh(values: Float64) -> Float64:
    return np.logaddexp(values, -values) - math.log(2)


def _log_mean(logs: Float64) -> float:
    return float(np.logaddexp.reduce(logs, axis=None)) - math.log(logs.size)


def alarm_level(probes: int, checks: int, false_alarms: float) -> float:
    """log10 of the evidence at which the chance of one false alarm in a whole run is at most `false_alarms`.

    The chance that a stream ever exceeds A is at most its number of probes over A, and the streams' chances add up.

    Args:
        probes: Probes of one check, in all streams together.
        checks: Checks of the run, at most.
        false_alarms: The chance.
    """
    return math.log10(probes * checks / false_alarms)
