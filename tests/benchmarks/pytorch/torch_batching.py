"""How much faster is a check if `torch.func.vmap` evaluates many parameter points in one call of the loss?

What is measured: the processor time, in one thread, of deep checks of LSTMs with 8 cells (39 timesteps) on batches
from small to large. Their gradients are right or twice as large; the wrong ones are measured again in forward mode.
Checks with and without vmap take turns; medians.

How to read it: "calls" is far below "evaluations" where the check finds that vmap accepts the loss and is faster, and
about the same where it does not. "gain" is the time of the check that evaluates one point at a time, over that of the
check with vmap.

    python tests/benchmarks torch_batching
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import torch
from recorder import Recorder
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.pytorch.lstms import LSTMS, Batch, classifier, loss_of, random_batch
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard.checks.check import check
from gradguard.integrations.torch import TorchGuard

USUAL_TIME = "about 15 to 30 min"

TIMESTEPS = 39
SIZES = (1, 16, 256)
ENTRIES = 12  # measured in each tensor


@dataclass(frozen=True, slots=True)
class Timing:
    """One check: its evaluations, the calls of the loss, and its seconds."""

    evaluations: int
    calls: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each LSTM, batch, precision and gradient."""
    options = parser_of(__name__, "two timesteps of the smallest batch only")
    options.add_argument("--repeats", type=int, default=1, help="of each, for the median (default: %(default)s)")
    chosen = options.parse_args(arguments)
    torch.set_num_threads(1)
    sizes, timesteps, entries = (SIZES[:1], 2, 1) if chosen.quick else (SIZES, TIMESTEPS, ENTRIES)
    head = ("LSTM", "batch", "precision", "gradients", "evaluations", "calls", "one by one, s", "with vmap, s", "gain")
    print(table(head, rows(sizes, timesteps, entries, chosen.repeats)))


def rows(sizes: Sequence[int], timesteps: int, entries: int, repeats: int) -> Iterator[Row]:
    """A row for each LSTM, batch size, precision and gradient."""
    kinds = [(precision, scale) for precision in ("native", "auto") for scale in (1.0, 2.0)]
    runs = [(name, size, *kind) for name in LSTMS for size in sizes for kind in kinds]
    for name, size, precision, scale in tqdm(runs, desc="LSTMs", leave=False):
        module = classifier(name)
        batch = random_batch(timesteps, size, torch.Generator().manual_seed(1))
        pairs = [both(module, batch, precision, scale, entries) for _ in range(repeats)]
        alone, together = (statistics.median(pair[i].seconds for pair in pairs) for i in (0, 1))
        what = name, str(size), precision, "right" if scale == 1 else "twice"
        counts = f"{pairs[-1][1].evaluations:,}", f"{pairs[-1][1].calls:,}"
        yield *what, *counts, f"{alone:.2f}", f"{together:.2f}", f"{alone / together:.1f}"


def both(module: nn.Module, batch: Batch, precision: str, scale: float, entries: int) -> tuple[Timing, Timing]:
    """A check that evaluates one point at a time, and one with vmap."""
    with patch("gradguard.measurement.context.tried_batch_size", lambda *_: 1):
        alone = timed(module, batch, precision, scale, entries)
    return alone, timed(module, batch, precision, scale, entries)


def timed(module: nn.Module, batch: Batch, precision: str, scale: float, entries: int) -> Timing:
    """A deep check of gradients that are too large by a factor."""
    calls = Recorder()

    def loss() -> Tensor:
        calls.append()
        return loss_of(module, batch)

    with TorchGuard(module, max_overhead=None) as guard:
        module.zero_grad()
        (scale * loss_of(module, batch)).backward()  # type: ignore[no-untyped-call]  # PyTorch's
        started = time.process_time()
        gradients = guard._params.gradients()
        report = check(guard._params, gradients, guard._replayed(loss), precision=precision, entries=entries)
        return Timing(report.evaluations, len(calls), time.process_time() - started)
