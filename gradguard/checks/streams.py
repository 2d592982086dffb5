"""What a tensor carries from one routine check to the next: a stream for each kind of probe."""

from dataclasses import dataclass, field

from gradguard.checks.examine import CAUTION, Examined
from gradguard.differences import noise
from gradguard.differences.noise import Noise
from gradguard.differences.step_size import Steps, next_step
from gradguard.statistics.sequential import Detector

FAR_TOO_LONG_Z3 = 30.0
STRAYS = 5


@dataclass(slots=True)
class Stream:
    """What one kind of probe of one tensor carries from check to check.

    Attributes:
        steps: h of the next probe, and the range it may creep in.
        variance: Of the loss's noise along such probes.
        checks: Probes so far.
        strays: Probes in a row whose step was far too long.
        detector: Their evidence.
    """

    steps: Steps
    variance: float
    checks: int = 0
    strays: int = 0
    detector: Detector = field(default_factory=Detector)

    def learn(self, z3: float, fourth: float, z: float) -> None:
        """Take over what one probe says of the step, the noise and the gradient.

        Args:
            z3: Truncation in standard deviations of its noise.
            fourth: The fourth difference.
            z: About N(0, 1) on a correct gradient.
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
    """What one tensor carries from check to check: a stream for each kind of probe.

    Attributes:
        aligned: Along the gradient.
        gaussian: Along Gaussian vectors.
        entry: Along single entries.
        noise: The noise of the loss when the deep check was made.
        amplification: How much larger backprop's own rounding error is than its usual bound.
        checks: Routine checks so far.
    """

    aligned: Stream
    gaussian: Stream
    entry: Stream
    noise: Noise
    amplification: float
    checks: int = 0

    @classmethod
    def after(cls, examined: Examined) -> "TensorState":
        """Begin where a deep check left off."""
        along = (examined.directions.steps, examined.directions.settled.sigma**2)
        return cls(
            aligned=Stream(*along),
            gaussian=Stream(*along),
            entry=Stream(examined.entries.steps, examined.entries.settled.sigma**2),
            noise=examined.noise,
            amplification=examined.amplification,
        )

    def borrowed(self, entries: Steps, directions: Steps) -> "TensorState":
        """What another tensor may begin with, of which nothing is known but the steps it may take."""
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
        """Whether the steps no longer suit the loss, and a deep check must find them anew."""
        return max(self.aligned.strays, self.gaussian.strays, self.entry.strays) >= STRAYS

    @property
    def evidence(self) -> float:
        """log10 of the strongest evidence among the streams."""
        return max(stream.detector.evidence for stream in (self.aligned, self.gaussian, self.entry))
