"""How much does a TorchGuard cost beside the evaluations of the loss, from ten thousand parameters upward?

What is measured: checks of a stack of `nn.Linear` with tanh and of an `nn.LSTM`: routine checks after the first and,
up to a million parameters, a deep check of a few entries of each tensor. Times are processor time of one thread,
medians; on an accelerator they are wall time.

How to read it: "ms raw" is one evaluation of the loss alone, under `no_grad`; "ms in a check" is one evaluation
within a check. "own" is the time of a check over that of its evaluations, so that the part above 1 is gradguard's own
work; the goal is 1.05 where a forward pass takes 5 ms or more. "times raw" is the time of a check over that of as
many raw evaluations; in float64 the loss itself is slower, and this is included.

    python tests/benchmarks torch_cost
    python tests/benchmarks torch_cost --largest 100000000 --batch 32
    python tests/benchmarks torch_cost --device cuda
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.spent import Spent
from benchmarks.support.tables import Row, table
from gradguard import Report
from gradguard.checks.check import check
from gradguard.integrations.torch import TorchGuard

USUAL_TIME = "about 10 to 20 min"

LAYERS = 2
TIMESTEPS = 16
CHECKS = 3
ENTRIES = 3  # of a tensor, in a deep check
DEEP = 10**6  # parameters, at most, of a model whose deep check is measured


class Recurrent(nn.Module):
    """`nn.LSTM`, of which only the last h is returned."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """The last h; the rows of `x` are split into sequences."""
        sequences = x.reshape(TIMESTEPS, -1, x.shape[1])
        last: Tensor = self.lstm(sequences)[0][-1]
        return last


def stack(width: int) -> nn.Module:
    """Layers of `nn.Linear` and tanh."""
    return nn.Sequential(*(part for _ in range(LAYERS) for part in (nn.Linear(width, width), nn.Tanh())))


MODELS: dict[str, tuple[Callable[[int], nn.Module], int]] = {"Linear": (stack, LAYERS), "LSTM": (Recurrent, 8)}


@dataclass(frozen=True, slots=True)
class Timing:
    """One check: its evaluations, its seconds, and those of the loss within it."""

    evaluations: int
    seconds: float
    of_loss: float


class TimedModel:
    """A model, its loss on one batch, and the time of its evaluations.

    Attributes:
        module: The model.
        parameters: How many it has.
        spent: The time of the evaluations.
    """

    def __init__(self, name: str, size: int, batch: int, device: str) -> None:
        make, squares = MODELS[name]
        torch.manual_seed(0)
        width = round((size / squares) ** 0.5)
        self.module = make(width).to(device)
        self.parameters = sum(parameter.numel() for parameter in self.module.parameters())
        self.spent = Spent()
        self._x = torch.randn(batch, width, device=device)
        self._clock = clock_of(device)

    def raw(self) -> Tensor:
        """The loss."""
        return self.module(self._x).square().mean()

    def loss(self) -> Tensor:
        """The loss, whose time is recorded."""
        started = self._clock()
        value = self.raw()
        self.spent.add(self._clock() - started)
        return value

    def timed(self, act: Callable[[], Report | None]) -> Timing:
        """The timing of a check."""
        self.spent.taken()
        started = self._clock()
        report = act()
        if report is None:
            raise RuntimeError("the guard skipped a check that was due")
        return Timing(report.evaluations, self._clock() - started, self.spent.taken())

    def alone(self) -> float:
        """Seconds of one evaluation outside a check."""
        with torch.no_grad():
            started = self._clock()
            self.raw().item()
            return self._clock() - started


def clock_of(device: str) -> Callable[[], float]:
    """Processor time; on an accelerator, wall time after all its work is done."""
    if device == "cpu":
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each model, size, precision and kind of check."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    largest = 10**4 if options.quick else options.largest
    sizes = [10**power for power in range(4, 9) if 10**power <= largest]
    head = ("check", "model", "parameters", "precision", "evaluations", "ms raw", "ms in a check", "own", "times raw")
    print(table(head, rows(sizes, options.batch, options.device)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "ten thousand parameters only")
    options.add_argument("--largest", type=int, default=10**7, help="number of parameters (default: %(default)s)")
    options.add_argument("--batch", type=int, default=256, help="rows that pass through (default: %(default)s)")
    options.add_argument("--device", default="cpu", help="where they are (default: %(default)s)")
    return options


def rows(sizes: Sequence[int], batch: int, device: str) -> Iterator[Row]:
    """Routine and deep checks of models of some sizes."""
    runs = [(name, size, precision) for size in sizes for name in MODELS for precision in ("native", "auto")]
    for name, size, precision in tqdm(runs, desc="models", leave=False):
        model = TimedModel(name, size, batch, device)
        kinds = {"routine": routine_checks} | ({"deep": deep_checks} if size <= DEEP else {})
        for kind, checks in kinds.items():
            timings, alone = checks(model, precision), [model.alone() for _ in range(5)]
            yield row(kind, name, model, precision, timings, statistics.median(alone))


def row(kind: str, name: str, model: TimedModel, precision: str, timings: Sequence[Timing], raw: float) -> Row:
    """One kind of check of one model."""
    evaluations = statistics.median(timing.evaluations for timing in timings)
    each = statistics.median(timing.of_loss / timing.evaluations for timing in timings)
    own = statistics.median(timing.seconds / timing.of_loss for timing in timings)
    times = statistics.median(timing.seconds / timing.evaluations for timing in timings) / raw
    what = (kind, name, f"{model.parameters:,}", precision, f"{evaluations:g}")
    return *what, f"{1e3 * raw:.2f}", f"{1e3 * each:.2f}", f"{own:.3f}", f"{times:.2f}"


def routine_checks(model: TimedModel, precision: str) -> list[Timing]:
    """The checks of a training after its first check, one at each step."""
    options = {"every_n_steps": 1, "max_overhead": None, "precision": precision}
    with TorchGuard(model.module, loss=model.loss, **options) as guard:
        timings = []
        for step in range(1 + CHECKS):
            model.module.zero_grad()
            model.raw().backward()  # type: ignore[no-untyped-call]  # PyTorch's
            timings.append(model.timed(partial(guard.after_backward, step)))
    return timings[1:]


def deep_checks(model: TimedModel, precision: str) -> list[Timing]:
    """One deep check of a few entries of each tensor."""
    with TorchGuard(model.module, max_overhead=None) as guard:
        model.module.zero_grad()
        model.raw().backward()  # type: ignore[no-untyped-call]  # PyTorch's
        loss = guard._replayed(model.loss)
        deep = partial(check, guard._params, guard._params.gradients(), loss, precision=precision, entries=ENTRIES)
        return [model.timed(deep)]
