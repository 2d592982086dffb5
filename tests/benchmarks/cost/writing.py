"""How much time and disk space do the TensorBoard events and the JSON lines of a check take?

What is measured: routine checks of networks with 5 to 401 tensors (8 cells, 8 examples) that are written to event files
and to a JSONL file: the time in the writer, the time of the whole check, and the bytes that each check adds.

How to read it: "share of a check" is the time in the writer over that of the whole check. These networks are far
smaller and faster than those that are trained with so many tensors; for larger ones the share is smaller. "first check"
is the size of the first record, which holds numbers of all tensors.

    python tests/benchmarks writing
    python tests/benchmarks writing --tensors 201
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.support.deep_networks import DeepNetwork, Examples
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, JSONLWriter, Report, TensorBoardWriter, Writer

USUAL_TIME = "about 1 to 2 min"

CHECKS = 20
TENSORS = (5, 41, 201, 401)
WIDTH = 8


class Measured:
    """A writer, with the time of each record and the bytes that it adds."""

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.seconds: list[float] = []
        self.sizes = [0]
        self._writer, self._folder = writer, folder

    def write(self, report: Report) -> None:
        """Record a check."""
        started = time.perf_counter()
        self._writer.write(report)
        self.seconds.append(time.perf_counter() - started)
        self.sizes.append(sum(path.stat().st_size for path in self._folder.iterdir()))

    def close(self) -> None:
        """Close it."""
        self._writer.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each writer and number of tensors."""
    options = parser().parse_args(arguments)
    checks, tensors = (2, TENSORS[:1]) if options.quick else (CHECKS, options.tensors)
    head = ("writer", "tensors", "ms a check", "of", "share of a check", "bytes a check", "first check")
    print(table(head, rows(checks, tensors)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "two checks of the smallest network")
    options.add_argument("--tensors", nargs="+", type=int, default=TENSORS, help="of the networks, odd numbers")
    return options


def rows(checks: int, tensors: Sequence[int]) -> Iterator[Row]:
    """A row for each writer, in a training of its own."""
    for count in tensors:
        yield row("TensorBoard", checks, count, TensorBoardWriter)
        yield row("JSON lines", checks, count, lambda folder: JSONLWriter(folder / "checks.jsonl"))


def row(name: str, checks: int, tensors: int, make: Callable[[Path], Writer]) -> Row:
    """A row for one writer and network."""
    network, batch = DeepNetwork("residual", tensors // 2, WIDTH, seed=0), Examples.drawn(8, WIDTH, seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        writer, whole = Measured(make(Path(scratch)), Path(scratch)), []
        options = {"every_n_steps": 1, "max_overhead": None, "writers": [writer]}
        with GradGuard(network.params, lambda: network.loss(batch), **options) as guard:  # type: ignore[arg-type]
            for step in range(checks + 1):
                grads = network.gradients(batch)
                started = time.perf_counter()
                guard.after_backward(step, grads)
                whole.append(time.perf_counter() - started)
                network.descend(grads, 0.01)
    each, check = statistics.median(writer.seconds[1:]), statistics.median(whole[1:])
    first, *later = [after - before for before, after in zip(writer.sizes, writer.sizes[1:], strict=False)]
    numbers = f"{1e3 * each:.2f}", f"{1e3 * check:.1f}", f"{each / check:.0%}"
    return name, str(len(network.params)), *numbers, f"{statistics.median(later):,.0f}", f"{first:,}"
