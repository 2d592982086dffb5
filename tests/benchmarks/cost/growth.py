"""How do time and memory of a routine check grow from a thousand to a hundred million parameters?

What is measured: routine checks after the first, with a synthetic loss over n parameters in one tensor. It reads each
parameter once, so that it costs as little per parameter as a loss can. Measured are the processor time of a check
relative to that of its evaluations of the loss, and the peak of the memory that the check allocates.

How to read it: "time" levels off where the fixed costs of a check no longer matter. Real networks read their
parameters more than once, so their ratio is closer to 1. "copies" is the peak memory in copies of the tensor: two are
the tensor as it was, and the direction along which it is moved.

    python tests/benchmarks growth
    python tests/benchmarks growth --largest 10000000
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.spent import Spent
from benchmarks.support.tables import table
from gradguard import GradGuard, Report

USUAL_TIME = "about 5 to 10 min"

BLOCK = 2**15
CHECKS = 5
Float32 = NDArray[np.float32]


class Sum:
    """The sum of tanh(w - target) over n parameters, evaluated without temporaries of their size, and timed.

    Attributes:
        params: The parameters: w.
        spent: The processor time of the evaluations.
    """

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(0)
        self.params = {"w": rng.standard_normal(size, np.float32)}
        self.target = rng.standard_normal(size, np.float32)
        self.spent = Spent()

    def loss(self) -> np.float32:
        """Their mean."""
        started = time.process_time()
        w = self.params["w"]
        pieces = (slice(start, start + BLOCK) for start in range(0, w.size, BLOCK))
        total = sum(float(np.tanh(w[piece] - self.target[piece]).sum(dtype=np.float64)) for piece in pieces)
        self.spent.add(time.process_time() - started)
        return np.float32(total / w.size)

    def grads(self) -> dict[str, Float32]:
        """The gradient."""
        slope: Float32 = np.tanh(self.params["w"] - self.target)
        np.multiply(slope, slope, out=slope)
        return {"w": np.divide(1 - slope, np.float32(slope.size), out=slope)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each number of parameters."""
    options = parser_of(__name__, "a thousand parameters only")
    options.add_argument("--largest", type=int, default=10**8, help="number of parameters (default: %(default)s)")
    chosen = options.parse_args(arguments)
    largest = 1000 if chosen.quick else chosen.largest
    sizes = [10**power for power in range(3, 9) if 10**power <= largest]
    print(table(("parameters", "evaluations", "ms of the loss", "time", "copies"), rows(sizes)))


def rows(sizes: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """The routine checks of models of some sizes."""
    for size in tqdm(sizes, desc="sizes", leave=False):
        model = Sum(size)
        grads = model.grads()
        guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native")
        guard.after_backward(0, grads)
        checks = [_timed(model, partial(guard.after_backward, step, grads)) for step in range(1, CHECKS)]
        peak = _peak(partial(guard.after_backward, CHECKS, grads))
        evaluations, own, loss = (statistics.median(column) for column in zip(*checks, strict=True))
        copies = peak / model.params["w"].nbytes
        yield f"{size:,}", f"{evaluations:g}", f"{1e3 * loss / evaluations:.3f}", f"{own / loss:.2f}", f"{copies:.2f}"


def _timed(model: Sum, check: Callable[[], Report | None]) -> tuple[float, float, float]:
    """The evaluations of a check, its processor time, and that of the loss within it."""
    model.spent.taken()
    started = time.process_time()
    report = check()
    if report is None:
        raise RuntimeError("the guard skipped a check that was due")
    return report.evaluations, time.process_time() - started, model.spent.taken()


def _peak(check: Callable[[], object]) -> int:
    """The peak of the bytes that a check allocates."""
    tracemalloc.start()
    check()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
