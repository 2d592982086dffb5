"""What does each rule of a check contribute: which bugs are missed or falsely reported without it?

What is measured: checks in native precision of the networks of `random_networks`, whose gradients are correct,
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
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from benchmarks.false_alarms import random_networks
from benchmarks.numerics import detection
from benchmarks.support.networks import SCALAR, UNREDUCED
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.random_models import KINDS, Trial
from benchmarks.support.tables import Row, table
from gradguard.statistics.rules import Rules

USUAL_TIME = "about 1 to 2 h"

RULES: Mapping[str, Rules] = {
    "all rules": Rules(),
    "an alarm at 4 standard deviations": Rules(alarm=4.0),
    "an alarm at 5 standard deviations": Rules(alarm=5.0),
    "truncation in the error bar": Rules(truncation=False),
    "a limit of the step": Rules(longest_step=1e6),
    "dithered steps": Rules(dithered=False),
    "measuring suspects again": Rules(remeasure_from=np.inf),
    "retreats to shorter steps": Rules(retreats=1),
    "a search for kinks": Rules(kink_search=False),
    "narrower noise where the loss curves": Rules(narrowed_noise=False),
    "confirmation at shorter steps": Rules(short_steps=False),
    "confirmation where the loss is not smooth": Rules(nonsmooth_confirmation=False),
    "amplified roundings": Rules(amplification=False),
    "rounding in the backward pass": Rules(backprop_rounding=0.0),
    "a test of one factor": Rules(factor_test=False),
    "leaving entries in the noise out of it": Rules(factor_clear=0.0),
    "a limit of chi^2 for one factor": Rules(max_chi2=np.inf),
    "a limit of 3 for that chi^2, but 2": Rules(max_chi2=2.0),
    "the worst entry fitting the factor": Rules(worst_entry=False),
}


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
    kinds = [(kind, form) for kind in KINDS for form in (SCALAR, UNREDUCED)]
    for seed in range(2 if quick else networks):
        found, _ = random_networks.judged(Trial(seed, *kinds[seed % len(kinds)]), RULES[rule])
        count.update({"correct": found["tensors"], "false": found["bugs"]})
    names = ["timesteps"] if quick else list(detection.FAULTS)[::every]
    states = detection.STATES[:1] if quick else detection.STATES
    for state in states:
        for name in names:
            count.update(detection.judged(detection.Trial(SCALAR, state, name, 1), RULES[rule]))
    return count
