"""A million routine probes of correct gradients: is anybody ever alarmed for nothing?

What is measured: the networks of `deep_null.py` (1 to 20 timesteps, 1 to 16 sequences, tiny parameters, zeros,
saturated and tiny losses, ReLU kinks, constants and scales in the loss), each guarded while it goes on training for 50
steps on changing batches, with a check at every step.

How to read it: "alarms" are routine probes or their summed evidence past the level; each costs a deep check. "bugs" are
tensors then called a bug, all of them falsely; the goal is 0. "runs" are trainings, "runs with a bug" those with any:
the share that `Thresholds.false_alarms` bounds.

    python tests/benchmarks/soak.py
    python tests/benchmarks/soak.py --probes 20000 --first 5000
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import deep_null
import numpy as np
from common import FORMS, in_parallel, parser_of, table

from gradguard import Alert, GradGuard
from gradguard.testing import random_batch

STEPS = 50
PROBES_A_RUN = 950  # about: 5 tensors, a direction and up to 3 entries each, at all steps but the first
RATE = np.float32(1e-2)
Row = tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, and how to reproduce each false bug."""
    options = parser().parse_args(arguments)
    count = 9 if options.quick else -(-options.probes // PROBES_A_RUN)
    kinds = [(kind, form) for kind in ("lstm", "tanh", "relu") for form in FORMS]
    seeds = range(options.first, options.first + count)
    trials = [deep_null.Trial(seed, *kinds[seed % len(kinds)]) for seed in seeds]
    bugs: list[str] = []
    steps = 4 if options.quick else STEPS
    head = ("network, loss", "runs", "checks", "probes", "alarms", "bugs", "runs with a bug")
    print(table(head, rows(trials, steps, options.processes, bugs)))
    print(*bugs, sep="\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__doc__, "nine networks, few steps", processes=2)
    options.add_argument("--probes", type=int, default=1_000_000, help="about so many (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(trials: Sequence[deep_null.Trial], steps: int, processes: int, bugs: list[str]) -> Iterator[Row]:
    """The counts; the false bugs are added to `bugs`."""
    counts: dict[str, Counter[str]] = {}
    done = in_parallel(partial(guarded, steps=steps), trials, processes, "runs")
    for trial, (count, told) in zip(trials, done, strict=True):
        counts.setdefault(f"{trial.kind}, {trial.form.name}", Counter()).update(count)
        bugs += [f"FALSE {trial}: {message}" for message in told]
    for name, count in [*sorted(counts.items()), ("all", sum(counts.values(), Counter()))]:
        yield (name, *(str(count[what]) for what in ("runs", "checks", "probes", "alarms", "bugs", "runs with a bug")))


def guarded(trial: deep_null.Trial, steps: int) -> tuple[Counter[str], list[str]]:
    """One training under guard: what was counted, and what was told falsely."""
    logging.getLogger("gradguard").addHandler(logging.NullHandler())
    rng = np.random.default_rng(trial.seed)
    model, batch = deep_null.drawn(trial, rng)
    base, scale = deep_null.constants(rng)
    told: list[Alert] = []
    guard = GradGuard(
        model.params,
        every_n_steps=1,
        max_overhead=None,
        precision="native" if trial.form.precision == "native" else "auto",
        reduction=trial.form.reduction,
        on_alert=told.append,
        seed=trial.seed,
    )
    count, shape = Counter({"runs": 1}), batch.x.shape
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(steps):
            if step % 5 == 0:
                batch = random_batch(shape[0], shape[1], inputs=shape[2], outputs=outputs(model), seed=step)
            grads = {name: np.float32(scale) * grad for name, grad in model.loss_and_grads(batch)[1].items()}
            if not all(np.isfinite(grad).all() for grad in grads.values()):
                break
            guard.after_backward(
                step,
                grads,
                lambda batch=batch: deep_null.shifted(trial.form.of(model, batch)(), base, scale),  # type: ignore[misc]
            )
            for name, grad in grads.items():
                model.params[name] -= RATE / np.float32(scale) * grad
    probes = [report for row in list(guard.history)[1:] for report in row.verdicts]
    count.update({"checks": len(guard.history), "probes": len(probes) * 4})
    count.update({"alarms": sum(len(row.alarms) for row in guard.history)})
    wrong = [alert.message for alert in told if alert.verdict.is_bug]
    count.update({"bugs": len(wrong), "runs with a bug": bool(wrong)})
    return count, wrong


def outputs(model: deep_null.Network) -> int:
    """How many symbols the network tells apart."""
    return int(model.params["V"].shape[1])


if __name__ == "__main__":
    main()
