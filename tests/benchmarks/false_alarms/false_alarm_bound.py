"""Does `Thresholds.false_alarms` really limit the chance that the routine probes of a run raise an alarm?

What is measured: simulated runs of many checks on correct gradients. Each check adds the standardized errors Z of the
two probes of its screen to the evidence of the model and, with a random sign for each tensor, to that of every tensor;
and those of a direction and two entries to the evidence of the tensor whose turn it is. The sums are those of
`gradguard.statistics.sequential`. A run has an alarm if one of them exceeds the level that a guard computes from the
number of tensors, the number of checks and `false_alarms`. An alarm starts an examination and reports nothing yet, so
the chance of a false bug report is far lower.

Z is drawn from N(0, 1), for which the bound is proven, and from what real probes look like: stretches of Z from real
trainings under guard, and a model of them, Student's t with their standard deviation and their tails. The other cases
break an assumption of the proof, with error bars that are 1.1 times too wide, as a guard's are: Z rounded to half
standard deviations, Z with a share in common among all probes of a check, and Z that is correlated from check to
check.

How to read it: "nominal" is `false_alarms`; "alarmed" counts the runs with an alarm, and "share" is their share, with
its 95 % Clopper-Pearson interval from "from" to "to". The bound is broken if the interval lies above the nominal
share.

    python tests/benchmarks false_alarm_bound
    python tests/benchmarks false_alarm_bound --runs 200 --probes 1000
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from unittest import mock

import numpy as np

from benchmarks.false_alarms import correct_trainings
from benchmarks.support.networks import FORMS, Float64
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard.examination.own_numbers import GAUSSIAN_EVERY
from gradguard.statistics.sequential import MAX_Z, SHIFTS, Detector, ShiftDetectors, alarm_level
from gradguard.statistics.signs import clopper_pearson
from gradguard.training.monitor import CHECKS_IN_A_RUN, OWN_ENTRIES, PROBES

USUAL_TIME = "about 3 to 6 min"

DEVIATION_IN_BARS = 1 / 1.1  # the error bars of a probe are wider than its noise by that much
HEAVY = 4  # degrees of freedom of the Student's t that, with the measured deviation, exceeds 3 as often: in 0.7 %
MEASURED_DEVIATION = 0.83
STRETCH = 10  # successive probes of a real training that are drawn together
PROBES_A_CHECK = PROBES + 1 + OWN_ENTRIES  # those of the screen, then the own direction and entries of one tensor
ENTRY = 2  # the index of the stream of entries, after those of the two kinds of directions
STREAMS = 3


class Draw(Protocol):
    """Draws Z of the probes of a check in many runs, shape (PROBES_A_CHECK, runs)."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, int], before: Float64) -> Float64:
        """Draw them; `before` are those of the previous check."""


def normal(rng: np.random.Generator, shape: tuple[int, int], before: Float64, *, deviation: float = 1.0) -> Float64:  # noqa: ARG001 - a `Draw`
    """From N(0, 1), or with another deviation."""
    return deviation * rng.standard_normal(shape)


def heavy(rng: np.random.Generator, shape: tuple[int, int], before: Float64) -> Float64:  # noqa: ARG001 - a `Draw`
    """From a distribution with heavier tails than N(0, 1)."""
    return MEASURED_DEVIATION / np.sqrt(HEAVY / (HEAVY - 2)) * rng.standard_t(HEAVY, shape)


def discrete(rng: np.random.Generator, shape: tuple[int, int], before: Float64) -> Float64:  # noqa: ARG001 - a `Draw`
    """Rounded to half standard deviations, as from losses that differ by a few units in the last place."""
    return np.round(2 * DEVIATION_IN_BARS * rng.standard_normal(shape)) / 2


def shared(rng: np.random.Generator, shape: tuple[int, int], before: Float64, *, share: float) -> Float64:  # noqa: ARG001 - a `Draw`
    """With a share of the variance in common among all probes of a check."""
    own, common = rng.standard_normal(shape), rng.standard_normal(shape[1:])
    return DEVIATION_IN_BARS * (np.sqrt(1 - share) * own + np.sqrt(share) * common)


def lasting(rng: np.random.Generator, shape: tuple[int, int], before: Float64, *, memory: float) -> Float64:
    """Correlated with those of the previous check."""
    return memory * before + DEVIATION_IN_BARS * np.sqrt(1 - memory**2) * rng.standard_normal(shape)


@dataclass(frozen=True, slots=True)
class Case:
    """Simulated runs of one kind.

    Attributes:
        evidence: How Z is drawn, a key of `DRAWS` or `MEASURED`.
        tensors: Under guard.
        checks: In a run.
        false_alarms: The nominal chance.
        runs: How many.
    """

    evidence: str
    tensors: int
    checks: int
    false_alarms: float
    runs: int


DRAWS: dict[str, Draw] = {
    "N(0, 1)": normal,
    "normal, in bars of 1.1": partial(normal, deviation=DEVIATION_IN_BARS),
    "heavy tails, as measured": heavy,
    "rounded": discrete,
    "shared within a check, 10 %": partial(shared, share=0.1),
    "shared within a check, 30 %": partial(shared, share=0.3),
    "memory of 10 %": partial(lasting, memory=0.1),
    "memory of 30 %": partial(lasting, memory=0.3),
}
MEASURED = "of real trainings"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each case, and the statistics of the measured Z."""
    options = parser().parse_args(arguments)
    hold_to_detector()
    runs, probes = (20, 900) if options.quick else (options.runs, options.probes)
    measured = measured_z(probes, quick=options.quick)
    cases = quick_cases(runs) if options.quick else all_cases(runs)
    head = ("Z", "tensors", "checks", "nominal", "runs", "alarmed", "share", "from", "to")
    done = in_parallel(partial(alarmed, measured=measured), cases, options.processes, "cases")
    print(table(head, (row(case, count) for case, count in zip(cases, done, strict=True))))
    z = np.concatenate(measured)
    print(
        f"\n{z.size} Z of real trainings: standard deviation {z.std():.2f}, beyond 3 in {np.mean(np.abs(z) > 3):.2%}, ",
        end="",
    )
    print(f"largest {np.abs(z).max():.1f}, correlation of neighbours {neighbours(measured):.2f}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "few runs of few checks", processes=2)
    options.add_argument("--runs", type=int, default=2000, help="of each case (default: %(default)s)")
    options.add_argument("--probes", type=int, default=6000, help="of real trainings (default: %(default)s)")
    return options


def all_cases(runs: int) -> list[Case]:
    """Each kind of Z in runs of the length that the level assumes, and N(0, 1) with more tensors and fewer checks."""
    usual = [
        Case(evidence, 1, CHECKS_IN_A_RUN, chance, runs) for evidence in (*DRAWS, MEASURED) for chance in (0.01, 0.1)
    ]
    others = [
        Case("N(0, 1)", *size, chance, runs) for size in ((1, 1000), (5, 1000), (50, 100)) for chance in (0.1, 0.5)
    ]
    return usual + others


def quick_cases(runs: int) -> list[Case]:
    """One of each kind of Z."""
    return [Case(evidence, 2, 50, 0.1, runs) for evidence in (*DRAWS, MEASURED)]


def row(case: Case, count: int) -> Row:
    """One case."""
    low, high = clopper_pearson(count, case.runs)
    numbers = (str(case.tensors), str(case.checks), f"{case.false_alarms:g}", str(case.runs), str(count))
    return (case.evidence, *numbers, f"{count / case.runs:.2%}", f"{low:.2%}", f"{high:.2%}")


def alarmed(case: Case, measured: Sequence[Float64]) -> int:
    """The number of runs with an alarm."""
    rng, tensors = np.random.default_rng(0), case.tensors
    of_model = [Detectors(case.runs) for _ in range(PROBES)]
    of_tensors = Detectors(case.runs * tensors, scatter=False)
    own = [[Detectors(case.runs) for _ in range(STREAMS)] for _ in range(tensors)]
    level = 10 ** alarm_level(PROBES * (tensors + PROBES), case.checks, case.false_alarms)
    highest = np.zeros(case.runs)
    with np.errstate(over="ignore"):  # of sums far above the level
        for check, z in enumerate(checks(case, rng, measured)):
            for stream, one in zip(of_model, z, strict=False):
                stream.update(one)
                of_tensors.update((one[:, None] * rng.choice((-1.0, 1.0), size=(case.runs, tensors))).reshape(-1))
            turn, streams = check // tensors, own[check % tensors]
            direction = int(turn % GAUSSIAN_EVERY == GAUSSIAN_EVERY - 1)
            streams[direction].update(z[PROBES])
            for one in z[PROBES + 1 :]:
                streams[ENTRY].update(one)
            changed = [*of_model, streams[direction], streams[ENTRY]]
            largest = of_tensors.evidence.reshape(case.runs, tensors).max(axis=1)
            highest = np.max([highest, largest, *(stream.evidence for stream in changed)], axis=0)
    return int(np.sum(highest > level))


def checks(case: Case, rng: np.random.Generator, measured: Sequence[Float64]) -> Iterator[Float64]:
    """Z of each check, shape (PROBES_A_CHECK, runs)."""
    shape = (PROBES_A_CHECK, case.runs)
    if case.evidence == MEASURED:
        yield from stretches(rng, case.checks, shape, measured)
        return
    before = rng.standard_normal(shape)
    for _ in range(case.checks):
        before = DRAWS[case.evidence](rng, shape, before)
        yield before


def stretches(
    rng: np.random.Generator, count: int, shape: tuple[int, int], measured: Sequence[Float64]
) -> Iterator[Float64]:
    """Z in stretches of successive values from real trainings."""
    windows = np.concatenate(
        [np.lib.stride_tricks.sliding_window_view(z, STRETCH) for z in measured if z.size >= STRETCH]
    )
    for place in range(count):
        if place % STRETCH == 0:
            chosen = rng.integers(len(windows), size=shape)
        yield windows[chosen, place % STRETCH]


class Detectors:
    """Many of `gradguard.statistics.sequential.Detector` at once, which are never restarted.

    Args:
        count: How many.
        scatter: Whether Z that scatters more counts too; if not, they are `ShiftDetectors`.
    """

    def __init__(self, count: int, *, scatter: bool = True) -> None:
        self._sums = np.zeros((3 if scatter else 2, SHIFTS.size, count))
        self._damping = np.exp(-(SHIFTS**2) / 2)[:, None]

    def update(self, z: Float64) -> None:
        """Add one probe to each."""
        grown = np.exp(SHIFTS[:, None] * np.clip(z, -MAX_Z, MAX_Z))
        shrunk = 1 / grown
        self._sums += 1
        for sums, factor in zip(self._sums, (grown, shrunk, (grown + shrunk) / 2), strict=False):
            sums *= factor
        self._sums *= self._damping

    @property
    def evidence(self) -> Float64:
        """The evidence of each, not as a logarithm."""
        upward, downward, *either = self._sums.mean(axis=1)
        shifted: Float64 = (upward + downward) / 2
        return (shifted + either[0]) / 2 if either else shifted


def hold_to_detector() -> None:
    """Raise `ValueError` if the simulated detectors differ from those of the guard."""
    z = np.random.default_rng(0).standard_normal((200, 3)) * [1, 2, 4] + [0, 0, 1]
    many, each = Detectors(3), [Detector() for _ in range(3)]
    shifts, together = Detectors(3, scatter=False), ShiftDetectors(3)
    for values in z:
        many.update(values)
        shifts.update(values)
        together.update(values)
        for detector, value in zip(each, values, strict=True):
            detector.update(float(value))
        alike = np.allclose(np.log10(many.evidence), [detector.evidence for detector in each], atol=1e-9)
        if not (alike and np.allclose(np.log10(shifts.evidence), together.evidence, atol=1e-9)):
            raise ValueError("the simulated evidence is not that of gradguard.statistics.sequential")


def measured_z(probes: int, *, quick: bool) -> list[Float64]:
    """Z in real trainings with correct gradients, an array for each detector."""
    networks = correct_trainings.NETWORKS[3:4] if quick else correct_trainings.NETWORKS
    share = -(-probes // (len(networks) * len(FORMS)))
    streams: dict[int, tuple[Detector, list[float]]] = {}
    with mock.patch.object(Detector, "update", recording(streams)):
        for network in networks:
            for form in FORMS:
                correct_trainings.outcome_of(correct_trainings.Training(*network, form, share))
    return [np.array(values) for _, values in streams.values()]


def recording(streams: dict[int, tuple[Detector, list[float]]]) -> Callable[[Detector, float], None]:
    """A replacement of `Detector.update` that records its arguments."""
    update = Detector.update

    def updating(self: Any, z: float) -> None:
        streams.setdefault(id(self), (self, []))[1].append(z)  # kept alive, so that no other object gets its id
        update(self, z)

    return updating


def neighbours(measured: Sequence[Float64]) -> float:
    """The correlation of each Z with the next of its stream."""
    pairs = np.concatenate([np.stack([z[:-1], z[1:]]) for z in measured], axis=1)
    return float(np.corrcoef(pairs)[0, 1])
