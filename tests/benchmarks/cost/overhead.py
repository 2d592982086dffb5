"""How much of the wall time of a training does a guard with default settings take?

What is measured: LSTMs (39 timesteps, 5 tensors), from training steps of one millisecond upward, and residual networks
of 5, 41 and 401 tensors train for a fixed time under a guard with default settings that writes TensorBoard events.

How to read it: "share" is the wall time in `after_backward` over all wall time after the first check. It should stay
below 1 %, because `max_overhead` is 0.01; "checks after" is the number of checks that this pays for. "first check, s"
is the time of the first check, which takes about ten seconds at most. "check, ms" is the median time of the others,
and "own" what of it is not the loss.

    python tests/benchmarks overhead
    python tests/benchmarks overhead --seconds 300
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.deep_networks import DeepNetwork, Examples
from benchmarks.support.options import parser_of
from benchmarks.support.spent import Spent
from benchmarks.support.tables import table
from gradguard import GradGuard
from gradguard.testing import LSTM, random_batch

USUAL_TIME = "about 4 min"

SIZES = ((5, 1), (5, 16), (32, 16), (128, 16), (512, 16))  # H, B
TENSORS = (5, 41, 401)
WIDTH, BATCH = 32, 32  # of residual networks
RATE = 0.01
SECONDS = 20.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each network."""
    options = parser_of(__name__, "the smallest network only, a second")
    options.add_argument("--seconds", type=float, default=SECONDS, help="of each training (default: %(default)s)")
    chosen = options.parse_args(arguments)
    networks = [lstm(*size) for size in SIZES] + [residual(count) for count in TENSORS]
    networks, seconds = (networks[:1], 1.0) if chosen.quick else (networks, chosen.seconds)
    head = ("network", "ms a step", "first check, s", "steps after", "checks after", "check, ms", "own", "share")
    print(table(head, (row(network, seconds) for network in tqdm(networks, desc="trainings", leave=False))))


@dataclass(frozen=True, slots=True)
class Network:
    """What is trained.

    Attributes:
        name: For the table.
        params: Its live parameters.
        step: The gradients at some step, and the loss on the same batch.
    """

    name: str
    params: dict[str, NDArray[Any]]
    step: Callable[[int], tuple[Mapping[str, NDArray[Any]], Callable[[], object]]]


def lstm(hidden: int, sequences: int) -> Network:
    """An LSTM of some cells."""
    model = LSTM(hidden, hidden, hidden)

    def step(number: int) -> tuple[Mapping[str, NDArray[Any]], Callable[[], object]]:
        batch = random_batch(39, sequences, inputs=hidden, outputs=hidden, seed=number)
        return model.loss_and_grads(batch)[1], partial(model.loss, batch)

    return Network(f"LSTM, H={hidden}, B={sequences}", model.params, step)


def residual(tensors: int) -> Network:
    """A residual network of some tensors."""
    model = DeepNetwork("residual", tensors // 2, WIDTH, 0)

    def step(number: int) -> tuple[Mapping[str, NDArray[Any]], Callable[[], object]]:
        batch = Examples.drawn(BATCH, WIDTH, number)
        return model.gradients(batch), partial(model.loss, batch)

    return Network(f"residual, {tensors} tensors", model.params, step)


def row(network: Network, seconds: float) -> tuple[str, ...]:
    """A training of a network."""
    checks, of_loss = list[float](), list[float]()  # seconds of each check, and of the loss in it
    spent = whole = 0.0
    step = 0
    with tempfile.TemporaryDirectory() as logdir, GradGuard(network.params, logdir=logdir) as guard:
        began = time.perf_counter()
        while step == 0 or time.perf_counter() - began < seconds:
            grads, loss = network.step(step)
            timed = TimedLoss(loss)
            before = time.perf_counter()
            report = guard.after_backward(step, grads, timed)
            took = time.perf_counter() - before
            spent += took
            if report is not None:
                checks.append(took)
                of_loss.append(timed.spent.taken())
            if step == 0:
                spent, began = 0.0, time.perf_counter()
            for name, grad in grads.items():
                network.params[name] -= RATE * grad
            step += 1
        whole = time.perf_counter() - began
    each = 1e3 * (whole - spent) / max(1, step - 1)
    own = (1 - part / took for part, took in zip(of_loss[1:], checks[1:], strict=True))
    later = (f"{1e3 * statistics.median(checks[1:]):.1f}", f"{statistics.median(own):.0%}") if checks[1:] else ("", "")
    return (
        network.name,
        f"{each:.2f}",
        f"{checks[0]:.2f}",
        f"{step - 1:,}",
        str(len(checks) - 1),
        *later,
        f"{spent / whole:.2%}",
    )


class TimedLoss:
    """A loss, and the seconds that its evaluations took."""

    def __init__(self, loss: Callable[[], object]) -> None:
        self.spent = Spent()
        self._loss = loss

    def __call__(self) -> object:
        """Evaluate it."""
        began = time.perf_counter()
        value = self._loss()
        self.spent.add(time.perf_counter() - began)
        return value
