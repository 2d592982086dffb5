"""How many evaluations of the loss does a check need, and how much time does it take beside them?

What is measured: the evaluations of the loss in routine checks and deep checks of LSTMs of several sizes (39
timesteps, 4 sequences), and the processor time of a check relative to that of its evaluations; medians of several
checks. A routine check evaluates the loss at the current parameters, and four times for each probe: one direction and
three entries of each of the 5 tensors. The deep check measures all 250 entries of the smallest network, a sample of
the entries of the larger ones, and eight directions of each tensor.

How to read it: "an entry" is the number of evaluations divided by the number of entries that the check measures: four
are the difference itself, the others are for directions, step sizes and noise. "ms each" is the time of one
evaluation and "ms" that of the check; "overhead" is the check over its evaluations, so that the part above 1 is
gradguard's own arithmetic. The times depend on the machine, the numbers of evaluations do not.

    python tests/benchmarks evaluations
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.networks import FLOAT64, SCALAR, LossForm, descend
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, Report, check
from gradguard.testing import LSTM, Batch, random_batch

USUAL_TIME = "about 10 to 15 min"

SIZES = (5, 32, 64, 128, 512)
ENTRIES = {5: 300, 32: 50, 64: 20, 128: 10, 512: 3}  # of each tensor, at most, in a deep check
REPEATS = 9


@dataclass(frozen=True, slots=True)
class Timing:
    """One check: its report, its seconds, and those of the loss within it."""

    report: Report
    seconds: float
    of_loss: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each size, form of the loss and kind of check."""
    options = parser_of(__name__, "the smallest network only, three timesteps").parse_args(arguments)
    sizes, timesteps, repeats = (SIZES[:1], 2, 2) if options.quick else (SIZES, 39, REPEATS)
    head = ("check", "loss", "H", "parameters", "entries", "evaluations", "an entry", "ms each", "ms", "overhead")
    print(table(head, rows(sizes, random_batch(timesteps, 4), repeats)))


def rows(sizes: Sequence[int], batch: Batch, repeats: int) -> Iterator[Row]:
    """Routine and deep checks of networks of some sizes."""
    runs = [(hidden, form) for hidden in sizes for form in (SCALAR, FLOAT64)]
    for hidden, form in tqdm(runs, desc="checks", leave=False):
        yield row("routine", hidden, form, routine_checks(hidden, batch, form, repeats))
        yield row("deep", hidden, form, deep_checks(hidden, batch, form, repeats // 2))


def row(kind: str, hidden: int, form: LossForm, timings: Sequence[Timing]) -> Row:
    """One kind of check of one network."""
    evaluations = statistics.median(timing.report.evaluations for timing in timings)
    each = statistics.median(timing.of_loss / timing.report.evaluations for timing in timings)
    seconds = statistics.median(timing.seconds for timing in timings)
    overhead = statistics.median(timing.seconds / timing.of_loss for timing in timings)
    entries = sum(tensor.sampled for tensor in timings[-1].report.tensors.values())
    parameters = sum(param.size for param in LSTM(hidden=hidden).params.values())
    counts = (str(hidden), str(parameters), str(entries), f"{evaluations:g}", f"{evaluations / entries:.1f}")
    return kind, form.name, *counts, f"{1e3 * each:.2f}", f"{1e3 * seconds:.1f}", f"{overhead:.2f}"


def routine_checks(hidden: int, batch: Batch, form: LossForm, repeats: int) -> list[Timing]:
    """The checks of a training after its first check, one at each step."""
    model, timings = LSTM(hidden=hidden), []
    loss = Timed(form.of(model, batch))
    guard = GradGuard(model.params, loss, every_n_steps=1, max_overhead=None, precision=form.precision)
    for step in range(repeats + 1):
        _, grads = model.loss_and_grads(batch)
        timing = timed(partial(guard.after_backward, step, grads), loss)
        if timing is not None and not any(tensor.deep for tensor in timing.report.tensors.values()):
            timings.append(timing)
        descend(model, grads, 0.01)
    return timings


def deep_checks(hidden: int, batch: Batch, form: LossForm, repeats: int) -> list[Timing]:
    """Deep checks of the untrained network."""
    model = LSTM(hidden=hidden)
    _, grads = model.loss_and_grads(batch)
    loss = Timed(form.of(model, batch))
    deep = partial(check, model.params, grads, loss, precision=form.precision, entries=ENTRIES[hidden])
    return [timing for _ in range(repeats) if (timing := timed(deep, loss)) is not None]


class Timed:
    """A loss, and the seconds of processor time that its evaluations took."""

    def __init__(self, loss: Callable[[], object]) -> None:
        self.seconds = 0.0
        self._loss = loss

    def __call__(self) -> object:
        """Evaluate it."""
        started = time.process_time()
        value = self._loss()
        self.seconds += time.process_time() - started
        return value


def timed(act: Callable[[], Report | None], loss: Timed) -> Timing | None:
    """A check with its processor time; None if the guard made no check."""
    loss.seconds, started = 0.0, time.process_time()
    report = act()
    spent = time.process_time() - started
    return None if report is None else Timing(report, spent, loss.seconds)
