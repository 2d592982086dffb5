"""How often a deep check blames a correct gradient: many small networks, drawn at random with their state and loss.

What is measured: `gradguard.check` on LSTMs and on plain recurrent networks (tanh, and ReLU, whose losses have kinks
everywhere), of 1 to 20 timesteps and 1 to 16 sequences, untrained, trained at low and at high rates, and sharpened;
with parameters scaled down or up, half of a tensor zero, a constant in the loss that swallows its digits, a loss scale;
in each form of the loss (float64 where it takes). All gradients are correct.

How to read it: a row is a kind of network in one form of the loss. "bugs" are tensors called a bug, all falsely;
the goal is 0. "cannot tell" are tensors without a verdict, which costs detection and nothing else. With 0 bugs among n
tensors the chance of one is below 3/n (95 %).

    python tests/benchmarks/deep_null.py
    python tests/benchmarks/deep_null.py --tensors 2000 --first 50000
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.random_models import Trial, trials
from benchmarks.support.tables import Row, table
from gradguard import check

USUAL_TIME = "about 10 min"

TENSORS = 5  # of an LSTM, and nearly as many of the others
ENTRIES = 24


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    count = 9 if options.quick else -(-options.tensors // TENSORS)
    bugs: list[str] = []
    told = ("ok", "float_precision", "inconclusive", "kink")
    head = ("network, loss", "tensors", "bugs", *(word.replace("_", " ") for word in told), "evaluations")
    print(table(head, rows(trials(options.first, count), options.processes, told, bugs)))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "nine networks", processes=2)
    options.add_argument("--tensors", type=int, default=100_000, help="about so many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(drawn: Sequence[Trial], processes: int, told: Sequence[str], bugs: list[str]) -> Iterator[Row]:
    """The verdicts, counted; the false bugs are added to `bugs`."""
    counts: dict[str, Counter[str]] = {}
    for trial, (count, wrong) in zip(drawn, in_parallel(judged, drawn, processes, "networks"), strict=True):
        counts.setdefault(trial.name, Counter()).update(count)
        bugs += wrong
    for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        numbers = (str(count[word]) for word in ("tensors", "bugs", *told))
        yield (name, *numbers, str(round(count["evaluations"] / max(1, count["checks"]))))


def judged(trial: Trial) -> tuple[Counter[str], list[str]]:
    """The verdicts on one network, and its false bugs."""
    model, count = trial.model(), Counter({"checks": 1})
    with np.errstate(over="ignore", invalid="ignore"):
        grads = model.gradients(model.batch)
        if not grads:
            return count, []
        report = check(
            model.network.params,
            grads,
            lambda: model.loss(model.batch),
            reduction=trial.form.reduction,
            precision="native" if trial.form.precision == "native" else "auto",
            entries=ENTRIES,
            seed=trial.seed,
        )
    count.update({"evaluations": report.evaluations})
    for tensor in report.tensors.values():
        count.update({"tensors": 1, tensor.verdict: 1, "bugs": bool(tensor.verdict.is_bug)})
    wrong = [f"FALSE {trial}: {tensor.name} {tensor}" for tensor in report.tensors.values() if tensor.verdict.is_bug]
    return count, wrong
