"""What is carried from one probe of a kind to the next: the step, the noise of the loss, and the evidence."""

import math
from dataclasses import dataclass, field

from gradguard.differences import NOISE_OF_FIVE, Steps, next_step, noise
from gradguard.statistics import Detector

FAR_TOO_LONG_Z3 = 30.0  # truncation, in its noise, above which a probe is no evidence either way
NEWEST = 0.1  # weight of the newest probe in what is known of curvature, at least
KEPT = 0.9  # of what is known of kinks, at each probe
STRAYS = 5  # probes in a row with far too long a step, after which the steps must be searched anew


@dataclass(slots=True)
class Stream:
    """The state of one kind of probe.

    Attributes:
        steps: The step of the next probe, and its range.
        variance: The variance of the loss's noise along such probes.
        kinks: Sum over the latest probes of what their squared fourth differences hold beyond noise, times step^3.
        weight: Sum over the same probes of step^6: `kinks / weight` is the least-squares slope over step^3.
        curved: The mean square of the second derivative of the loss along the latest probes.
        checks: The number of probes so far.
        strays: The number of probes in a row whose step was far too long.
        detector: The sequential evidence of the probes.
    """

    steps: Steps
    variance: float
    kinks: float = 0.0
    weight: float = 0.0
    curved: float = 0.0
    checks: int = 0
    strays: int = 0
    detector: Detector = field(default_factory=Detector)

    @property
    def curvature(self) -> float:
        """The root mean square of the second derivative of the loss along the latest probes."""
        return math.sqrt(self.curved)

    def bend(self, curvature: float) -> None:
        """Update the curvature after one probe."""
        weight = max(NEWEST, 1 / (self.checks + 1))
        self.curved += weight * (curvature**2 - self.curved)

    def learn(self, z3: float, fourth: float, z: float) -> None:
        """Update the step, the noise and the evidence after one probe.

        Args:
            z3: Truncation in standard deviations of its noise.
            fourth: The fourth difference.
            z: n - g in standard deviations, about N(0, 1) on a correct gradient.
        """
        if z3 <= FAR_TOO_LONG_Z3:
            self.strays = 0
            self.detector.update(z)
            self.variance = noise.updated_variance(self.variance, fourth, self.checks)
        else:
            self.strays += 1
        self.checks += 1
        self.steps = self.steps.starting_at(next_step(self.steps.start, z3))

    def hear(self, fourth: float, step: float, most: float) -> None:
        """Update the noise and the kinks after one probe.

        Rounding noise is the same at every step. Many small kinks make the slope a random walk along a direction, so
        that the variance of a fourth difference grows as the cube of the step.

        Args:
            fourth: The fourth difference.
            step: The step of the probe.
            most: The largest variance that can be noise.
        """
        self.variance = min(noise.updated_variance(self.variance, fourth, self.checks), most)
        beyond = fourth**2 - NOISE_OF_FIVE**2 * self.variance
        self.kinks = KEPT * self.kinks + beyond * step**3
        self.weight = KEPT * self.weight + step**6
        self.checks += 1

    def noise_at(self, step: float) -> tuple[float, float]:
        """The noise of one loss, and the standard deviation of what kinks add to a difference, at some step.

        Of a random walk of slopes, a difference has 0.236 of the standard deviation of its fourth difference.
        """
        of_fourth = max(0.0, self.kinks) / self.weight * step**3 if self.weight else 0.0
        return math.sqrt(self.variance), math.sqrt(of_fourth) / 4
