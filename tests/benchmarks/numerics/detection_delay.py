"""How many checks does a guard need to report a small scale error that begins during training?

What is measured: networks train under a guard without a limit on its overhead, for 30 checks with correct gradients.
From then on the gradient of one tensor is too small by a fixed share of itself. Each share, each tensor and each form
of the loss is a training of its own that continues from the same state; one more continues without a fault. The guard
checks all tensors at each check.

How to read it: "reported" counts the trainings in which the guard reports a bug in that tensor, within the checks
that the training has. "median" and "last" are the number of checks from the first faulty one to the one that reports
the bug. The second table counts the trainings without a fault, from their first step: "alarms" each cost an examination
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
from gradguard.report import HistoryRow
from gradguard.testing import LSTM, Batch, random_batch

USUAL_TIME = "about 2 to 3 h"

SHARES = (1e-2, 1e-3, 3e-4, 1e-4)
TENSORS = ("Wh", "Wx", "V")
CHECKS_BEFORE = 30  # with correct gradients, before the fault
STEPS_A_CHECK = 5
TIMESTEPS = 39


@dataclass(frozen=True, slots=True)
class Fault:
    """A gradient that is too small.

    Attributes:
        tensor: Its name.
        share: The part that is missing; 0 for no fault.
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
        data: "genome" for the demo's data, "one batch" for random targets that are learned by heart.
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
        faults: Each begins at the same step, in its own copy of the training.
        checks: The most that each copy has from then on.
    """

    form: LossForm
    network: Network
    seed: int
    faults: tuple[Fault, ...]
    checks: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the guard reported in one copy of a training.

    Attributes:
        fault: Of this copy.
        delay: Checks until the fault was reported; None if it was not.
        checks: In all.
        alarms: Raised by routine probes of tensors without a fault.
        bugs: Tensors without a fault that were reported as a bug.
    """

    fault: Fault
    delay: int | None
    checks: int
    alarms: int
    bugs: int


NO_FAULT = Fault("", 0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the delays, and the false alarms in the same trainings."""
    options = parser().parse_args(arguments)
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
    results = dict(zip(trainings, in_parallel(outcomes_of, trainings, options.processes, "trainings"), strict=True))
    print(table(("loss, tensor, missing share", "reported", "median", "last"), delays(results)))
    print()
    print(table(("no fault", "trainings", "checks", "alarms", "bugs"), false_alarms(results)))


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one fault, two checks", processes=1)
    options.add_argument("--checks", type=int, default=150, help="with each fault, at most (default: %(default)s)")
    options.add_argument("--seeds", type=int, default=3, help="trainings of each network (default: %(default)s)")
    options.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the gradient that are missing")
    options.add_argument("--forms", nargs="+", choices=[form.name.split()[0] for form in FORMS], help="of the loss")
    return options


def outcomes_of(training: Training) -> list[Outcome]:
    """Train without a fault, and continue from there with each fault."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    model = LSTM(hidden=training.network.hidden, seed=training.seed)
    data = list(islice(training.network.stream(training.seed), STEPS_A_CHECK * (CHECKS_BEFORE + training.checks)))
    guard = guard_of(model, training)
    before, after = data[: STEPS_A_CHECK * CHECKS_BEFORE], data[STEPS_A_CHECK * CHECKS_BEFORE :]
    for step, given in enumerate(before):
        train(model, guard, training, step, given, NO_FAULT)
    without = outcome(guard, NO_FAULT)
    return [without, *(continued(model, guard, training, after, fault) for fault in training.faults)]


def guard_of(model: LSTM, training: Training) -> GradGuard:
    """A guard without a limit on its overhead."""
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


def continued(model: LSTM, guard: GradGuard, training: Training, data: Sequence[Batch], fault: Fault) -> Outcome:
    """Continue a copy of the training with the fault, until it is reported."""
    twin = deepcopy(model)
    copied = guard_of(twin, training)
    copied.load_state_dict(guard.state_dict())
    for step, batch in enumerate(data, start=STEPS_A_CHECK * CHECKS_BEFORE):
        train(twin, copied, training, step, batch, fault)
        if fault.tensor in bugs_in(copied.history[-1]):
            break
    return outcome(copied, fault)


def outcome(guard: GradGuard, fault: Fault) -> Outcome:
    """What a guard reported, from its first check to its last."""
    checks, rows = len(guard.history), list(guard.history)
    delay = checks if fault.tensor in bugs_in(rows[-1]) else None
    alarms = sum(name != fault.tensor for row in rows for name in row.alarms)
    wrongly = {name for row in rows for name in bugs_in(row)} - {fault.tensor}
    return Outcome(fault, delay, checks, alarms, len(wrongly))


def bugs_in(row: HistoryRow) -> set[str]:
    """The tensors that a check reported as a bug."""
    return {name for name, verdict in row.verdicts.items() if verdict.is_bug}


def delays(results: Mapping[Training, Sequence[Outcome]]) -> Iterator[Row]:
    """A row for each form of the loss and fault."""
    groups: dict[tuple[str, Fault], list[int | None]] = {}
    for training, outcomes in results.items():
        for outcome in outcomes:
            if outcome.fault != NO_FAULT:
                groups.setdefault((training.form.name, outcome.fault), []).append(outcome.delay)
    for (form, fault), found in groups.items():
        caught = [delay for delay in found if delay is not None]
        median, last = (f"{np.median(caught):g}", str(max(caught))) if caught else ("", "")
        yield f"{form}, {fault.tensor}, {fault.share:g}", f"{len(caught)} of {len(found)}", median, last


def false_alarms(results: Mapping[Training, Sequence[Outcome]]) -> Iterator[Row]:
    """A row for each form of the loss, over the trainings without a fault."""
    for form in dict.fromkeys(training.form for training in results):
        right = [found for training, outcomes in results.items() if training.form == form for found in outcomes]
        plain = [found for found in right if not found.fault.tensor]
        checks, alarms = sum(found.checks for found in plain), sum(found.alarms for found in plain)
        trainings = sum(training.form == form for training in results)
        yield form.name, str(trainings), str(checks), str(alarms), str(sum(found.bugs for found in right))
