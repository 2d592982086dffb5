"""Do the corners of deep ReLU, max-pool and clipped networks raise alarms, and do errors still show among them?

What is measured: `gradguard.check` on networks of 4 to 12 layers with correct gradients, at batch sizes from 1 to 256,
in native precision and with float64 copies, and on the same networks with one gradient 5 % too large. A direction
through all tensors of such a network crosses many corners of its loss.

How to read it: a row is a kind of network at one batch size in one precision. "bugs" counts the "tensors" with correct
gradients that are reported as a bug; the goal is 0. "raw alarms" counts the probes of screens beyond 6 standard
deviations, of all their "probes", and "alarms" the screens among them whose disagreement lasts at shorter steps: each
costs the search for a wrong tensor and nothing else. "unclear" is the share of tensors that end with `inconclusive`,
and "kink" that with a kink. "told" counts the networks whose wrong tensor is reported as a bug by the same check.

    python tests/benchmarks kinked_networks
    python tests/benchmarks kinked_networks --networks 5 --batches 32
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.support.deep_networks import KINKED, DeepNetwork, Examples, wrong_gradients
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.probe_recording import recorded_screens, z_of
from benchmarks.support.tables import Row, table
from gradguard import Verdict, check
from gradguard.statistics import ALARM_Z

USUAL_TIME = "about 1 h"

WIDTH = 24
LAYERS = (4, 6, 8, 10, 12)


@dataclass(frozen=True, slots=True)
class Trial:
    """One network, checked with right gradients and with one that is too large."""

    kind: str
    batch: int
    precision: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network, batch size and precision, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    batches, networks = ([4], 1) if options.quick else (options.batches, options.networks)
    trials = [
        Trial(kind, batch, precision, options.first + seed)
        for kind in KINKED
        for batch in batches
        for precision in ("native", "float64")
        for seed in range(networks)
    ]
    bugs: list[str] = []
    head = ("network", "batch", "precision", "tensors", "bugs", "probes", "raw alarms", "alarms", "unclear", "kink")
    print(table((*head, "told", "evaluations"), rows(trials, options.processes, bugs)))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one network of each kind", processes=2)
    options.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64, 256], help="batch sizes")
    options.add_argument("--networks", type=int, default=20, help="of each kind (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(trials: Sequence[Trial], processes: int, bugs: list[str]) -> Iterator[Row]:
    """The counts of all networks that differ in their seeds only, and of all; false bugs are added to `bugs`."""
    counts: dict[Trial, Counter[str]] = {}
    for trial, (count, wrong) in zip(trials, in_parallel(judged, trials, processes, "networks"), strict=True):
        counts.setdefault(replace(trial, seed=0), Counter()).update(count)
        bugs += wrong
    for trial, count in counts.items():
        yield trial.kind, str(trial.batch), trial.precision, *numbers(count)
    yield "all", "", "", *numbers(sum(counts.values(), Counter()))


def numbers(count: Counter[str]) -> Row:
    """The columns of some networks."""
    whole = (str(count[what]) for what in ("tensors", "bugs", "probes", "raw alarms", "alarms"))
    shares = (f"{count[what] / count['tensors']:.1%}" for what in (Verdict.inconclusive, Verdict.kink))
    told, evaluations = f"{count['told']} of {count['networks']}", round(count["evaluations"] / count["networks"])
    return *whole, *shares, told, str(evaluations)


def judged(trial: Trial) -> tuple[Counter[str], list[str]]:
    """The counts of one network, and its false bugs."""
    layers = LAYERS[trial.seed % len(LAYERS)]
    network = DeepNetwork(trial.kind, layers, WIDTH, trial.seed)
    batch = Examples.drawn(trial.batch, WIDTH, trial.seed)
    run = partial(check, network.params, precision=trial.precision, seed=trial.seed)
    with recorded_screens() as screens:
        report = run(network.gradients(batch), partial(network.loss, batch))
    z = np.abs(np.concatenate([z_of(screened) for screened in screens]))
    count = Counter({"networks": 1, "probes": z.size, "raw alarms": int((z > ALARM_Z).sum())})
    count.update({"alarms": sum(screened.alarms for screened in screens), "evaluations": report.evaluations})
    for tensor in report.tensors.values():
        count.update({"tensors": 1, tensor.verdict: 1, "bugs": bool(tensor.verdict.is_bug)})
    layer = trial.seed % layers
    wrong = run(wrong_gradients(network, batch, "5 % too large", layer), partial(network.loss, batch))
    count["told"] = int(bool(wrong.tensors[f"W{layer}"].verdict.is_bug))
    falsely = [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug]
    blamed = [name for name, tensor in wrong.tensors.items() if tensor.verdict.is_bug and name != f"W{layer}"]
    count["bugs"] += len(blamed)
    return count, [f"FALSE {trial}: {falsely} with right gradients, {blamed} beside W{layer}"] * bool(falsely + blamed)
