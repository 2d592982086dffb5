"""What is carried from one routine check of a tensor to the next: a stream for each kind of probe."""

from dataclasses import dataclass, field

from gradguard.checks.examine import CAUTION
from gradguard.differences import Noise, Steps, next_step, noise
from gradguard.measurement import TensorMeasurement
from gradguard.statistics import Detector

FAR_TOO_LONG_Z3 = 30.0  # truncation, in its noise, above which a probe is no evidence either way
STRAYS = 5  # probes in a row with far too long a step, after which the steps must be searched anew


@dataclass(slots=True)
class Stream:
    """The state of one kind of probe of one tensor.

    Attributes:
        steps: The step of the next probe, and its range.
        variance: The variance of the loss's noise along such probes.
        checks: The number of probes so far.
        strays: The number of probes in a row whose step was far too long.
        detector: The sequential evidence of the probes.
    """

    steps: Steps
    variance: float
    checks: int = 0
    strays: int = 0
    detector: Detector = field(default_factory=Detector)

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


@dataclass(slots=True)
class TensorState:
    """The state of the routine probes of one tensor.

    Attributes:
        aligned: Probes along the gradient.
        gaussian: Probes along Gaussian vectors.
        entry: Probes along single entries.
        noise: The noise of the loss at the last examination.
        amplification: How much larger backprop's rounding error is than its usual bound.
        checks: The number of routine checks so far.
    """

    aligned: Stream
    gaussian: Stream
    entry: Stream
    noise: Noise
    amplification: float
    checks: int = 0

    @classmethod
    def after(cls, measurement: TensorMeasurement) -> "TensorState":
        """The state after an examination."""
        entries, directions = measurement.entries, measurement.directions
        along = (directions.usual_steps, directions.sigma**2)
        return cls(
            aligned=Stream(*along),
            gaussian=Stream(*along),
            entry=Stream(entries.usual_steps, entries.sigma**2),
            noise=measurement.noise,
            amplification=measurement.amplification,
        )

    def inherited(self, entries: Steps, directions: Steps) -> "TensorState":
        """The first state of another tensor, of which only the range of its steps is known."""
        along = (directions.starting_at(CAUTION * self.aligned.steps.start), self.aligned.variance)
        return TensorState(
            aligned=Stream(*along),
            gaussian=Stream(*along),
            entry=Stream(entries.starting_at(CAUTION * self.entry.steps.start), self.entry.variance),
            noise=self.noise,
            amplification=self.amplification,
        )

    @property
    def is_lost(self) -> bool:
        """Whether the steps no longer suit the loss, and must be searched anew."""
        return max(self.aligned.strays, self.gaussian.strays, self.entry.strays) >= STRAYS

    @property
    def evidence(self) -> float:
        """log10 of the strongest evidence among the streams."""
        return max(stream.detector.evidence for stream in (self.aligned, self.gaussian, self.entry))
