"""How many checks does a guard need to report a small scale error that begins during training?

What is measured: networks train under a guard without a limit on its overhead, for 30 checks with correct gradients.
From then on the gradient of one tensor is too small by a fixed share of itself. Each share, each tensor and each form
of the loss is a training of its own that continues from the same state; one more continues without a fault. The guard
checks all tensors at each check.

How to read it: "reported" counts the trainings in which the guard reports a bug in that tensor, within the checks
that the training has. "median" and "last" are the number of checks from the first faulty one to the one that reports
the bug. The second table counts the trainings without a fault, from their first step: "alarms" each cost a deep check
and nothing else; "bugs" are false, and the goal is 0. They include correct tensors that are reported beside a faulty
one.

    python tests/benchmarks detection_delay
    python tests/benchmarks detection_delay --forms scalar --shares 0.01 --seeds 1
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.networks import FORMS, LossForm, descend
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard import GradGuard
from gradguard.demo.genome import batches, read_genome
from gradguard.testing import LSTM, Batch, random_batch
from gradguard.training.callback import HistoryRow

USUAL_TIME = "about 10 min"

SHARES = (1e-2, 1e-3, 3e-4, 1e-4)
TENSORS = ("Wh", "Wx", "V")
CALM = 30  # checks before the fault
STEPS_A_CHECK = 5
TIMESTEPS = 39


@dataclass(frozen=True, slots=True)
class Fault:
    """A gradient that is too small.

    Attributes:
        tensor: Whose.
        share: How much of it is missing; 0 for no fault.
    """

    tensor: str
    share: float

    def put_into(self, grads: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The gradients with the fault."""
        factor = np.float32(1 - self.share)
        return {name: factor * grad if name == self.tensor else grad for name, grad in grads.items()}


@dataclass(frozen=True, slots=True)
class Network:
    """An LSTM and how it is trained.

    Attributes:
        hidden: Cells.
        batch: Sequences in a batch.
        rate: The learning rate.
        data: "genome" for the demo's, "one batch" for random targets learnt by heart.
    """

    hidden: int
    batch: int
    rate: float
    data: str

    def stream(self, seed: int) -> Iterator[Batch]:
        """The batches."""
        if self.data == "genome":
            return batches(read_genome(), TIMESTEPS, self.batch, seed=seed)
        return repeat(random_batch(TIMESTEPS, self.batch, seed=seed))


NETWORKS = (
    Network(5, 1, 0.3, "genome"),
    Network(5, 4, 1.0, "genome"),
    Network(5, 4, 0.5, "one batch"),
    Network(16, 4, 1.0, "genome"),
)


@dataclass(frozen=True, slots=True)
class Training:
    """A network under guard.

    Attributes:
        form: Of the loss.
        network: What is trained.
        seed: Of the network, of the batches and of the probes.
        faults: Each sets in at the same step of its own copy of the training.
        checks: That each copy has from then on, at most.
    """

    form: LossForm
    network: Network
    seed: int
    faults: tuple[Fault, ...]
    checks: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the guard said of one copy.

    Attributes:
        fault: That it had.
        delay: Checks until the fault was told; None where it was not.
        checks: That there were.
        alarms: Raised by routine probes of tensors without a fault.
        bugs: Tensors without a fault that were called one.
    """

    fault: Fault
    delay: int | None
    checks: int
    alarms: int
    bugs: int


NO_FAULT = Fault("", 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the delays, and the false alarms of the same trainings."""
    options = parser().parse_args(arguments)
    logging.getLogger("gradguard").setLevel(logging.CRITICAL)
    shares, tensors, networks, seeds = options.shares, TENSORS, NETWORKS, range(options.seeds)
    if options.quick:
        shares, tensors, networks, seeds, options.checks = SHARES[:1], TENSORS[:1], NETWORKS[:1], range(1), 2
    faults = (NO_FAULT, *(Fault(tensor, share) for tensor in tensors for share in shares))
    trainings = [
        Training(form, network, seed, faults, options.checks)
        for form in FORMS
        if not options.forms or form.name.split()[0] in options.forms
        for network in networks
        for seed in seeds
    ]
    told = dict(zip(trainings, in_parallel(outcomes_of, trainings, options.processes, "trainings"), strict=True))
    print(table(("loss, tensor, missing share", "reported", "median", "last"), delays(told)))
    print()
    print(table(("no fault", "trainings", "checks", "alarms", "bugs"), false_alarms(told)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one fault, two checks", processes=1)
    options.add_argument("--checks", type=int, default=150, help="with each fault, at most (default: %(default)s)")
    options.add_argument("--seeds", type=int, default=3, help="trainings of each network (default: %(default)s)")
    options.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the gradient that are missing")
    options.add_argument("--forms", nargs="+", choices=[form.name.split()[0] for form in FORMS], help="of the loss")
    return options


def outcomes_of(training: Training) -> list[Outcome]:
    """Train without a fault, then on from there with each."""
    model = LSTM(hidden=training.network.hidden, seed=training.seed)
    data = list(islice(training.network.stream(training.seed), STEPS_A_CHECK * (CALM + training.checks)))
    guard = guard_of(model, training)
    before, after = data[: STEPS_A_CHECK * CALM], data[STEPS_A_CHECK * CALM :]
    for step, given in enumerate(before):
        train(model, guard, training, step, given, NO_FAULT)
    calm = outcome(guard, NO_FAULT)
    return [calm, *(went_on(model, guard, training, after, fault) for fault in training.faults)]


def guard_of(model: LSTM, training: Training) -> GradGuard:
    """A guard that checks as often as it is due."""
    form = training.form
    return GradGuard(
        model.params,
        every_n_steps=STEPS_A_CHECK,
        max_overhead=None,
        precision=form.precision,
        reduction=form.reduction,
        seed=training.seed,
    )


def train(model: LSTM, guard: GradGuard, training: Training, step: int, batch: Batch, fault: Fault) -> None:
    """One step of plain gradient descent under guard."""
    grads = fault.put_into(model.loss_and_grads(batch)[1])
    guard.after_backward(step, grads, training.form.of(model, batch))
    descend(model, grads, training.network.rate)


def went_on(model: LSTM, guard: GradGuard, training: Training, data: Sequence[Batch], fault: Fault) -> Outcome:
    """A copy of the training with the fault, until it is told."""
    twin = deepcopy(model)
    copied = guard_of(twin, training)
    copied.load_state_dict(guard.state_dict())
    for step, batch in enumerate(data, start=STEPS_A_CHECK * CALM):
        train(twin, copied, training, step, batch, fault)
        if fault.tensor in called_a_bug(copied.history[-1]):
            break
    return outcome(copied, fault)


def outcome(guard: GradGuard, fault: Fault) -> Outcome:
    """What a guard said from its first check to its last, at which a fault may have been told."""
    checks, rows = len(guard.history), list(guard.history)
    delay = checks if fault.tensor in called_a_bug(rows[-1]) else None
    alarms = sum(name != fault.tensor for row in rows for name in row.alarms)
    wrongly = {name for row in rows for name in called_a_bug(row)} - {fault.tensor}
    return Outcome(fault, delay, checks, alarms, len(wrongly))


def called_a_bug(row: HistoryRow) -> set[str]:
    """The tensors that a check called a bug."""
    return {name for name, verdict in row.verdicts.items() if verdict.is_bug}


def delays(told: Mapping[Training, Sequence[Outcome]]) -> Iterator[Row]:
    """A row for each form and fault."""
    groups: dict[tuple[str, Fault], list[int | None]] = {}
    for training, outcomes in told.items():
        for outcome in outcomes:
            if outcome.fault != NO_FAULT:
                groups.setdefault((training.form.name, outcome.fault), []).append(outcome.delay)
    for (form, fault), found in groups.items():
        caught = [delay for delay in found if delay is not None]
        median, last = (f"{np.median(caught):g}", str(max(caught))) if caught else ("", "")
        yield f"{form}, {fault.tensor}, {fault.share:g}", f"{len(caught)} of {len(found)}", median, last


def false_alarms(told: Mapping[Training, Sequence[Outcome]]) -> Iterator[Row]:
    """A row for each form: the copies without a fault."""
    for form in dict.fromkeys(training.form for training in told):
        right = [found for training, outcomes in told.items() if training.form == form for found in outcomes]
        plain = [found for found in right if not found.fault.tensor]
        checks, alarms = sum(found.checks for found in plain), sum(found.alarms for found in plain)
        trainings = sum(training.form == form for training in told)
        yield form.name, str(trainings), str(checks), str(alarms), str(sum(found.bugs for found in right))
