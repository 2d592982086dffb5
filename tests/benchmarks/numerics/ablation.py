"""What does each rule of the deep check contribute: which bugs are missed or falsely reported without it?

What is measured: deep checks in native precision of the networks of `random_networks`, whose gradients are correct,
and of those of `detection`, which have faults: once with all rules, and once without each rule.

How to read it: "without" is the rule that is left out. "false" counts the "correct" tensors that are reported as a
bug, "caught" the "faulty" tensors that are, and "named" those with a verdict that is right for the fault.
"evaluations" of the loss are the mean over the checks. A rule that changes nothing here exists for a case that is
rarer than these networks.

    python tests/benchmarks ablation
    python tests/benchmarks ablation --networks 30 --every 10
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from unittest import mock

import numpy as np

from benchmarks.false_alarms import random_networks
from benchmarks.numerics import detection
from benchmarks.support.networks import SCALAR, UNREDUCED
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.random_models import KINDS, Trial
from benchmarks.support.tables import Row, table
from gradguard.arrays.types import Float64
from gradguard.diagnosis import classify, evidence
from gradguard.diagnosis.causes import clipping, symptoms
from gradguard.diagnosis.evidence import Evidence
from gradguard.differences import noise
from gradguard.differences.four_point import FourPoint
from gradguard.measurement import confirmation, context, step_search
from gradguard.statistics import pairs, ratio
from gradguard.statistics.pairs import DerivativePairs

USUAL_TIME = "about 10 min"

Patches = Callable[[], Sequence[AbstractContextManager[object]]]


def equal(step: float, count: int) -> Float64:
    """Steps that are not dithered."""
    return np.full(count, step)


def alarm_at(level: float) -> Patches:
    """Another level at which a deviation is an alarm."""
    modules = (evidence, pairs, confirmation, classify, clipping, symptoms)
    return lambda: [mock.patch.object(module, "ALARM", level) for module in modules]


RULES: Mapping[str, Patches] = {
    "all rules": list,
    "an alarm at 4 standard deviations": alarm_at(4.0),
    "an alarm at 5 standard deviations": alarm_at(5.0),
    "truncation is not in the bar": lambda: [mock.patch.object(FourPoint, "truncation_bar", no_bar)],
    "steps of any length": lambda: [mock.patch.object(context, "LONGEST", 1e6)],
    "steps are not dithered": lambda: [
        mock.patch.object(module, "dithered", equal) for module in (step_search, confirmation)
    ],
    "nothing is measured again": lambda: [mock.patch.object(confirmation, "SUSPICIOUS", np.inf)],
    "no retreat to shorter steps": lambda: [mock.patch.object(confirmation, "RETREATS", 1)],
    "corners are not looked for": lambda: [mock.patch.object(confirmation, "_is_corner", return_value=False)],
    "bends are heard as noise": lambda: [mock.patch.object(noise, "NARROWINGS", ())],
    "no confirmation at shorter steps": lambda: [mock.patch.object(confirmation, "holds", return_value=True)],
    "a rough loss is like any other": lambda: [mock.patch.object(Evidence, "is_suspect", property(as_if_smooth))],
    "no amplification of roundings": lambda: [
        mock.patch.object(confirmation, "amplified", lambda *given: given[3].rounding)
    ],
    "backprop makes no roundings": lambda: [
        mock.patch.object(context, "BACKPROP_ROUNDING", 0),
        mock.patch.object(context, "SATURATED_ROUNDING", 0),
    ],
    "saturated units round like others": lambda: [mock.patch.object(context, "SATURATED_ROUNDING", 0)],
    "no test of a common factor": lambda: [mock.patch.object(DerivativePairs, "_of_factor", return_value=0.0)],
    "entries in the noise count for a factor": lambda: [mock.patch.object(ratio, "CLEAR", 0.0)],
    "no purity threshold": lambda: [mock.patch.object(classify, "MAX_CHI2_OF_ONE_FACTOR", np.inf)],
    "a purity threshold of 2": lambda: [mock.patch.object(classify, "MAX_CHI2_OF_ONE_FACTOR", 2.0)],
    "any worst entry is pure": lambda: [mock.patch.object(classify, "ALARM", np.inf)],
}


def no_bar(points: FourPoint, sigma: float) -> Float64:  # noqa: ARG001 - in place of a method
    """A truncation bar of nothing."""
    return np.zeros_like(points.step)


def as_if_smooth(found: Evidence) -> bool:
    """Whether the gradient is suspect, kinks or not."""
    return (
        max(found.entries.significance(nonsmooth=False), found.directions.significance(nonsmooth=False)) > pairs.ALARM
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each rule that is left out."""
    options = parser().parse_args(arguments)
    rules = list(RULES)[:2] if options.quick else list(RULES)
    work = [(rule, options.networks, options.every, options.quick) for rule in rules]
    print(table(("without", "correct", "false", "faulty", "caught", "named", "evaluations"), rows(work, options)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one rule, few networks", processes=2)
    options.add_argument("--networks", type=int, default=300, help="with correct gradients (default: %(default)s)")
    options.add_argument("--every", type=int, default=3, help="only every so many of the faults (default: %(default)s)")
    return options


def rows(work: Sequence[tuple[str, int, int, bool]], options: argparse.Namespace) -> Iterator[Row]:
    """A row for each rule."""
    for (rule, *_), count in zip(work, in_parallel(without, work, options.processes, "rules"), strict=True):
        told = (str(count[what]) for what in ("correct", "false", "faulty", "caught", "named"))
        yield (rule, *told, str(round(count["evaluations"] / count["checks"])))


def without(given: tuple[str, int, int, bool]) -> Counter[str]:
    """The counts with one rule left out."""
    rule, networks, every, quick = given
    count: Counter[str] = Counter()
    with ExitStack() as stack:
        for patch in RULES[rule]():
            stack.enter_context(patch)
        kinds = [(kind, form) for kind in KINDS for form in (SCALAR, UNREDUCED)]
        for seed in range(2 if quick else networks):
            found, _ = random_networks.judged(Trial(seed, *kinds[seed % len(kinds)]))
            count.update({"correct": found["tensors"], "false": found["bugs"]})
        names = ["timesteps"] if quick else list(detection.FAULTS)[::every]
        states = detection.STATES[:1] if quick else detection.STATES
        for state in states:
            for name in names:
                count.update(detection.judged(detection.Trial(SCALAR, state, name, 1)))
    return count
