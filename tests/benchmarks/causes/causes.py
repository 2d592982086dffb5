"""Is the cause of a wrong gradient named, on three architectures in float64 and float32?

What is measured: `gradguard.check` on an LSTM, a feed-forward network with batch normalization and a network with
attention, each with every kind of fault, and without any. In "float32, native" the loss is differenced in float32, too.

How to read it: a cell has a letter for each network. N: reported as a bug, and the cause of a tensor is the right one.
n: the summary names it. t: reported, without a name. W: another cause is named. -: not reported. The last rows count
them; "alarms" are tensors of right gradients that are reported as wrong. The goal is no W, no - and no alarm.

    python tests/benchmarks causes
    python tests/benchmarks causes --seeds 3 --processes 2
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.causes.architectures import ARCHITECTURES, Params, loss_of
from benchmarks.causes.kinds import CONSTANTS, KINDS, Kind, Situation
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import table
from gradguard import Report, check

USUAL_TIME = "about 4 min"

PRECISIONS = {
    "float64": (np.float64, "auto"),
    "float32": (np.float32, "auto"),
    "float32, native": (np.float32, "native"),
}
UNNAMED = ("chain_rule", "wrong_slice", "too_small", "too_large", "never_written", "not_in_the_loss", "")
NO_FAULT = "(none)"


@dataclass(frozen=True, slots=True)
class Trial:
    """One check: by kind, by architecture, both as places in their tables, and by precision."""

    kind: int
    architecture: int
    precision: str
    seed: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of fault, and a cell for each precision."""
    options = parser().parse_args(arguments)
    precisions = list(PRECISIONS)[:1] if options.quick else list(PRECISIONS)
    kinds = range(-1, 3 if options.quick else len(KINDS))
    trials = [
        Trial(kind, architecture, precision, seed)
        for kind in kinds
        for precision in precisions
        for architecture in range(len(ARCHITECTURES))
        for seed in range(1 if options.quick else options.seeds)
    ]
    marks = dict(zip(trials, in_parallel(outcome, trials, options.processes, "checks"), strict=True))
    rows = []
    for kind in kinds[1:]:
        cells = [
            "".join(mark for trial, mark in marks.items() if trial.kind == kind and trial.precision == precision)
            for precision in precisions
        ]
        rows.append([KINDS[kind].name, *cells])
    for label, letters in (("told", "NntW"), ("named rightly", "Nn"), ("named wrongly", "W"), ("not told", "-")):
        counts = [
            Counter(
                mark in letters for trial, mark in marks.items() if trial.kind >= 0 and trial.precision == precision
            )
            for precision in precisions
        ]
        rows.append([label, *(f"{count[True]} of {count.total()}" for count in counts)])
    alarms = [
        sum(int(mark) for trial, mark in marks.items() if trial.kind < 0 and trial.precision == precision)
        for precision in precisions
    ]
    rows.append(["alarms on right gradients", *map(str, alarms)])
    print(table(["kind of fault", *precisions], rows))


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    options = parser_of(__name__, quick="three kinds in float64", processes=1)
    options.add_argument("--seeds", type=int, default=1, help="networks of each architecture (default: %(default)s)")
    return options


def outcome(trial: Trial) -> str:
    """The mark of one check; of a right gradient, the number of tensors reported as wrong."""
    net = ARCHITECTURES[trial.architecture]
    dtype, precision = PRECISIONS[trial.precision]
    params = {name: value.astype(dtype) for name, value in net.fresh(trial.seed + 1).items()}
    at = Situation(net, params, net.batch(trial.seed + 100), trial.seed)
    kind = KINDS[trial.kind] if trial.kind >= 0 else Kind(NO_FAULT, lambda at: at.right)

    def loss(moved: Params) -> float:
        value = kind.unit * float(loss_of(net, moved, at.data)[0].value)
        squares = [(weight**2).sum() for weight in moved.values() if weight.ndim > 1]
        return value + kind.penalty / 2 * float(sum(squares))

    report = check(params, kind.made(at), loss, constants=net.constants | CONSTANTS, precision=precision)
    wrong = [tensor for tensor in report.tensors.values() if tensor.verdict.is_bug]
    return _mark(kind, report) if trial.kind >= 0 else str(len(wrong))


def _mark(kind: Kind, report: Report) -> str:
    keys = {tensor.cause_key for tensor in report.tensors.values() if tensor.verdict.is_bug}
    if not keys:
        return "-"
    named = {key for key in keys if not key.startswith(UNNAMED[:-1])}
    if any(not key.startswith(kind.keys) for key in named) if kind.keys else named:
        return "W"
    if named:
        return "N"
    if any(word in report.explanation for word in kind.words):
        return "n"
    return "W" if "recurrence is wrong" in report.explanation else "t"
