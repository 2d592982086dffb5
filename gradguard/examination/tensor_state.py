"""What is carried from one check of a tensor's own numbers to the next: a stream for each kind of probe."""

from dataclasses import dataclass

from gradguard.differences import Noise
from gradguard.measurement import TensorMeasurement, TensorUnderTest
from gradguard.screening import STRAYS, Stream
from gradguard.statistics import Detector


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

    @classmethod
    def at_first(cls, tensor: TensorUnderTest, step: float | None, near: Noise) -> "TensorState":
        """The state of a tensor that was never examined.

        Args:
            tensor: The tensor.
            step: The step of the screen, in sizes of the tensors: one tensor alone may move as far. None where there
                is no screen.
            near: The noise of the loss near the unperturbed parameters.
        """
        steps = tensor.steps_of_directions
        along = (steps if step is None else steps.starting_at(step * tensor.extent), near.sigma**2)
        return cls(
            aligned=Stream(*along),
            gaussian=Stream(*along),
            entry=Stream(tensor.steps_of_entries, near.sigma**2),
            noise=near,
            amplification=1.0,
        )

    def forget_evidence(self) -> None:
        """Forget the evidence: what is known to differ would add up."""
        for stream in (self.aligned, self.gaussian, self.entry):
            stream.detector = Detector()

    @property
    def is_lost(self) -> bool:
        """Whether the steps no longer suit the loss, and must be searched anew."""
        return max(self.aligned.strays, self.gaussian.strays, self.entry.strays) >= STRAYS

    @property
    def evidence(self) -> float:
        """log10 of the strongest evidence among the streams."""
        return max(stream.detector.evidence for stream in (self.aligned, self.gaussian, self.entry))
