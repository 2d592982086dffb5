"""How much time and disk space do the TensorBoard events and the JSON lines of a check take?

What is measured: routine checks of an LSTM (5 cells, 39 timesteps, 4 sequences) that are written to event files and
to a JSONL file: the time in the writer, and the number of events and bytes in the closed files.

How to read it: "share of a check" is the time in the writer over that of the whole check. This network is the
smallest and fastest that anybody would guard; for larger ones the share is smaller.

    python tests/benchmarks writing
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from benchmarks.support.options import parser_of
from benchmarks.support.tables import table
from gradguard import GradGuard, JSONLWriter, Report, TensorBoardWriter, Writer
from gradguard.testing import LSTM, random_batch

USUAL_TIME = "about 20 s"

CHECKS = 100


class Timed:
    """A writer that measures the time of each record."""

    def __init__(self, writer: Writer) -> None:
        self.seconds: list[float] = []
        self._writer = writer

    def write(self, report: Report) -> None:
        """Record a check."""
        started = time.perf_counter()
        self._writer.write(report)
        self.seconds.append(time.perf_counter() - started)

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each writer."""
    checks = 3 if parser_of(__name__, "three checks").parse_args(arguments).quick else CHECKS
    head = ("writer", "checks", "ms a check", "share of a check", "events a check", "events a second", "bytes a check")
    print(table(head, rows(checks)))


def rows(checks: int) -> Iterator[tuple[str, ...]]:
    """A row for each writer, in a training of its own."""
    yield row("TensorBoard", checks, TensorBoardWriter)
    yield row("JSON lines", checks, lambda folder: JSONLWriter(Path(folder) / "checks.jsonl"))


def row(name: str, checks: int, make: Callable[[str], Writer]) -> tuple[str, ...]:
    """A row for one writer."""
    model, batch = LSTM(), random_batch(39, 4)
    _, grads = model.loss_and_grads(batch)
    with tempfile.TemporaryDirectory() as folder:
        writer, whole = Timed(make(folder)), []
        with GradGuard(
            model.params, lambda: model.loss(batch), every_n_steps=1, max_overhead=None, writers=[writer]
        ) as guard:
            for step in range(checks + 1):
                started = time.perf_counter()
                guard.after_backward(step, grads)
                whole.append(time.perf_counter() - started)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        events = sum(len(list(EventFileLoader(str(path)).Load())) for path in files if "tfevents" in path.name)
    each = statistics.median(writer.seconds[1:])
    share = statistics.median(spent / check for spent, check in zip(writer.seconds[1:], whole[1:], strict=True))
    of_events = (f"{events / checks:.0f}", f"{events / checks / each:,.0f}") if events else ("-", "-")
    return name, str(checks), f"{1e3 * each:.2f}", f"{share:.1%}", *of_events, f"{size / checks:,.0f}"
