"""Which gradient bugs does a check of an LSTM find, and does it report the right kind of bug?

What is measured: `gradguard.check` on an LSTM with each of the faults of `gradguard.testing`, and on the correct one:
in each state of the network (untrained, trained, and sharp: the trained weights times three) and for each form of the
loss. A tensor counts as faulty if the fault changes its gradient by more than 1e-6 of its size.

How to read it: "caught" counts the "faulty" tensors that are reported as a bug, "named" those with a verdict that is
right for the fault. "below limit" counts faulty tensors that are not reported and whose error is below the smallest
error that the report calls detectable; "missed" counts those whose error is above it. "false" counts the "correct"
tensors that are reported as a bug; the goal is 0. "evaluations" of the loss are the mean over the checks.

    python tests/benchmarks detection
    python tests/benchmarks detection --every 5 --processes 2
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.networks import FORMS, TRAINED, UNTRAINED, LossForm, State
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard.checks.check import CheckOptions, checked
from gradguard.statistics.rules import DEFAULT_RULES, Rules
from gradguard.testing import FAULTS, LSTM, Batch, faulty

USUAL_TIME = "about 20 to 30 min"

CORRECT = "(none)"
STATES = ("untrained", "trained", "sharp")
FAULTY = 1e-6


@dataclass(frozen=True, slots=True)
class Trial:
    """One network to check."""

    form: LossForm
    state: str
    fault: str
    batch: int
    hidden: int = 5
    seed: int = 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each form of the loss and state."""
    options = parser().parse_args(arguments)
    names = [CORRECT, "timesteps"] if options.quick else [CORRECT, *FAULTS][:: options.every]
    states = STATES[:1] if options.quick else STATES
    trials = [Trial(form, state, name, options.batch) for form in FORMS for state in states for name in names]
    print(
        table(
            ("loss, state", "faulty", "caught", "named", "below limit", "missed", "correct", "false", "evaluations"),
            rows(trials, options.processes),
        )
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one fault on the untrained network", processes=1)
    options.add_argument("--every", type=int, default=1, help="only every so many of the faults")
    options.add_argument("--batch", type=int, default=4, help="sequences in a batch")
    return options


def rows(trials: Sequence[Trial], processes: int) -> Iterator[Row]:
    """A row for each form of the loss and each state."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for trial, count in zip(trials, in_parallel(judged, trials, processes, "checks"), strict=True):
        counts.setdefault((trial.form.name, trial.state), Counter()).update(count)
    for (form, state), count in counts.items():
        counted = ("faulty", "caught", "named", "below limit", "missed", "correct", "false")
        evaluations = round(count["evaluations"] / count["checks"])
        yield (f"{form}, {state}", *(str(count[what]) for what in counted), str(evaluations))


def judged(trial: Trial, rules: Rules = DEFAULT_RULES) -> Counter[str]:
    """The counts of the tensors of one network."""
    model, batch = network(trial)
    truth = LSTM()
    truth.params = model.params
    _, right = truth.loss_and_grads(batch)
    _, grads = model.loss_and_grads(batch)
    options = CheckOptions(
        constants={"timesteps": 39, "batch": trial.batch},
        precision=trial.form.precision,
        reduction=trial.form.reduction,
    )
    report = checked(model.params, grads, trial.form.of(model, batch), options, rules)
    count = Counter({"checks": 1, "evaluations": report.evaluations})
    for name, tensor in report.tensors.items():
        error = distance(grads[name], right[name])
        if error <= FAULTY:
            count.update({"correct": 1, "false": bool(tensor.verdict.is_bug)})
            continue
        expected = FAULTS[trial.fault].expected | {"nonfinite"}
        count.update({"faulty": 1, "caught": bool(tensor.verdict.is_bug), "named": tensor.verdict in expected})
        if not tensor.verdict.is_bug:
            count["below limit" if error < tensor.smallest_visible else "missed"] += 1
    return count


def network(trial: Trial) -> tuple[LSTM, Batch]:
    """The network with its fault, in its state."""
    state = UNTRAINED if trial.state == "untrained" else TRAINED
    start, batch = start_of(state, trial.batch, trial.hidden, trial.seed)
    model = (LSTM if trial.fault == CORRECT else faulty(trial.fault))(hidden=trial.hidden)
    factor = np.float32(3 if trial.state == "sharp" else 1)
    for name, param in start.params.items():
        model.params[name][...] = factor * param
    return model, batch


@lru_cache(maxsize=2)
def start_of(state: State, batch: int, hidden: int, seed: int) -> tuple[LSTM, Batch]:
    """`State.reached`, trained only once for successive trials in the same state."""
    return state.reached(batch, hidden, seed=seed)


def distance(wrong: NDArray[Any], right: NDArray[Any]) -> float:
    """||wrong - right|| / (||wrong|| + ||right||); 1 if `wrong` is not finite."""
    if not np.isfinite(wrong).all():
        return 1.0
    total = float(np.linalg.norm(wrong.astype(float)) + np.linalg.norm(right.astype(float)))
    return float(np.linalg.norm(wrong.astype(float) - right)) / total if total else 0.0
