"""How soon is a fault in one of many tensors told, and how soon is its tensor named?

What is measured: residual networks of 5, 41 and 401 tensors in training, under a guard that checks every step. The
gradient of one tensor is wrong from the first step on, or from the middle of the training on; in "slope forgotten"
those of all layers below one are. Precision is native, or float64 copies.

How to read it: a row is a fault in networks of one size, from one moment on. "told" counts the trainings in which a
wrong tensor is reported as a bug, "checks" is the median number of checks from the fault to that report, and
"evaluations" is how often these evaluated the loss. "named" counts those in which every wrong tensor is reported as a
bug, with its own "checks" and "evaluations". "right kind" is the share of wrong tensors whose last verdict fits the
fault. "blamed" is the share of the right tensors that some check reports as a bug: the goal is 0.

    python tests/benchmarks one_wrong_tensor
    python tests/benchmarks one_wrong_tensor --tensors 5 41 --seeds 1
"""

import argparse
import logging
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from benchmarks.support.deep_networks import FORGOTTEN, IN_ONE_TENSOR, DeepNetwork, Examples, wrong_gradients
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, Report

USUAL_TIME = "about 1 h"

WIDTH, BATCH, RATE = 16, 32, 0.05
MIDDLE = 20  # step from which a fault that starts in mid-training is in the gradient
WRONG = 1e-6  # relative error above which a tensor counts as wrong
FITTING = {
    "1 % too large": {"scale"},
    "5 % too large": {"scale"},
    "a row of zeros": {"structure", "missing"},
    "a column of zeros": {"structure", "missing"},
    "transposed": {"structure"},
    "weight decay": {"structure", "spurious"},
    FORGOTTEN: {"structure", "scale", "sign"},
}


@dataclass(frozen=True, slots=True)
class Trial:
    """One training.

    Attributes:
        tensors: Of the network.
        precision: Of the guard.
        fault: In its gradient.
        start: The first step with the fault.
        seed: Of the network; it also chooses the layer.
        most: Checks after the fault, at most.
    """

    tensors: int
    precision: str
    fault: str
    start: int
    seed: int
    most: int

    @property
    def layers(self) -> int:
        """Of the network."""
        return self.tensors // 2

    @property
    def layer(self) -> int:
        """Where the fault is: in the middle, at the end, or at the start."""
        return (self.layers // 2, self.layers - 1, 0)[self.seed % 3]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the guard reported.

    Attributes:
        told: Checks and evaluations until a wrong tensor was reported; None if none was.
        named: The same until all were.
        fitting: The share of wrong tensors whose last verdict fits the fault.
        blamed: The share of right tensors that were reported as a bug.
    """

    told: tuple[int, int] | None
    named: tuple[int, int] | None
    fitting: float
    blamed: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each size, precision, moment and fault."""
    options = parser().parse_args(arguments)
    tensors, seeds, most = ([5], 1, 3) if options.quick else (options.tensors, options.seeds, options.checks)
    faults = (*IN_ONE_TENSOR, FORGOTTEN)
    trials = [
        Trial(count, precision, fault, start, seed, most)
        for count in tensors
        for precision in ("native", "float64")
        for start in (0, MIDDLE)
        for fault in faults
        for seed in range(seeds)
    ]
    outcomes = list(in_parallel(outcome_of, trials, options.processes, "trainings"))
    head = ("fault", "tensors", "precision", "from step", "told", "checks", "evaluations", "named", "checks")
    print(table((*head, "evaluations", "right kind", "blamed"), rows(trials, outcomes)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "networks of 5 tensors, three checks", processes=2)
    options.add_argument("--tensors", nargs="+", type=int, default=[5, 41, 401], help="of the networks")
    options.add_argument("--seeds", type=int, default=3, help="networks of each kind (default: %(default)s)")
    options.add_argument("--checks", type=int, default=30, help="after the fault, at most (default: %(default)s)")
    return options


def rows(trials: Sequence[Trial], outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """A row for all trainings that differ in their seeds only."""
    groups: dict[Trial, list[Outcome]] = {}
    for trial, outcome in zip(trials, outcomes, strict=True):
        groups.setdefault(replace(trial, seed=0), []).append(outcome)
    for trial, group in groups.items():
        told, named = ([getattr(each, what) for each in group] for what in ("told", "named"))
        shares = (f"{np.mean([getattr(each, what) for each in group]):.1%}" for what in ("fitting", "blamed"))
        yield (
            trial.fault,
            str(trial.tensors),
            trial.precision,
            str(trial.start),
            *counted(told),
            *counted(named),
            *shares,
        )


def counted(reached: Sequence[tuple[int, int] | None]) -> Row:
    """How many of the trainings came to a report, and the medians of their checks and evaluations."""
    those = [each for each in reached if each is not None]
    medians = (f"{statistics.median(numbers):g}" for numbers in zip(*those, strict=True)) if those else ("-", "-")
    return f"{len(those)} of {len(reached)}", *medians


def outcome_of(trial: Trial) -> Outcome:
    """Train until every wrong tensor is named, or there were enough checks."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    network = DeepNetwork("residual", trial.layers, WIDTH, trial.seed)
    guard = GradGuard(network.params, every_n_steps=1, max_overhead=None, precision=trial.precision, seed=trial.seed)
    told = named = None
    evaluations, blamed, wrong = 0, set[str](), set[str]()
    for step in range(trial.start + trial.most):
        batch = Examples.drawn(BATCH, WIDTH, step)
        right = network.gradients(batch)
        given = wrong_gradients(network, batch, trial.fault if step >= trial.start else "", trial.layer)
        report = guard.after_backward(step, given, partial(network.loss, batch))
        network.descend(right, RATE)  # so that faults do not change what is trained
        found = bugs_in(report)
        wrong = {name for name in right if is_wrong(given[name], right[name])}
        blamed |= found - wrong
        if step < trial.start or report is None:
            continue
        evaluations += report.evaluations
        reached = step - trial.start + 1, evaluations
        told = told or (reached if found & wrong else None)
        named = named or (reached if found >= wrong else None)
        if named:
            break
    fitting = [guard.report.tensors[name].verdict in FITTING[trial.fault] for name in wrong] if guard.report else []
    return Outcome(told, named, float(np.mean(fitting)), len(blamed) / max(1, trial.tensors - len(wrong)))


def bugs_in(report: Report | None) -> set[str]:
    """The tensors that are reported as a bug."""
    return set() if report is None else {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


def is_wrong(given: np.ndarray, right: np.ndarray) -> bool:
    """Whether a gradient is not the right one."""
    return float(np.linalg.norm(given - right)) > WRONG * float(np.linalg.norm(right))
