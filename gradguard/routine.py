"""The routine check of one tensor: one direction and a few entries, four points each, and what it carries over."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gradguard import noise, probes
from gradguard.bench import Bench
from gradguard.deep import CAUTION, Examined, coverage
from gradguard.differences import FourPoint
from gradguard.drift import Detector
from gradguard.evidence import Evidence, Pairs
from gradguard.noise import Noise
from gradguard.probes import Probe
from gradguard.steps import Steps, next_step

FAR_TOO_LONG_Z3 = 30.0
GAUSSIAN_EVERY = 4
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

    def learn(self, points: FourPoint, z: float) -> None:
        """Take over what one probe says of the noise, the step and the gradient."""
        z3 = float(points.truncation_in_noise(np.sqrt(self.variance))[0])
        if np.isfinite(z3) and z3 <= FAR_TOO_LONG_Z3:
            self.strays = 0
            self.detector.update(z)
            self.variance = noise.updated_variance(self.variance, float(points.fourth[0]), self.checks)
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


def probe_tensor(
    bench: Bench, name: str, state: TensorState, entries: int, rng: np.random.Generator
) -> tuple[Evidence, float]:
    """A direction along the gradient and some entries of a tensor; the pairs, and the largest |Z| among them.

    Every few checks a Gaussian direction takes the place of an entry: it sees a gradient that is missing.
    """
    gradient = bench.gradients[name]
    floor = state.noise.floor_at(bench.objective, bench.centre)
    singles = min(entries, gradient.size)
    kinds = [(state.aligned, probes.aligned)]
    if state.checks % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1:
        # It costs the same: a small drift shows in the sum of all aligned directions, and hardly in entries.
        kinds = [*kinds[: min(1, singles)], (state.gaussian, probes.gaussian)]
        singles = max(0, singles - 1)
    state.checks += 1
    rounding = state.amplification * bench.rounding_of_direction(name).total
    along = Pairs.joined(
        [_probe(bench, name, stream, [draw(gradient, rng)], rounding, floor)[0] for stream, draw in kinds]
    )
    chosen = probes.some_entries(gradient, singles, rng)
    rounding = state.amplification * bench.rounding_of_entry(name).total
    single, kept = _probe(bench, name, state.entry, chosen, rounding, floor)
    index = tuple(chosen[place].index for place in kept)
    evidence = Evidence(
        name=name,
        shape=gradient.shape,
        norm=bench.sizes[name].norm,
        entries=single,
        index=index,
        directions=along,
        unresolved=len(chosen) - len(kept),
        kinks=0,
        coverage=coverage(gradient, index, bench.sizes[name].norm),
        step_size=state.entry.steps.start,
        noise=float(np.sqrt(kinds[0][0].variance)),
        rough=False,
        survives=False,
        blocks={},
        deep=False,
    )
    return evidence, float(np.abs(np.concatenate([along.z, single.z])).max(initial=0.0))


def _probe(
    bench: Bench, name: str, stream: Stream, chosen: Sequence[Probe], rounding: float, floor: float
) -> tuple[Pairs, list[int]]:
    """The pairs of some probes, and which probes they are of: none where the step was far too long."""
    if stream.steps.start < bench.steps_of_entries(name).shortest:  # the tensor has grown, and rounds it away
        stream.strays = STRAYS
        return Pairs.none(), []
    measured, kept = [], []
    for place, probe in enumerate(chosen):
        points = bench.measure(name, [probe], np.array([stream.steps.start]))
        stream.variance = max(stream.variance, floor**2)
        sigma = float(np.sqrt(stream.variance))
        if points.truncation_in_noise(sigma)[0] <= FAR_TOO_LONG_Z3:
            measured.append(Pairs.measured(points, sigma, rounding, np.zeros(1)))
            kept.append(place)
        stream.learn(points, float(points.deviation_in_noise(sigma, rounding)[0] * np.sign(points.g[0])))
    return Pairs.joined(measured), kept
