"""Is a `custom_vjp` of JAX named whose rule is wrong, and no right one?

What is measured: the first check of a `JaxGuard` on small models. In each, a function with a fault in its backward pass
stands before a right one. "named": how often the function is named; "its inputs": how often exactly the inputs whose
gradient is wrong are named with it. "unsure": how often its check could not tell, which the report says too: a rounding
moves in steps, which no difference can measure. "innocents" are right functions that are named, in these models and in
their twins without the fault, in which the training halves all gradients. "evaluations" are those of the checks of both
functions.

The other columns are `jax.test_util.check_grads` with its defaults, of the same functions on random inputs: how often
it fails with the fault, and how often without it, which is a false alarm. It has to be pointed at a function, and does
not say which of its inputs is wrong.

How to read it: "named" and "its inputs" should be all, and "innocents" 0. The slope of the GELU is off by about 1e-4 of
itself, and no bug where it is off by less, as `Thresholds(relevant=1e-4)` says.

    python tests/benchmarks jax_functions
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import jax
import numpy as np
from jax.test_util import check_grads
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.functions.jax_cases import CASES, Case, affine
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard.integrations.jax import JaxGuard
from gradguard.report import FunctionReport

USUAL_TIME = "about 2 min"

HEAD = ("function: fault", "named", "its inputs", "unsure", "innocents", "evaluations")
PEER = ("check_grads float32", "false", "float64", "false")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each function."""
    options = parser().parse_args(arguments)
    cases = CASES[-1:] if options.quick else CASES
    print(table((*HEAD, *PEER), rows(cases, range(1 if options.quick else options.seeds))))


def parser() -> argparse.ArgumentParser:
    """The options of this benchmark."""
    options = parser_of(__name__, quick="one function, once")
    options.add_argument("--seeds", type=int, default=3, help="models of each kind (default: %(default)s)")
    return options


def rows(cases: Sequence[Case], seeds: Sequence[int]) -> Iterator[Row]:
    """A row for each function, and their sums."""
    total = np.zeros(8, int)
    for case in tqdm(cases, desc="functions", leave=False):
        found = [_found(case, seed) for seed in seeds]
        peers = [
            sum(_fails_check_grads(case, seed, faulty=faulty, wide=wide) for seed in seeds)
            for wide in (False, True)
            for faulty in (True, False)
        ]
        counts = np.array([*(sum(column) for column in list(zip(*found, strict=True))[:-1]), *peers])
        total += counts
        yield _row(case.name, counts, len(seeds), f"{median(each[-1] for each in found):.0f}")
    yield _row("all", total, len(seeds) * len(cases), "")


def _row(name: str, counts: Any, models: int, evaluations: str) -> Row:
    shown = [f"{count} of {models}" for count in counts]
    return (name, *shown[:3], f"{counts[3]}", evaluations, *shown[4:])


def _found(case: Case, seed: int) -> tuple[bool, bool, bool, int, int]:
    """Whether the function is named, and exactly its wrong inputs, or in doubt; right functions named; evaluations."""
    functions = {function.name.split()[0]: function for function in _checked(case, seed, faulty=True)}
    twin = _checked(case, seed, faulty=False)
    wrong = {name: _wrong_inputs(function) for name, function in functions.items() if _wrong_inputs(function)}
    innocents = sum(name != "function" for name in wrong) + sum(bool(_wrong_inputs(function)) for function in twin)
    evaluations = sum(function.report.evaluations for function in functions.values())
    is_unsure = "function" in functions and functions["function"].report.verdict.is_bug is None
    return "function" in wrong, wrong.get("function") == case.wrong, is_unsure, innocents, evaluations


def _checked(case: Case, seed: int, *, faulty: bool) -> Sequence[FunctionReport]:
    """The functions that the first check of a training reports; without the fault, of one that halves its gradients."""
    loss = partial(case.loss, case.make(faulty), affine())
    params, index = case.parameters(seed), case.indices(seed)
    grads = None if faulty else jax.tree.map(lambda gradient: gradient / 2, jax.grad(loss)(params, index))
    guard = JaxGuard(loss, every_n_steps=1, on_alert=lambda _alert: None)
    report = guard.before_step(0, params, index, grads=grads)
    return report.functions if report is not None else ()


def _wrong_inputs(function: FunctionReport) -> frozenset[str]:
    return frozenset(name for name, tensor in function.report.tensors.items() if tensor.verdict.is_bug)


def _fails_check_grads(case: Case, seed: int, *, faulty: bool, wide: bool) -> bool:
    """Whether `check_grads` finds the gradients of the function wrong."""
    with jax.enable_x64(wide):
        function, index = case.make(faulty), case.indices(seed)
        inputs = [np.asarray(value, np.float64 if wide else np.float32) for value in case.inputs(seed).values()]

        def of_floats(*inputs: Any) -> Any:
            return function(*inputs, index) if case.needs else function(*inputs)

        try:
            check_grads(of_floats, inputs, order=1, modes=["rev"])
        except AssertionError:
            return True
    return False
