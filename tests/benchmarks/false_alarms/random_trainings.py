"""Do many routine probes of correct gradients report a bug, in trainings of random networks in unusual states?

What is measured: the networks of `random_networks` (tiny parameters, zeros, saturated and tiny losses, ReLU kinks,
constants and scales in the loss). Each trains for 50 more steps on changing batches under a guard that checks at
every step.

How to read it: "probes" are those of the screens and of the tensors whose turn it is. "alarms" counts the tensors that
a check examines because a probe, or a sum of evidence, is above the alarm level. "bugs" counts the tensors that are
reported as a bug after that; all of them are false, and the goal is 0. "runs" are trainings, and "runs with a bug"
those with any: `Thresholds.false_alarms` limits their share. The second table counts the verdicts on all tensors at
the last check of each run, with the cause of those without one.

    python tests/benchmarks random_trainings
    python tests/benchmarks random_trainings --probes 20000 --first 5000
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.probe_recording import recorded
from benchmarks.support.random_models import Trial, trials
from benchmarks.support.tables import Row, table
from gradguard import Alert, GradGuard
from gradguard.testing import random_batch

USUAL_TIME = "about 1 h"

STEPS = 50
PROBES_A_RUN = 250  # about: the two of a screen and three of one tensor, at all steps
RATE = np.float32(1e-2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    count = 9 if options.quick else -(-options.probes // PROBES_A_RUN)
    bugs, verdicts = list[str](), Counter[str]()
    steps = 4 if options.quick else STEPS
    head = ("network, loss", "runs", "checks", "probes", "alarms", "bugs", "runs with a bug")
    print(table(head, rows(trials(options.first, count), steps, options.processes, bugs, verdicts)))
    print()
    print(table(("last verdict", "tensors"), ((verdict, str(count)) for verdict, count in verdicts.most_common())))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "nine networks, few steps", processes=2)
    options.add_argument("--probes", type=int, default=250_000, help="about so many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(drawn: Sequence[Trial], steps: int, processes: int, bugs: list[str], verdicts: Counter[str]) -> Iterator[Row]:
    """The counts for each kind of network; false bugs are added to `bugs`, last verdicts to `verdicts`."""
    counts: dict[str, Counter[str]] = {}
    done = in_parallel(partial(guarded, steps=steps), drawn, processes, "runs")
    for trial, (count, last, messages) in zip(drawn, done, strict=True):
        counts.setdefault(trial.name, Counter()).update(count)
        verdicts.update(last)
        bugs += [f"FALSE {trial}: {message}" for message in messages]
    for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        yield (name, *(str(count[what]) for what in ("runs", "checks", "probes", "alarms", "bugs", "runs with a bug")))


def guarded(trial: Trial, steps: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """The counts of one training under guard, its last verdicts, and the messages of its false bugs."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    model, alerts = trial.model(), list[Alert]()
    params, batch = model.network.params, model.batch
    guard = GradGuard(
        params,
        every_n_steps=1,
        max_overhead=None,
        precision="native" if trial.form.precision == "native" else "auto",
        reduction=trial.form.reduction,
        on_alert=alerts.append,
        seed=trial.seed,
    )
    count, (timesteps, sequences, inputs) = Counter({"runs": 1}), batch.x.shape
    outputs = int(params["V"].shape[1])
    with recorded() as probes, np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            if step % 5 == 0:
                batch = random_batch(timesteps, sequences, inputs=inputs, outputs=outputs, seed=step)
            grads = model.gradients(batch)
            if not grads:
                break
            guard.after_backward(step, grads, partial(model.loss, batch))
            for name, grad in grads.items():
                params[name] -= RATE / np.float32(model.scale) * grad
    count.update({"checks": len(guard.history), "probes": sum(z.size for z in probes)})
    count.update({"alarms": sum(len(row.alarms) for row in guard.history)})
    wrong = [alert.message for alert in alerts if alert.verdict.is_bug]
    count.update({"bugs": len(wrong), "runs with a bug": bool(wrong)})
    tensors = guard.report.tensors.values() if guard.report else ()
    last = Counter(f"{tensor.verdict}: {tensor.cause_key}".removesuffix(": ") for tensor in tensors)
    return count, last, wrong
