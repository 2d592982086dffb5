"""How much faster is a check if the loss evaluates many parameter points in one call (`gradguard.batched`)?

What is measured: the wall time of checks of LSTMs from small to large (39 timesteps), whose loss takes one set
of parameters or a stack of them, in turns; medians.

How to read it: "calls" is far below "evaluations" where the check finds that a call with many points is faster, and
about the same where it is not. "gain" is the time of the check that evaluates one point at a time, over that of the
batched one.

    python tests/benchmarks batching
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import batched, check
from gradguard.testing import LSTM, Batch, random_batch

USUAL_TIME = "about 5 to 10 min"

SIZES = ((5, 1), (5, 16), (32, 8), (64, 16), (128, 16))  # H, B
ENTRIES = 300  # measured in each tensor of the smallest network; FEW in the larger ones
FEW = 20
REPEATS = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each network and precision."""
    chosen = parser_of(__name__, "the smallest network only, two timesteps").parse_args(arguments)
    sizes, timesteps, repeats = (SIZES[:1], 2, 1) if chosen.quick else (SIZES, 39, REPEATS)
    head = ("H, B", "precision", "evaluations", "calls", "one by one, s", "batched, s", "gain")
    print(table(head, rows(sizes, timesteps, repeats)))


def rows(sizes: Sequence[tuple[int, int]], timesteps: int, repeats: int) -> Iterator[Row]:
    """A row for each network and precision."""
    runs = [(size, precision) for size in sizes for precision in ("native", "float64")]
    for (hidden, sequences), precision in tqdm(runs, desc="networks", leave=False):
        model = LSTM(hidden, hidden, hidden, seed=0)
        batch = random_batch(timesteps, sequences, inputs=hidden, outputs=hidden)
        pairs = [both(model, batch, precision, ENTRIES if hidden == 5 else FEW) for _ in range(repeats)]
        evaluations, calls = pairs[-1][0]
        alone, together = (statistics.median(pair[1][i] for pair in pairs) for i in (0, 1))
        times = f"{alone:.3f}", f"{together:.3f}", f"{alone / together:.1f}"
        yield f"{hidden}, {sequences}", precision, f"{evaluations:,}", f"{calls:,}", *times


def both(model: LSTM, batch: Batch, precision: str, entries: int) -> tuple[tuple[int, int], tuple[float, float]]:
    """Evaluations and calls of the batched check, and the seconds of both."""
    _, grads = model.loss_and_grads(batch)
    calls = 0

    def loss(params: object) -> object:
        nonlocal calls
        calls += 1
        return model.loss(batch, params)  # type: ignore[arg-type]  # as the guard hands it over

    def seconds(form: Callable[..., object]) -> tuple[int, float]:
        started = time.perf_counter()
        report = check(model.params, grads, form, precision=precision, entries=entries)
        return report.evaluations, time.perf_counter() - started

    _, alone = seconds(loss)
    calls = 0
    evaluations, together = seconds(batched(loss))
    return (evaluations, calls), (alone, together)
