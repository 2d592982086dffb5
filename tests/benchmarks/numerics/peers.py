"""What do the gradient checkers of PyTorch, JAX and SciPy report for the same float32 LSTMs, beside gradguard?

What is measured: each checker on the correct LSTM and on the LSTM with each of `gradguard.testing.FAULTS`, in each
state (untrained, trained, and sharp: the trained weights times three) and for each seed. All other checkers get the
float32 loss and the handwritten gradient of the same NumPy network: PyTorch as an `autograd.Function`, JAX as a
`custom_vjp` over a `pure_callback`, SciPy as functions of a float64 vector that is rounded to float32.

- PyTorch: `gradcheck` with its defaults, and with a step and tolerances as loose as people use for float32.
- JAX: `check_grads(order=1, modes="rev")`, which checks one random direction; a `custom_vjp` allows no other mode.
- SciPy: `check_grad` returns the norm of the error and leaves the threshold to the user. 1e-5 is the usual one in
  published tests; a second row has the best step for float32 and a threshold of 1e-2.
- d = ||g - n|| / (||g|| + ||n||) > 1e-2, where n are two-point differences with a step of 5e-3: once over all tensors
  as one vector, and once for each tensor.

How to read it: "false alarms" counts the correct networks that fail the check, "caught" the faulty ones; a network
fails in gradguard if one of its tensors is reported as a bug. "below limit" counts faulty networks that pass, and for
each of whose faulty tensors the report says that so small an error is not detectable. "tensors named" counts the
faulty tensors with a verdict that is right for the fault. The other checkers name neither a cause nor a limit.
"evaluations" of the loss are the mean of a check. The second table counts the networks that fail, for each fault. A
network is left out if the fault does not change its gradient.

    python tests/benchmarks peers
    python tests/benchmarks peers --hidden 5
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from benchmarks.numerics.detection import CORRECT, FAULTY, STATES, Trial, distance, judged, network
from benchmarks.support.networks import SCALAR, LossForm
from benchmarks.support.options import parser_of
from benchmarks.support.other_checkers import (
    Case,
    Grads,
    differences,
    installed,
    jax_check_grads,
    joined,
    print_missing,
    scipy_check_grad,
    torch_gradcheck,
)
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard.testing import FAULTS, LSTM, Batch

USUAL_TIME = "about 1 to 2 h"

STEP = 5e-3
THRESHOLD = 1e-2
AUTO = LossForm("scalar float32", "auto", None)


class Tallied(LSTM):
    """A network that counts the evaluations of its loss and computes each point once: all faults share the points.

    Attributes:
        evaluations: Of the loss, so far.
    """

    def __init__(self, params: Grads) -> None:
        super().__init__()
        self.params = dict(params)
        self.evaluations = 0
        self._known: dict[bytes, np.floating[Any]] = {}

    def loss(self, batch: Batch, params: Grads | None = None) -> np.floating[Any]:
        """As `LSTM.loss`; every call must pass the same batch."""
        self.evaluations += 1
        point = self.params if params is None else params
        digest = hashlib.blake2b(digest_size=16)
        for name in self.params:
            digest.update(point[name].tobytes())
        if digest.digest() not in self._known:
            self._known[digest.digest()] = super().loss(batch, point)
        return self._known[digest.digest()]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one check of one network.

    Attributes:
        failed: Whether the network failed the check.
        evaluations: Of the loss.
        tensors: gradguard's tensors, counted as in detection.py.
    """

    failed: bool
    evaluations: int
    tensors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Checker:
    """A row of the table.

    Attributes:
        name: What it is, and its settings.
        check: Runs it on a network.
        needs: The module that has to be installed.
    """

    name: str
    check: Callable[[Trial], Outcome]
    needs: str = "gradguard"


@dataclass(frozen=True, slots=True)
class Run:
    """A network that a checker runs on."""

    trial: Trial
    checker: str


Outcomes = dict[Run, Outcome]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print, for each size of the network, a row for each checker and a row for each fault."""
    options = parser().parse_args(arguments)
    if options.quick:
        options.hidden, options.states, options.seeds = [5], STATES[:1], 1
    for hidden in options.hidden:
        print(section(options, hidden), end="\n\n")
    print_missing(CHECKERS[key].needs for key in options.checkers)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one fault on one small untrained network", processes=1)
    options.add_argument(
        "--checkers", nargs="+", choices=CHECKERS, default=list(CHECKERS), metavar="CHECKER", help=", ".join(CHECKERS)
    )
    options.add_argument("--hidden", nargs="+", type=int, default=[5, 32], help="cells of the networks")
    options.add_argument("--states", nargs="+", choices=STATES, default=STATES)
    options.add_argument("--seeds", type=int, default=1, help="networks of each size and state")
    options.add_argument("--every", type=int, default=1, help="only every so many of the faults")
    options.add_argument("--batch", type=int, default=4, help="sequences in a batch")
    return options


def section(options: argparse.Namespace, hidden: int) -> str:
    """Both tables for one size of the network."""
    faults = ["timesteps"] if options.quick else list(FAULTS)[:: options.every]
    available = [key for key in options.checkers if installed(CHECKERS[key].needs)]
    runs = [
        Run(Trial(SCALAR, state, fault, options.batch, hidden, seed), key)
        for seed in range(0, 2 * options.seeds, 2)  # even: batch 1 is the one before in `stale` and `accumulated`
        for state in options.states
        for fault in (CORRECT, *faults)
        for key in available
    ]
    found = in_parallel(outcome_of, runs, options.processes, f"checks, H = {hidden}")
    outcomes = {run: outcome for run, outcome in zip(runs, found, strict=True) if outcome}
    head = ("false alarms", "caught", "below limit", "tensors named", "evaluations")
    totals = table((f"checker, H = {hidden}", *head), (total(outcomes, key) for key in options.checkers))
    by_fault = table((f"fault, H = {hidden}", "of", *available), details(outcomes, available))
    return f"{totals}\n\n{by_fault}"


def total(outcomes: Outcomes, key: str) -> Row:
    """The counts of one checker over all networks."""
    checker = CHECKERS[key]
    own = {run: outcome for run, outcome in outcomes.items() if run.checker == key}
    if not own:
        return checker.name, "not installed", *[""] * 4
    correct = [outcome for run, outcome in own.items() if run.trial.fault == CORRECT]
    wrong = [outcome for run, outcome in own.items() if run.trial.fault != CORRECT]
    evaluations = round(float(np.mean([outcome.evaluations for outcome in own.values()])))
    return checker.name, failures(correct), failures(wrong), *verdicts(wrong), str(evaluations)


def failures(outcomes: Sequence[Outcome]) -> str:
    """How many networks fail, of how many."""
    return f"{sum(outcome.failed for outcome in outcomes)} of {len(outcomes)}"


def verdicts(wrong: Sequence[Outcome]) -> Row:
    """The columns "below limit" and "tensors named"; "cannot" for a checker that only passes or fails."""
    tensors = sum((outcome.tensors for outcome in wrong), Counter[str]())
    if not tensors:
        return "cannot", "cannot"
    unseen = sum(not outcome.failed and not outcome.tensors["missed"] for outcome in wrong)
    return str(unseen), f"{tensors['named']} of {tensors['faulty']}"


def details(outcomes: Outcomes, keys: Sequence[str]) -> Iterator[Row]:
    """The networks of each fault that each checker fails."""
    counts: dict[str, Counter[str]] = {}
    for run, outcome in outcomes.items():
        count = counts.setdefault(run.trial.fault, Counter())
        count.update({run.checker: int(outcome.failed), "of": int(run.checker == keys[0])})
    for fault, count in counts.items():
        yield fault, str(count["of"]), *(str(count[key]) for key in keys)


def outcome_of(run: Run) -> Outcome | None:
    """The result of a check; None if the fault does not change the gradient."""
    trial = run.trial
    if trial.fault != CORRECT and not is_wrong(gradient(trial), gradient(replace(trial, fault=CORRECT))):
        return None
    return CHECKERS[run.checker].check(trial)


def gradient(trial: Trial) -> Grads:
    """The handwritten gradient."""
    model, batch = network(trial)
    return model.loss_and_grads(batch)[1]


def is_wrong(grads: Grads, right: Grads) -> bool:
    """Whether the gradient of any tensor is one that a checker should reject."""
    return any(distance(grad, right[name]) > FAULTY for name, grad in grads.items())


def passes_or_fails(fails: Callable[[Case], bool]) -> Callable[[Trial], Outcome]:
    """Makes a `Checker.check` of a function that returns whether a loss and a gradient fail."""

    def check(trial: Trial) -> Outcome:
        model, batch = tallied(replace(trial, fault=CORRECT))
        before = model.evaluations
        failed = fails(Case(model, batch, gradient(trial)))
        return Outcome(failed, model.evaluations - before)

    return check


@lru_cache(maxsize=1)
def tallied(trial: Trial) -> tuple[Tallied, Batch]:
    """The correct network whose loss all faults share, and its batch."""
    model, batch = network(trial)
    return Tallied(model.params), batch


def gradguard(form: LossForm) -> Callable[[Trial], Outcome]:
    """Makes a `Checker.check` that runs gradguard as the benchmark `detection` does."""

    def check(trial: Trial) -> Outcome:
        tensors = judged(replace(trial, form=form))
        return Outcome(tensors["caught"] + tensors["false"] > 0, tensors["evaluations"], tensors)

    return check


def global_discrepancy(case: Case) -> bool:
    """Whether d of all tensors as one vector is too large."""
    n, names = differences(case.model, case.batch, STEP), list(case.grads)
    return distance(joined(case.grads, names), joined(n, names)) > THRESHOLD


def tensor_discrepancy(case: Case) -> bool:
    """Whether d of any tensor is too large."""
    n = differences(case.model, case.batch, STEP)
    return any(distance(grad, n[name]) > THRESHOLD for name, grad in case.grads.items())


CHECKERS = {
    "torch": Checker("torch gradcheck, defaults", passes_or_fails(torch_gradcheck), "torch"),
    "torch-loose": Checker(
        "torch gradcheck, eps 5e-3, atol and rtol 1e-2",
        passes_or_fails(partial(torch_gradcheck, eps=STEP, atol=THRESHOLD, rtol=THRESHOLD)),
        "torch",
    ),
    "jax": Checker("jax check_grads, defaults", passes_or_fails(jax_check_grads), "jax"),
    "scipy": Checker(
        "scipy check_grad < 1e-5, defaults", passes_or_fails(partial(scipy_check_grad, threshold=1e-5)), "scipy"
    ),
    "scipy-loose": Checker(
        "scipy check_grad < 1e-2, epsilon 5e-3",
        passes_or_fails(partial(scipy_check_grad, threshold=THRESHOLD, epsilon=STEP)),
        "scipy",
    ),
    "d": Checker("one global d > 1e-2, step 5e-3", passes_or_fails(global_discrepancy)),
    "d-tensor": Checker("d of a tensor > 1e-2, step 5e-3", passes_or_fails(tensor_discrepancy)),
    "native": Checker("gradguard, native", gradguard(SCALAR)),
    "auto": Checker("gradguard, auto", gradguard(AUTO)),
}
