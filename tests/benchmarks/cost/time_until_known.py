"""How long until a guard has told what it knows, with fast and slow losses and many tensors?

What is measured: the first check of residual networks of 5, 41 and 401 tensors whose loss takes 1, 10, 70 and 300 ms
(it sleeps), with right gradients and with one tensor that is wrong. Further checks follow at once, until the bug is
told.

How to read it: "first, s" is the time of the first check and "evaluations" how often it evaluated the loss; "ok",
"bugs" and "unclear" count the tensors by the verdict it gives them (unclear: `inconclusive`), and "because" is the
cause of most of the unclear ones. "told, s" is the time in checks until the wrong tensor is reported as a bug, and
"checks" the number of these checks.

    python tests/benchmarks time_until_known
    python tests/benchmarks time_until_known --losses 1 70 --tensors 5 41
"""

import argparse
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.deep_networks import DeepNetwork, Examples, wrong_gradients
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import GradGuard, Report, Verdict

USUAL_TIME = "about 15 min"

WIDTH, BATCH = 16, 32
FAULTS = ("", "5 % too large", "transposed")
MOST_CHECKS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each loss, size and fault."""
    options = parser().parse_args(arguments)
    losses, tensors = ([1.0], [5]) if options.quick else (options.losses, options.tensors)
    head = (
        "gradient",
        "ms a loss",
        "tensors",
        "first, s",
        "evaluations",
        "ok",
        "bugs",
        "unclear",
        "because",
        "told, s",
    )
    print(table((*head, "checks"), rows(losses, tensors)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "a loss of 1 ms, 5 tensors")
    options.add_argument("--losses", nargs="+", type=float, default=[1, 10, 70, 300], help="in ms")
    options.add_argument("--tensors", nargs="+", type=int, default=[5, 41, 401], help="of the networks")
    return options


def rows(losses: Sequence[float], tensors: Sequence[int]) -> Iterator[Row]:
    """A training for each."""
    runs = [(count, loss, fault) for count in tensors for loss in losses for fault in FAULTS]
    for count, loss, fault in tqdm(runs, desc="checks", leave=False):
        first, seconds, told, checks = checked(count, loss / 1e3, fault)
        verdicts = [tensor.verdict for tensor in first.tensors.values()]
        causes = Counter(tensor.cause_key for tensor in first.tensors.values() if tensor.verdict.is_bug is None)
        numbers = (
            f"{seconds:.1f}",
            str(first.evaluations),
            str(sum(verdict.is_bug is False for verdict in verdicts)),
            str(sum(bool(verdict.is_bug) for verdict in verdicts)),
            str(sum(verdict is Verdict.inconclusive for verdict in verdicts)),
            causes.most_common(1)[0][0] if causes else "",
        )
        until = ("" if not fault else "never" if told is None else f"{told:.1f}", str(checks))
        yield (fault or "right", f"{loss:g}", str(count), *numbers, *until)


def checked(tensors: int, seconds: float, fault: str) -> tuple[Report, float, float | None, int]:
    """The first report, its seconds, the seconds until the bug is told (None: never), and the number of checks."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    layers = tensors // 2
    network, batch = DeepNetwork("residual", layers, WIDTH, 0), Examples.drawn(BATCH, WIDTH, 0)
    grads = wrong_gradients(network, batch, fault, layers // 2)

    def loss() -> object:
        time.sleep(seconds)
        return network.loss(batch)

    guard, spent = GradGuard(network.params, loss, every_n_steps=1, max_overhead=None), list[float]()
    first: Report | None = None
    for step in range(MOST_CHECKS if fault else 1):
        began = time.perf_counter()
        report = guard.after_backward(step, grads)
        spent.append(time.perf_counter() - began)
        first = first or report
        if first and report and report.tensors[f"W{layers // 2}"].verdict.is_bug:
            return first, spent[0], sum(spent), len(spent)
    if first is None:
        raise ValueError("the guard has made no check")
    return first, spent[0], None, len(spent)
