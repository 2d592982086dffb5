"""How often does a check report a bug in a correct gradient, over many random networks in unusual states?

What is measured: `gradguard.check` on small LSTMs and plain recurrent networks (with tanh, and with ReLU, whose loss
has kinks everywhere) of 1 to 20 timesteps and 1 to 16 sequences. They are untrained, or trained at low or high rates;
their parameters may be scaled down or up, or be half zero; the loss may have a large constant added or be scaled.
Each form of the loss is used in turn. All gradients are correct.

How to read it: a row is a kind of network with one form of the loss. "bugs" counts the tensors that are reported as a
bug; all of them are false, and the goal is 0. With 0 bugs among n tensors, the chance of one is below 3/n at 95 %
confidence. "inconclusive" counts the tensors without a verdict, which costs detection and nothing else.

    python tests/benchmarks random_networks
    python tests/benchmarks random_networks --tensors 2000 --first 50000
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.random_models import Trial, trials
from benchmarks.support.tables import Row, table
from gradguard.checks.check import CheckOptions, checked
from gradguard.statistics.rules import DEFAULT_RULES, Rules

USUAL_TIME = "about 1 to 2 h"

TENSORS = 5  # of an LSTM, and nearly as many of the others
ENTRIES = 24


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    count = 9 if options.quick else -(-options.tensors // TENSORS)
    bugs: list[str] = []
    verdicts = ("ok", "float_precision", "inconclusive", "kink")
    head = ("network, loss", "tensors", "bugs", *(word.replace("_", " ") for word in verdicts), "evaluations")
    print(table(head, rows(trials(options.first, count), options.processes, verdicts, bugs)))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "nine networks", processes=2)
    options.add_argument("--tensors", type=int, default=100_000, help="about so many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(drawn: Sequence[Trial], processes: int, verdicts: Sequence[str], bugs: list[str]) -> Iterator[Row]:
    """The number of tensors with each verdict; false bugs are added to `bugs`."""
    counts: dict[str, Counter[str]] = {}
    for trial, (count, wrong) in zip(drawn, in_parallel(judged, drawn, processes, "networks"), strict=True):
        counts.setdefault(trial.name, Counter()).update(count)
        bugs += wrong
    for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        numbers = (str(count[word]) for word in ("tensors", "bugs", *verdicts))
        yield (name, *numbers, str(round(count["evaluations"] / max(1, count["checks"]))))


def judged(trial: Trial, rules: Rules = DEFAULT_RULES) -> tuple[Counter[str], list[str]]:
    """The number of tensors with each verdict in one network, by some rules, and the false bugs."""
    model, count = trial.model(), Counter({"checks": 1})
    with np.errstate(over="ignore", invalid="ignore"):
        grads = model.gradients(model.batch)
        if not grads:
            return count, []
        options = CheckOptions(
            reduction=trial.form.reduction,
            precision="native" if trial.form.precision == "native" else "auto",
            entries=ENTRIES,
            seed=trial.seed,
        )
        report = checked(model.network.params, grads, lambda: model.loss(model.batch), options, rules)
    count.update({"evaluations": report.evaluations})
    for tensor in report.tensors.values():
        count.update({"tensors": 1, tensor.verdict: 1, "bugs": bool(tensor.verdict.is_bug)})
    wrong = [f"FALSE {trial}: {tensor.name} {tensor}" for tensor in report.tensors.values() if tensor.verdict.is_bug]
    return count, wrong
