"""Are the faults of an LSTM found in its step function, its dense layer and its loss, and the wrong function named?

What is measured: `check_backward` on each function, the step unrolled over 13 timesteps, and `trace_backward` on all
three during one forward and backward pass. Which gradients are wrong is known from the right LSTM, at the same inputs
and cotangents. Faults outside of the functions, in the loop over timesteps or after it, are listed and not run.

How to read it: a cell has the inputs that are reported as wrong, of those that are, and how many others are reported.
An x after it says that `trace_backward` names another function or input as the first wrong one than the backward pass
meets first. The goal is all, no innocent one, and no x. The last row of faults is the right LSTM.

    python tests/benchmarks hand_written
    python tests/benchmarks hand_written --processes 2
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.functions.stepped_lstm import FUNCTIONS, OUTSIDE, SteppedLSTM
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import table
from gradguard import Report, check_backward, trace_backward
from gradguard.testing import FAULTS, LSTM, faulty, random_batch

USUAL_TIME = "about 3 min"

DTYPES = {"float32": np.float32, "float64": np.float64}
STEPS, BATCH = 13, 4
RIGHT = "(none)"
Named = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the checks of one fault said.

    Attributes:
        named: The inputs that were reported as wrong.
        wrong: Those that are.
        evaluations: Of the functions.
        is_first: Whether the first wrong gradient of the backward pass was named.
    """

    named: Named
    wrong: Named
    evaluations: int
    is_first: bool = True

    @property
    def found(self) -> int:
        """How many wrong inputs were reported."""
        return len(self.named & self.wrong)

    @property
    def innocent(self) -> int:
        """How many right inputs were reported."""
        return len(self.named - self.wrong)

    def __str__(self) -> str:
        return f"{self.found} of {len(self.wrong)}, {self.innocent}{'' if self.is_first else ' x'}"


Trial = tuple[str, str]
"""A fault and a dtype, by name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each fault."""
    options = parser().parse_args(arguments)
    names = [name for name in FAULTS if name not in OUTSIDE]
    names = [*(["softmax-slope-twice"] if options.quick else names), RIGHT]
    dtypes = list(DTYPES)[:1] if options.quick else list(DTYPES)
    trials = [(name, dtype) for name in names for dtype in dtypes]
    outcomes = dict(zip(trials, in_parallel(outcome, trials, options.processes, "faults"), strict=True))
    head = ["fault", *(f"{way}, {dtype}" for dtype in dtypes for way in ("check", "trace"))]
    rows = [[name, *(str(each) for dtype in dtypes for each in outcomes[name, dtype])] for name in names]
    columns = [[outcomes[name, dtype][way] for name in names] for dtype in dtypes for way in (0, 1)]
    sums = ["sum", *(_sum(column) for column in columns)]
    print(table(head, [*rows, sums, ["evaluations", *(_evaluations(column) for column in columns)]]))
    print("\nnot in a function:", ", ".join(f"{name} ({where})" for name, where in OUTSIDE.items()))


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    return parser_of(__name__, quick="one fault in float32", processes=1)


def outcome(trial: Trial) -> tuple[Outcome, Outcome]:
    """What `check_backward` and `trace_backward` say of a fault."""
    return checked(stepped(*trial)), traced(stepped(*trial))


def stepped(name: str, dtype: str) -> SteppedLSTM:
    """The functions of an LSTM with a fault."""
    model = (LSTM if name == RIGHT else faulty(name))(dtype=DTYPES[dtype])
    return SteppedLSTM(model, random_batch(STEPS, BATCH, dtype=DTYPES[dtype]))


def checked(lstm: SteppedLSTM) -> Outcome:
    """Each function checked alone."""
    params = lstm.model.params
    rng = np.random.default_rng(0)
    h, c, logits = (
        rng.standard_normal(shape).astype(params["Wh"].dtype)
        for shape in ((BATCH, 5), (BATCH, 5), lstm.trace.logits.shape)
    )
    timesteps = [np.array(t) for t in range(STEPS)]
    series = list(lstm.batch.x)
    reports = {
        "step": check_backward(
            lstm.step_forward,
            lstm.step_backward,
            (series, h, c, params["Wx"], params["Wh"], params["b"], timesteps),
            steps=STEPS,
        ),
        "dense": check_backward(lstm.dense_forward, lstm.dense_backward, (h, params["V"], params["c"], timesteps[3])),
        "loss": check_backward(lstm.loss_forward, lstm.loss_backward, (logits,)),
    }
    return Outcome(_named(reports), frozenset(lstm.differing), _evaluations_of(reports))


def traced(lstm: SteppedLSTM) -> Outcome:
    """All functions during one forward and backward pass."""
    lstm.backpropagate()
    wrong = list(lstm.differing)
    names = [f"{function}_{way}" for function in FUNCTIONS for way in ("forward", "backward")]
    with trace_backward(lstm, *names) as trace:
        lstm.backpropagate()
    reports = {
        each.name.removeprefix("SteppedLSTM.").removesuffix("_backward"): each.report for each in trace.functions
    }
    first = trace.first_wrong
    names_first = first and (first.function.removeprefix("SteppedLSTM.").removesuffix("_backward"), first.inputs[0])
    is_first = names_first == (wrong[0] if wrong else None)
    return Outcome(_named(reports), frozenset(wrong), _evaluations_of(reports), is_first)


def _named(reports: dict[str, Report]) -> Named:
    return frozenset(
        (function, name)
        for function, report in reports.items()
        for name, tensor in report.tensors.items()
        if tensor.verdict.is_bug
    )


def _evaluations_of(reports: dict[str, Report]) -> int:
    return sum(report.evaluations for report in reports.values())


def _sum(column: Sequence[Outcome]) -> str:
    found, wrong = sum(each.found for each in column), sum(len(each.wrong) for each in column)
    others = sum(not each.is_first for each in column)
    return f"{found} of {wrong}, {sum(each.innocent for each in column)}{f' {others} x' if others else ''}"


def _evaluations(column: Sequence[Outcome]) -> str:
    counts = [each.evaluations for each in column]
    return f"{np.median(counts):.0f} ({min(counts)} to {max(counts)})"
