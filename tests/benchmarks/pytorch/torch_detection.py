"""Does a TorchGuard report the usual PyTorch mistakes with the right cause, and nothing for correct LSTMs?

What is measured, first: an `nn.LSTM`, a cell in plain operations and a cell as a custom `autograd.Function` train
under guard from an untrained, a trained and a sharp state (the trained weights times three, at a high learning rate),
in the precision of the training and in the precision that the guard chooses. Counted are the routine probes, the
alarms that they raise (each starts an examination with fresh probes), and the bugs that are reported after that.

Second: trainings that are checked at every step, each with one mistake, which is made from the first step on or
begins after some correct steps. A tensor counts as wrong if the mistake changes its gradient by more than 1e-6 of its
size.

How to read it: all "bugs" of the first table are false, and the goal is 0. |Z| is the part of n - g that the error
bars do not account for, in standard deviations. In the second table, "from the start" and "later" are the numbers of
checks until a mistake of either kind is reported, at most ten. "reported" counts the wrong tensors that are reported
as a bug, "false" the correct ones that are. "named" is "yes" if the report states the cause of the mistake; "as" is
what it states.

    python tests/benchmarks torch_detection
    python tests/benchmarks torch_detection --probes 1000
"""

import argparse
import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pytorch.lstms import LSTMS, Batch, classifier, loss_of, random_batch
from benchmarks.pytorch.mistakes import CAUSES, Cause
from benchmarks.support.networks import Float64
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.probe_recording import recorded
from benchmarks.support.tables import Row, table
from gradguard import Alert, Report
from gradguard.integrations.torch import TorchGuard

USUAL_TIME = "about 5 to 10 min"

TIMESTEPS, BATCH = 13, 8
STATES = {"untrained": 0.3, "trained": 0.3, "sharp": 3.0}  # the learning rate under guard
PRECISIONS = ("native", "auto")
TRAINED = 1000  # steps of Adam in the trained state
SHARPER = 3.0
STEPS_PER_PROBE = 3  # also ends a training whose probes find no reliable step size
CHECKS_BEFORE = 4  # correct ones, before the mistake begins
CHECKS = 10  # with the mistake, at most
FAULTY = 1e-6


@dataclass(frozen=True, slots=True)
class Training:
    """One training of a correct LSTM under guard.

    Attributes:
        lstm: How it is written.
        state: That it begins in.
        precision: Of the checks.
        probes: After so many the training ends.
    """

    lstm: str
    state: str
    precision: str
    probes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a guard reported in one training.

    Attributes:
        training: The training.
        z: Of every routine probe.
        checks: After the first.
        alarms: Raised by routine probes.
        bugs: The messages of the reported bugs, all of them false.
        losses: The first and the last.
    """

    training: Training
    z: Float64
    checks: int
    alarms: int
    bugs: tuple[str, ...]
    losses: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training with a mistake.

    Attributes:
        cause: The mistake.
        precision: Of the checks.
        correct: Steps before it begins.
    """

    cause: Cause
    precision: str
    correct: int


@dataclass(slots=True)
class Found:
    """What a guard has reported in a training with a mistake.

    Attributes:
        checks: With the mistake, until it was reported; None if it was not.
        wrong: The tensors with a wrong gradient.
        reported: Those of them that were reported as a bug.
        false: Correct tensors that were reported as a bug.
        verdicts: Of the wrong tensors.
        text: The explanations and causes of the wrong tensors.
        sentence: The cause of the first wrong tensor.
    """

    checks: int | None = None
    wrong: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    false: set[str] = field(default_factory=set)
    verdicts: dict[str, None] = field(default_factory=dict)
    text: str = ""
    sentence: str = ""

    def see(self, report: Report, wrong: set[str], check: int) -> None:
        """Add the results of one check."""
        bugs = {name: tensor for name, tensor in report.tensors.items() if tensor.verdict.is_bug}
        self.wrong |= wrong
        self.false |= bugs.keys() - wrong
        for name in [name for name in bugs if name in wrong]:
            self.checks = check if self.checks is None else self.checks
            self.reported.add(name)
            self.verdicts[str(bugs[name].verdict)] = None
            self.text += f"{bugs[name].explanation}; {bugs[name].cause}\n"
            self.sentence = self.sentence or bugs[name].cause or bugs[name].explanation


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each training, their sum, and a row for each mistake."""
    options = parser().parse_args(arguments)
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    torch.set_num_threads(1)
    states, wanted = (["untrained"], 100) if options.quick else (list(STATES), options.probes)
    precisions = PRECISIONS[:1] if options.quick else PRECISIONS
    runs = [(lstm, state, precision) for lstm in LSTMS for state in states for precision in precisions]
    trainings = [Training(*run, -(-wanted // len(runs))) for run in runs]
    outcomes = list(in_parallel(outcome_of, trainings, options.processes, "trainings"))
    head = ("LSTM", "state", "precision", "from", "to", "checks", "probes", "alarms", "bugs", "max |Z|")
    print(table(head, [*map(row, outcomes), sums(outcomes)]))
    print()
    causes = CAUSES[:2] if options.quick else CAUSES
    head = ("mistake", "precision", "from the start", "later", "reported", "false", "verdict", "named", "as")
    print(table(head, cause_rows(causes, precisions, options.processes)))
    for outcome in outcomes:
        for bug in outcome.bugs:
            print(f"FALSE BUG in {outcome.training}: {bug}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "untrained LSTMs, 100 probes, two mistakes", processes=1)
    options.add_argument("--probes", type=int, default=10_000, help="in all (default: %(default)s)")
    return options


def outcome_of(training: Training) -> Outcome:
    """Train under guard until there are enough probes."""
    torch.set_num_threads(1)
    module, generator = reached(training), torch.Generator().manual_seed(1)
    alerts, losses = list[Alert](), list[float]()
    guard = guard_of(module, training.precision, alerts)
    with recorded() as seen, guard:
        for step in range(STEPS_PER_PROBE * training.probes):
            batch = random_batch(TIMESTEPS, BATCH, generator)
            losses.append(descended(module, batch, STATES[training.state], guard, step))
            if sum(z.size for z in seen) >= training.probes or any(alert.verdict.is_bug for alert in alerts):
                break
    return Outcome(
        training=training,
        z=np.abs(np.concatenate([np.empty(0), *seen])),
        checks=len(guard.history) - 1,
        alarms=sum(len(row.alarms) for row in guard.history),
        bugs=tuple(alert.message for alert in alerts if alert.verdict.is_bug),
        losses=(losses[0], losses[-1]),
    )


def guard_of(module: nn.Module, precision: str, alerts: list[Alert]) -> TorchGuard:
    """A guard that checks at every step, without a limit on its overhead."""
    return TorchGuard(module, every_n_steps=1, max_overhead=None, precision=precision, on_alert=alerts.append)


def reached(training: Training) -> nn.Module:
    """The network in the state that the training begins in."""
    module, generator = classifier(training.lstm), torch.Generator().manual_seed(0)
    if training.state != "untrained":
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(TRAINED):
            optimizer.zero_grad()
            loss_of(module, random_batch(TIMESTEPS, BATCH, generator)).backward()  # type: ignore[no-untyped-call]  # PyTorch's
            optimizer.step()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(SHARPER if training.state == "sharp" else 1.0)
    return module


def descended(module: nn.Module, batch: Batch, rate: float, guard: TorchGuard | None = None, step: int = 0) -> float:
    """Take one step of gradient descent; return the loss before it."""
    module.zero_grad()
    loss = loss_of(module, batch)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    if guard is not None:
        guard.after_backward(step, lambda: loss_of(module, batch))
    update(module, rate)
    return loss.item()


def update(module: nn.Module, rate: float) -> None:
    """Subtract the gradients, times the rate."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=rate)


def row(outcome: Outcome) -> Row:
    """A row for one training."""
    of = outcome.training
    return (of.lstm, of.state, of.precision, *(f"{loss:.2f}" for loss in outcome.losses), *numbers([outcome]))


def sums(outcomes: Sequence[Outcome]) -> Row:
    """A row for all trainings together."""
    return ("all", "", "", "", "", *numbers(outcomes))


def numbers(outcomes: Sequence[Outcome]) -> Row:
    """The last columns for some trainings."""
    z = np.concatenate([outcome.z for outcome in outcomes])
    counts = (
        sum(outcome.checks for outcome in outcomes),
        z.size,
        sum(outcome.alarms for outcome in outcomes),
        sum(len(outcome.bugs) for outcome in outcomes),
    )
    return (*map(str, counts), f"{z.max(initial=0.0):.2f}")


def cause_rows(causes: Sequence[Cause], precisions: Sequence[str], processes: int) -> Iterator[Row]:
    """A row for each mistake and precision."""
    trials = [
        Trial(cause, precision, correct)
        for cause in causes
        for precision in precisions
        for correct in (0, CHECKS_BEFORE)
    ]
    found = list(in_parallel(found_of, trials, processes, "mistakes"))
    for trial, start, later in zip(trials[::2], found[::2], found[1::2], strict=True):
        both = (start, later)
        reported, wrong = (sum(len(getattr(one, what)) for one in both) for what in ("reported", "wrong"))
        checks = ("never" if one.checks is None else str(one.checks) for one in both)
        verdicts = ", ".join({verdict: None for one in both for verdict in one.verdicts})
        named = "yes" if all(trial.cause.says in one.text for one in both) else "NO"
        counts = (f"{reported} of {wrong}", str(sum(len(one.false) for one in both)))
        yield trial.cause.name, trial.precision, *checks, *counts, verdicts, named, start.sentence or later.sentence


def found_of(trial: Trial) -> Found:
    """Train until every wrong tensor is reported, for at most ten checks with the mistake."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module, generator, found = trial.cause.model(), torch.Generator().manual_seed(1), Found()
    with guard_of(module, trial.precision, []) as guard:
        for step in range(trial.correct + CHECKS):
            window = [random_batch(2, BATCH, generator) for _ in range(trial.cause.micro_batches)]
            check = step - trial.correct + 1
            report, wrong = checked(trial.cause, module, window, guard, step, wrong=check > 0)
            found.see(report, wrong, check)
            if check > 0 and found.wrong and found.reported == found.wrong:
                break
            update(module, 0.1)
    return found


def checked(
    cause: Cause, module: nn.Module, window: list[Batch], guard: TorchGuard, step: int, *, wrong: bool
) -> tuple[Report, set[str]]:
    """The report of one step, and the names of its wrong gradients."""
    twin = copy.deepcopy(module)  # the guard does not see its forward passes
    for one, is_wrong in ((twin, False), (module, wrong)):
        torch.manual_seed(step)
        cause.gradients(one, window, wrong=is_wrong)
    report = guard.after_backward(step, lambda: cause.whole(module, window), constants=cause.constants(window))
    if report is None:
        raise RuntimeError("the guard skipped a check that was due")
    right = dict(twin.named_parameters())
    return report, {name for name, it in module.named_parameters() if _differ(it.grad, right[name].grad)}


def _differ(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is not other
    return float((one - other).norm()) > FAULTY * float(one.norm() + other.norm())
