"""How many evaluations of the loss does a check need, and how much time does it take beside them?

What is measured: the evaluations of the loss in checks of LSTMs of several sizes (39 timesteps, 4 sequences), in native
precision, with float64 copies by differences, and with exact derivatives (the complex step), and the processor time of
a check relative to that of its evaluations; medians over several checks. A "routine" check is one of a training. The
others are `gradguard.check`: a "clean" one until every tensor has its verdict, the same "with charts" (a few entries
of every tensor are measured for them), and a "faulty" one, the mean over `gradguard.testing.FAULTS` and the tensors
that they spoil.

How to read it: "evaluations" is the median number of evaluations of the loss and "most" the largest; those of a
complex loss count like the others. "ms each" is the time of one evaluation and "ms" that of the check; "overhead" is
the check over its evaluations, so that the part above 1 is gradguard's own arithmetic. "verdicts" are the tensors with
a verdict, of all. The times depend on the machine, the numbers of evaluations do not.

    python tests/benchmarks evaluations
    python tests/benchmarks evaluations --hidden 5 --every 5
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.networks import FLOAT64, SCALAR, LossForm, descend
from benchmarks.support.options import parser_of
from benchmarks.support.spent import Spent
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, Report, check
from gradguard.testing import FAULTS, LSTM, Batch, faulty, random_batch

USUAL_TIME = "about 10 to 20 min"

SIZES = (5, 32, 64, 128, 512)
LARGEST_FAULTY = 128  # cells, at most, of networks with all faults
REPEATS = 9
EXACT = LossForm("exact", "float64", None)
FORMS = (SCALAR, FLOAT64, EXACT)


@dataclass(frozen=True, slots=True)
class Timing:
    """One check: its report, its seconds, and those of the loss within it."""

    report: Report
    seconds: float
    of_loss: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each size, form of the loss and kind of check."""
    options = parser().parse_args(arguments)
    sizes, timesteps, repeats = (SIZES[:1], 3, 2) if options.quick else (options.hidden, 39, REPEATS)
    faults = ["timesteps"] if options.quick else list(FAULTS)[:: options.every]
    head = ("check", "loss", "H", "parameters", "evaluations", "most", "ms each", "ms", "overhead", "verdicts")
    print(table(head, rows(sizes, random_batch(timesteps, 4), repeats, faults)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "the smallest network only, three timesteps, one fault")
    options.add_argument("--hidden", nargs="+", type=int, default=SIZES, help="cells of the networks")
    options.add_argument("--every", type=int, default=1, help="only every so many of the faults")
    return options


def rows(sizes: Sequence[int], batch: Batch, repeats: int, faults: Sequence[str]) -> Iterator[Row]:
    """Checks of networks of some sizes."""
    runs = [(hidden, form) for hidden in sizes for form in FORMS]
    for hidden, form in tqdm(runs, desc="checks", leave=False):
        if form is not EXACT:
            yield row("routine", hidden, form, routine_checks(hidden, batch, form, repeats))
            with mock.patch("gradguard.checks.model._measure_charts"):
                yield row("clean", hidden, form, checks(hidden, batch, form, [""]))
        yield row("clean, with charts", hidden, form, checks(hidden, batch, form, [""]))
        if hidden <= LARGEST_FAULTY:
            yield row("faulty", hidden, form, checks(hidden, batch, form, faults))


def row(kind: str, hidden: int, form: LossForm, timings: Sequence[Timing]) -> Row:
    """One kind of check of one network."""
    evaluations = [timing.report.evaluations for timing in timings]
    each = statistics.median(timing.of_loss / timing.report.evaluations for timing in timings)
    seconds = statistics.median(timing.seconds for timing in timings)
    overhead = statistics.median(timing.seconds / timing.of_loss for timing in timings)
    verdicts = [tensor.verdict.is_bug is not None for timing in timings for tensor in timing.report.tensors.values()]
    parameters = sum(param.size for param in LSTM(hidden=hidden).params.values())
    counts = (str(hidden), str(parameters), f"{statistics.median(evaluations):g}", str(max(evaluations)))
    times = (f"{1e3 * each:.2f}", f"{1e3 * seconds:.1f}", f"{overhead:.2f}")
    return kind, form.name, *counts, *times, f"{sum(verdicts)} of {len(verdicts)}"


def routine_checks(hidden: int, batch: Batch, form: LossForm, repeats: int) -> list[Timing]:
    """The checks of a training after its first check, one at each step."""
    model, timings = LSTM(hidden=hidden), []
    loss = Timed(without_complex(form.of(model, batch)))
    guard = GradGuard(model.params, loss, every_n_steps=1, max_overhead=None, precision=form.precision)
    for step in range(repeats + 1):
        _, grads = model.loss_and_grads(batch)
        timing = timed(partial(guard.after_backward, step, grads), loss)
        if timing is not None and step:
            timings.append(timing)
        descend(model, grads, 0.01)
    return timings


def checks(hidden: int, batch: Batch, form: LossForm, faults: Sequence[str]) -> list[Timing]:
    """A check of the untrained network with each of some faults; "" is none."""
    timings = []
    for fault in faults:
        model = (faulty(fault) if fault else LSTM)(hidden=hidden)
        grads = model.loss_and_grads(batch)[1]
        loss = Timed(form.of(model, batch) if form is EXACT else without_complex(form.of(model, batch)))
        timing = timed(partial(check, model.params, grads, loss, precision=form.precision), loss)
        timings += [timing] if timing is not None else []
    return timings


def without_complex(loss: Callable[[], object]) -> Callable[[], object]:
    """The loss of a network that takes no complex parameters, so that it has no exact derivatives."""

    def real() -> object:
        value: Any = loss()
        if np.iscomplexobj(value):
            raise TypeError("the parameters are complex")
        return value

    return real


class Timed:
    """A loss, and the seconds of processor time that its evaluations took."""

    def __init__(self, loss: Callable[[], object]) -> None:
        self._loss, self.spent = loss, Spent()

    def __call__(self) -> object:
        """Evaluate it."""
        started = time.process_time()
        value = self._loss()
        self.spent.add(time.process_time() - started)
        return value


def timed(act: Callable[[], Report | None], loss: Timed) -> Timing | None:
    """A check with its processor time; None if the guard made no check."""
    loss.spent.taken()
    started = time.process_time()
    report = act()
    spent = time.process_time() - started
    return None if report is None else Timing(report, spent, loss.spent.taken())
