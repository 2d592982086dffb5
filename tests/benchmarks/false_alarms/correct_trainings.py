"""How often do routine checks report a bug in a correct gradient, over whole trainings?

What is measured: networks of several sizes train from their first step at learning rates from low to so high that the
loss jumps, each under a guard without a limit on its overhead and with each form of the loss. Counted are the probes of
screens and of the tensors whose turn it is, the alarms that they raise (each starts an examination with fresh probes),
and the bugs that are reported after that.

How to read it: all "bugs" are false, and the goal is 0 (a training ends with its first). "alarms" counts the tensors
that a check examines because something accuses them, which costs evaluations and nothing else. |Z| is the part of n - g
that the error bars do not account for, in standard deviations; for N(0, 1), |Z| > 3 would hold for 0.27 % of the
probes. "evidence" is the largest log10 of the sequential evidence; a guard alarms at about 7. "unclear" is the share of
verdicts on a tensor that are `inconclusive`, and the second table counts all verdicts, with the causes of the unclear
ones. "from" and "to" are the losses of the first and the last batch.

    python tests/benchmarks correct_trainings
    python tests/benchmarks correct_trainings --probes 5000
"""

import argparse
import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.support.networks import FORMS, Float64, LossForm, descend
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.probe_recording import recorded
from benchmarks.support.tables import Row, table
from gradguard import Alert, GradGuard, Report, TensorReport, Verdict
from gradguard.demo.genome import batches, read_genome
from gradguard.testing import LSTM, Batch, random_batch

USUAL_TIME = "about 5 to 15 min"

EVERY_N_STEPS = 20
UNCLEAR = "inconclusive: "
STEPS_PER_PROBE = 3  # also ends a training whose probes find no reliable step size


@dataclass(frozen=True, slots=True)
class Training:
    """One training under guard.

    Attributes:
        hidden: Cells of the LSTM.
        batch: Sequences in a batch.
        timesteps: Their length.
        rate: The learning rate.
        data: "genome" for the demo's data, "one batch" for random targets that are learned by heart.
        form: Of the loss.
        probes: After so many the training ends.
    """

    hidden: int
    batch: int
    timesteps: int
    rate: float
    data: str
    form: LossForm
    probes: int

    def stream(self) -> Iterator[Batch]:
        """The batches."""
        if self.data == "genome":
            return batches(read_genome(), self.timesteps, self.batch)
        return itertools.repeat(random_batch(self.timesteps, self.batch))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a guard reported in one training.

    Attributes:
        training: The training.
        steps: Taken.
        losses: The first and the last.
        z: Of every routine probe.
        alarms: Raised by routine probes.
        bugs: The messages of the reported bugs, all of them false.
        verdicts: On all tensors at all checks but the first; the cause in place of `inconclusive`.
        evidence: The largest log10 of the sequential evidence.
    """

    training: Training
    steps: int
    losses: tuple[float, float]
    z: Float64
    alarms: int
    bugs: tuple[str, ...]
    verdicts: Counter[str]
    evidence: float


NETWORKS = (
    # hidden, batch, timesteps, learning rate, data
    (5, 1, 39, 0.1, "genome"),
    (5, 4, 39, 1.0, "genome"),
    (5, 16, 39, 4.0, "genome"),
    (5, 1, 10, 4.0, "one batch"),
    (5, 1, 39, 2.0, "one batch"),
    (5, 16, 39, 8.0, "one batch"),
    (16, 4, 10, 1.0, "genome"),
    (16, 1, 39, 1.0, "one batch"),
    (16, 4, 39, 4.0, "one batch"),
    (32, 4, 10, 4.0, "one batch"),
    (32, 1, 39, 0.3, "genome"),
    (32, 16, 39, 1.0, "genome"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each training, their sums, all verdicts, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    wanted = 100 if options.quick else options.probes
    networks = NETWORKS[3:4] if options.quick else NETWORKS
    share = -(-wanted // (len(networks) * len(FORMS)))
    trainings = [Training(*network, form, share) for network in networks for form in FORMS]
    outcomes = list(in_parallel(outcome_of, trainings, options.processes, "trainings"))
    print(table(("loss", "H", "B", "T", "rate", "data", "steps", "from", "to", *HEAD), map(row, outcomes)))
    print()
    print(table(("sum", "trainings", *HEAD), sums(outcomes)))
    print()
    counted = sum((outcome.verdicts for outcome in outcomes), Counter[str]())
    print(table(("verdict", "tensors"), ((verdict, str(count)) for verdict, count in counted.most_common())))
    for outcome in outcomes:
        for bug in outcome.bugs:
            print(f"FALSE BUG in {outcome.training}: {bug}")


HEAD = ("probes", "alarms", "bugs", "unclear", "|Z| > 3", "max |Z|", "evidence")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one network, 100 probes", processes=2)
    options.add_argument("--probes", type=int, default=50_000, help="in all (default: %(default)s)")
    return options


def outcome_of(training: Training) -> Outcome:
    """Train under guard until there are enough probes."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    model, alerts = LSTM(hidden=training.hidden), list[Alert]()
    with recorded() as seen, guard_of(model, training, alerts) as guard:
        reports, losses = trained(model, guard, training, seen, alerts)
    reached = [tensor for report in reports[1:] for tensor in report.tensors.values()]
    return Outcome(
        training=training,
        steps=len(losses),
        losses=(losses[0], losses[-1]),
        z=np.concatenate([np.empty(0), *seen]),
        alarms=sum(len(row.alarms) for row in guard.history),
        bugs=tuple(alert.message for alert in alerts if alert.verdict.is_bug),
        verdicts=Counter(f"{UNCLEAR}{each.cause_key}" if is_unclear(each) else str(each.verdict) for each in reached),
        evidence=max(tensor.evidence for report in reports for tensor in report.tensors.values()),
    )


def is_unclear(tensor: TensorReport) -> bool:
    """Whether a tensor has no verdict."""
    return tensor.verdict is Verdict.inconclusive


def share(verdicts: Counter[str]) -> float:
    """The share of verdicts that are unclear."""
    return sum(count for verdict, count in verdicts.items() if verdict.startswith(UNCLEAR)) / max(1, verdicts.total())


def guard_of(model: LSTM, training: Training, alerts: list[Alert]) -> GradGuard:
    """A guard without a limit on its overhead."""
    return GradGuard(
        model.params,
        every_n_steps=EVERY_N_STEPS,
        max_overhead=None,
        precision=training.form.precision,
        reduction=training.form.reduction,
        on_alert=alerts.append,
    )


def trained(
    model: LSTM, guard: GradGuard, training: Training, seen: Sequence[Float64], alerts: Sequence[Alert]
) -> tuple[list[Report], list[float]]:
    """Gradient descent until there are enough probes or a bug is reported; the reports, and the loss at each step."""
    reports, losses = [], []
    for step, batch in zip(range(STEPS_PER_PROBE * training.probes), training.stream(), strict=False):
        loss, grads = model.loss_and_grads(batch)
        losses.append(float(loss))
        report = guard.after_backward(step, grads, training.form.of(model, batch))
        if report is not None:
            reports.append(report)
            enough = sum(z.size for z in seen) >= training.probes
            if enough or not np.isfinite(loss) or any(alert.verdict.is_bug for alert in alerts):
                break
        descend(model, grads, training.rate)
    return reports, losses


def row(outcome: Outcome) -> Row:
    """One training."""
    of = outcome.training
    network = (of.form.name, str(of.hidden), str(of.batch), str(of.timesteps), f"{of.rate:g}", of.data)
    return *network, str(outcome.steps), *(f"{loss:.2f}" for loss in outcome.losses), *numbers([outcome])


def sums(outcomes: Sequence[Outcome]) -> Iterator[Row]:
    """All trainings of each form of the loss, and all."""
    for form in dict.fromkeys(outcome.training.form for outcome in outcomes):
        group = [outcome for outcome in outcomes if outcome.training.form == form]
        yield form.name, str(len(group)), *numbers(group)
    yield "all", str(len(outcomes)), *numbers(outcomes)


def numbers(outcomes: Sequence[Outcome]) -> Row:
    """The columns of `HEAD` for some trainings."""
    z = np.abs(np.concatenate([outcome.z for outcome in outcomes]))
    return (
        str(z.size),
        str(sum(outcome.alarms for outcome in outcomes)),
        str(sum(len(outcome.bugs) for outcome in outcomes)),
        f"{sum(share(outcome.verdicts) for outcome in outcomes) / len(outcomes):.3f}",
        f"{np.mean(z > 3):.3%}",
        f"{z.max(initial=0.0):.2f}",
        f"{max(outcome.evidence for outcome in outcomes):.1f}",
    )
