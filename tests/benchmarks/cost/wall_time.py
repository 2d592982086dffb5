"""How long does a check take, and what does it find, beside the checkers of PyTorch, JAX and SciPy?

What is measured: the wall time of a check of the correct gradient of one untrained LSTM (5 inputs, 5 cells, 5
outputs, 39 timesteps, 4 sequences) whose loss is in NumPy; medians. Each checker gets that loss and the handwritten
gradient in the precision that it is made for: float64 for PyTorch and SciPy, which need no looser tolerances then,
and float32 for JAX and gradguard. gradguard also gets the loss marked as `batched`, and may evaluate it with float64
and complex copies of the parameters ("auto").

How to read it: "of the loss" is the time of the check over that of one float32 evaluation of the loss. The other
columns say whether a gradient passes the check: the "correct" one should, and those with a fault should not.

    python tests/benchmarks wall_time
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.options import parser_of
from benchmarks.support.other_checkers import (
    INSTALL,
    Case,
    installed,
    jax_check_grads,
    print_missing,
    scipy_check_grad,
    torch_gradcheck,
)
from benchmarks.support.tables import Row, table
from gradguard import batched, check
from gradguard.testing import LSTM, Batch, faulty, random_batch

USUAL_TIME = "about 2 min"

FAULTS = ("timesteps", "no-dc-carry", "wh-1-percent", "wh-1-permille")
REPEATS = 5
EVALUATIONS = 50


@dataclass(frozen=True, slots=True)
class Checker:
    """A row of the table.

    Attributes:
        name: What it is.
        fails: Whether the gradient fails its check.
        precision: Of the network that it gets.
        needs: The module that has to be installed.
    """

    name: str
    fails: Callable[[Case], bool]
    precision: type[np.floating[Any]] = np.float64
    needs: str = "gradguard"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each checker."""
    quick = parser_of(__name__, "gradguard only, two timesteps").parse_args(arguments).quick
    batch = random_batch(2 if quick else 39, 4)
    known = ("gradguard",) if quick else ("gradguard", *filter(installed, INSTALL))
    available = [checker for checker in CHECKERS if checker.needs in known]
    results = rows(available, batch, 1 if quick else REPEATS)
    print(table(("checker", "ms", "of the loss", "correct", *FAULTS), results), end="\n\n")
    print_missing(checker.needs for checker in CHECKERS)


def rows(available: Sequence[Checker], batch: Batch, repeats: int) -> Iterator[Row]:
    """A row for each checker."""
    model = LSTM()
    loss = statistics.median(seconds(lambda: model.loss(batch)) for _ in range(EVALUATIONS))
    for checker in tqdm(available, desc="checkers", leave=False):
        right = case(model, batch, checker.precision)
        checker.fails(right)  # compiles and imports, which is not part of the check
        took = statistics.median(seconds(partial(checker.fails, right)) for _ in range(repeats))
        wrong = (case(faulty(fault)(), batch, checker.precision) for fault in FAULTS)
        verdicts = ("fails" if checker.fails(one) else "passes" for one in (right, *wrong))
        yield checker.name, f"{1e3 * took:.1f}", f"{took / loss:,.0f}", *verdicts


def case(model: LSTM, batch: Batch, precision: type[np.floating[Any]]) -> Case:
    """The network and its gradients in some precision."""
    model.params = {name: param.astype(precision) for name, param in model.params.items()}
    given = Batch(batch.x.astype(precision), batch.y)
    return Case(model, given, model.loss_and_grads(given)[1])


def seconds(act: Callable[[], object]) -> float:
    """The wall time of a call."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def gradguard(case: Case, *, mark: Callable[..., Any] = lambda loss: loss, precision: str = "native") -> bool:
    """Whether a check reports a bug."""
    return check(case.model.params, case.grads, mark(case.loss), precision=precision).verdict.is_bug is True


CHECKERS = (
    Checker("torch gradcheck, slow", torch_gradcheck, needs="torch"),
    Checker("torch gradcheck, fast", partial(torch_gradcheck, fast_mode=True), needs="torch"),
    Checker("jax check_grads", jax_check_grads, np.float32, needs="jax"),
    Checker("scipy check_grad < 1e-5", partial(scipy_check_grad, threshold=1e-5), needs="scipy"),
    Checker("gradguard, native", gradguard, np.float32),
    Checker("gradguard, native, batched", partial(gradguard, mark=batched), np.float32),
    Checker("gradguard, auto", partial(gradguard, precision="auto"), np.float32),
    Checker("gradguard, auto, batched", partial(gradguard, mark=batched, precision="auto"), np.float32),
)
