"""How much of the wall time of a training does a guard with default settings take?

What is measured: LSTMs (39 timesteps), from training steps of one millisecond upward, train for a fixed time under a
guard with default settings that writes TensorBoard events.

How to read it: "share" is the wall time in `after_backward` over all wall time after the first check. It should stay
below 1 %, because `max_overhead` is 0.01; "checks after" is the number of checks that this pays for. "first check, s"
is the time of the first check, which is a deep one and takes about ten seconds at most.

    python tests/benchmarks overhead
    python tests/benchmarks overhead --seconds 300
"""

import tempfile
import time
from collections.abc import Iterator, Sequence

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.networks import descend
from benchmarks.support.options import parser_of
from benchmarks.support.tables import table
from gradguard import GradGuard
from gradguard.testing import LSTM, random_batch

USUAL_TIME = "about 6 min"

SIZES = ((5, 1), (5, 16), (32, 16), (128, 16), (512, 16))  # H, B
SECONDS = 60.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each network."""
    options = parser_of(__name__, "the smallest network only, a second")
    options.add_argument("--seconds", type=float, default=SECONDS, help="of each training (default: %(default)s)")
    chosen = options.parse_args(arguments)
    sizes, seconds = (SIZES[:1], 1.0) if chosen.quick else (SIZES, chosen.seconds)
    head = ("H, B", "ms a step", "first check, s", "steps after", "checks after", "share")
    print(table(head, rows(sizes, seconds)))


def rows(sizes: Sequence[tuple[int, int]], seconds: float) -> Iterator[tuple[str, ...]]:
    """A training of each network."""
    for hidden, sequences in tqdm(sizes, desc="trainings", leave=False):
        first, checks, spent, steps, whole = trained(hidden, sequences, seconds)
        each, share = (whole - spent) / max(1, steps), spent / whole
        numbers = f"{1e3 * each:.2f}", f"{first:.2f}", f"{steps:,}", str(checks), f"{share:.2%}"
        yield f"{hidden}, {sequences}", *numbers


def trained(hidden: int, sequences: int, seconds: float) -> tuple[float, int, float, int, float]:
    """The seconds of the first check; after it: checks, seconds in the guard, steps, and seconds in all."""
    model = LSTM(hidden, hidden, hidden)
    first = spent = 0.0
    checks = step = 0
    with tempfile.TemporaryDirectory() as logdir, GradGuard(model.params, logdir=logdir) as guard:
        began = time.perf_counter()
        while step == 0 or time.perf_counter() - began < seconds:
            batch = random_batch(39, sequences, inputs=hidden, outputs=hidden, seed=step)
            _, grads = model.loss_and_grads(batch)
            before = time.perf_counter()
            report = guard.after_backward(step, grads, lambda batch=batch: model.loss(batch))
            spent += time.perf_counter() - before
            checks += report is not None
            if step == 0:
                first, spent, checks, began = spent, 0.0, 0, time.perf_counter()
            descend(model, grads, 0.01)
            step += 1
        return first, checks, spent, step - 1, time.perf_counter() - began
