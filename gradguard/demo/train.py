"""Two trainings of one network, checked by gradguard: with a fault in the backward pass, and without it."""

import itertools
import math
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types
from tqdm.contrib.logging import logging_redirect_tqdm  # type: ignore[import-untyped]

from gradguard import GradGuard, Report, gates
from gradguard.demo.genome import ALPHABET, BASES, batches, read_genome, whole
from gradguard.testing import FAULTS, LSTM, Batch, Fault, faulty
from gradguard.writers import JSONLWriter

TIMESTEPS = 39
"""T, the length of a window."""
LEARNING_RATE = 4.0
"""The rate at the first step; it falls linearly to a tenth."""
MAX_OVERHEAD = 0.2
"""A network this small trains so fast that the default, 1 % of the time, is too little for a check."""
BLOCKS = {"Wx": gates("ifog", axis=1), "Wh": gates("ifog", axis=1), "b": gates("ifog", axis=0)}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the demo.

    Attributes:
        fault: The name of the fault in the first act, one of `gradguard.testing.FAULTS`.
        steps: The number of training steps of each act.
        every_n_steps: The number of steps from check to check.
        seed: The seed of the weights and of the batches.
        hidden: The number of cells of the LSTM.
        batch: The number of windows in a batch.
        precision: The precision in which checks evaluate the loss: "native" is float32 here.
    """

    fault: str
    steps: int
    every_n_steps: int
    seed: int
    hidden: int
    batch: int
    precision: str


@dataclass(frozen=True, slots=True)
class Act:
    """The outcome of one training.

    Attributes:
        before: The loss on the whole genome before the first step, in nats per base.
        after: The loss on the whole genome after the last step, in nats per base.
        steps: The number of steps; fewer than in the settings if the loss became nan or inf.
        reports: The reports of all checks.
    """

    before: float
    after: float
    steps: int
    reports: tuple[Report, ...]

    @property
    def report(self) -> Report:
        """The first check that found a bug, else the last check."""
        return next((report for report in self.reports if report.verdict.is_bug), self.reports[-1])


def run(settings: Settings, logdir: Path) -> None:
    """Train twice, with the fault and without, and print what the guard found in each act.

    Each act logs into its own folder under `logdir`.

    Raises:
        OSError: The folders cannot be created.
    """
    fault = FAULTS[settings.fault]
    with_fault, fixed = run_folders(logdir, fault)
    with logging_redirect_tqdm():
        first = act(settings, faulty(fault.name), with_fault)
        say(f"""
Act 1, a fault ({fault.name}): {fault.description}.
{table_of(first)}
{verdict_of_fault(first, fault)}
""")
        second = act(settings, LSTM, fixed)
    say(f"""
Act 2, the same training without the fault.
{table_of(second)}
{verdict_of_fixed(second)}

To see both in TensorBoard:
    {tensorboard_command(logdir)}
""")


def say(text: str) -> None:
    """Print at once: the second training starts after the first is told."""
    sys.stdout.write(text)
    sys.stdout.flush()


def act(settings: Settings, network: type[LSTM], folder: Path) -> Act:
    """Train a new network with a guard that logs into the folder."""
    model = network(len(ALPHABET), settings.hidden, len(ALPHABET), seed=settings.seed)
    genome = whole(read_genome(), TIMESTEPS)
    before = float(model.loss(genome))
    with (
        np.errstate(over="ignore", invalid="ignore"),  # a fault may let the training diverge
        GradGuard(
            model.params,
            logdir=folder,
            every_n_steps=settings.every_n_steps,
            constants={"timesteps": TIMESTEPS, "batch": settings.batch},
            blocks=BLOCKS,
            precision=settings.precision,
            max_overhead=MAX_OVERHEAD,
            writers=(JSONLWriter(folder / "reports.jsonl"),),
        ) as guard,
    ):
        reports = train(model, guard, settings, folder.name)
        after = float(model.loss(genome))
    return Act(before, after, len(reports), tuple(report for report in reports if report))


def train(model: LSTM, guard: GradGuard, settings: Settings, title: str) -> list[Report | None]:
    """Plain gradient descent with a falling rate; returns the report of each step, None where there was no check."""
    stream = batches(read_genome(), TIMESTEPS, settings.batch, settings.seed)
    reports: list[Report | None] = []
    with tqdm(range(settings.steps), desc=title, unit="step", disable=None) as bar:  # disabled without a terminal
        for step in bar:
            rate = LEARNING_RATE * (1 - 0.9 * step / settings.steps)
            loss, report = advance(model, guard, step, next(stream), rate)
            reports.append(report)
            if report:
                bar.set_postfix_str(report.summary, refresh=False)
            if not math.isfinite(loss):
                break
    return reports


def advance(model: LSTM, guard: GradGuard, step: int, batch: Batch, rate: float) -> tuple[float, Report | None]:
    """One step of gradient descent: the guard checks the gradient between the backward pass and the update."""
    loss, grads = model.loss_and_grads(batch)
    report = guard.after_backward(step, grads, loss=lambda: model.loss(batch))
    for name, grad in grads.items():
        model.params[name] -= rate * grad
    return float(loss), report


def run_folders(logdir: Path, fault: Fault) -> tuple[Path, Path]:
    """Create the folders of the two acts; both get the same number if an earlier run has filled the plain names.

    Raises:
        OSError: The folders cannot be created.
    """
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    pairs = ((logdir / f"1-fault-{fault.name}{suffix}", logdir / f"2-fixed{suffix}") for suffix in suffixes)
    unused = next(pair for pair in pairs if not any(map(is_used, pair)))
    for folder in unused:
        folder.mkdir(parents=True, exist_ok=True)
    return unused


def is_used(folder: Path) -> bool:
    """Whether the path is a file or a folder that is not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def table_of(act: Act) -> str:
    """The table of an act: its most important report, and the loss before and after."""
    learnt = f"{act.steps} steps: loss on the whole genome {act.before:.3f} -> {act.after:.3f} nats a base"
    return f"{act.report}\n{learnt} (guessing: {math.log(len(BASES)):.3f})"


def verdict_of_fault(act: Act, fault: Fault) -> str:
    """What the guard found in an act with a fault, and what it should have found."""
    found = bugs(act.report)
    if not found:
        return f"The guard saw no bug in {checks(act)}; the fault affects {listed(fault.tensors)}."
    verdicts = listed({str(act.report.tensors[name].verdict) for name in found})
    head = f"The guard alarmed at step {act.report.step}: {verdicts} in {listed(found)}"
    if found == fault.tensors:
        return f"{head}, exactly the tensors that the fault affects."
    return f"{head}; the fault affects {listed(fault.tensors)}."


def verdict_of_fixed(act: Act) -> str:
    """What the guard found in an act without a fault."""
    found = bugs(act.report)
    if found:
        return f"A false alarm at step {act.report.step}, in {listed(found)}."
    return f"The guard raised no alarm in {checks(act)}: rounding and truncation account for all differences."


def bugs(report: Report) -> set[str]:
    """The tensors that the report finds wrong."""
    return {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


def checks(act: Act) -> str:
    """The number of checks, with the noun."""
    return f"{len(act.reports)} check{'s' if len(act.reports) > 1 else ''}"


def listed(names: Iterable[str]) -> str:
    """The sorted names, separated by commas."""
    return ", ".join(sorted(names))


def tensorboard_command(logdir: Path) -> str:
    """The shell command that starts TensorBoard: by name if PATH finds that of this Python, else by its path."""
    on_path = shutil.which("tensorboard")
    own = shutil.which("tensorboard", path=Path(sys.executable).parent)
    if own is None or (on_path is not None and Path(on_path).samefile(own)):
        program = "tensorboard"
    else:
        program = short_path(Path(own))
    return shlex.join([program, "--logdir", str(logdir)])


def short_path(path: Path) -> str:
    """The path, relative if it lies inside the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
