"""Two trainings of one network under guard, the first with a fault in its backward pass and the second without."""

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
"""T of the question."""
LEARNING_RATE = 4.0
MAX_OVERHEAD = 0.2
"""So small a network trains so fast that the usual one percent of its time would be too little for a check."""
BLOCKS = {"Wx": gates("ifog", axis=1), "Wh": gates("ifog", axis=1), "b": gates("ifog", axis=0)}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the demo is run with.

    Attributes:
        fault: The fault of the first act, one of `gradguard.testing.FAULTS`.
        steps: Training steps of each act.
        every_n_steps: Steps from check to check.
        seed: Of the weights and of the batches.
        hidden: Cells of the LSTM.
        batch: Windows in a batch.
        precision: What the loss is evaluated in for a check: "native" is float32 here.
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
    """One training as it went.

    Attributes:
        before: The loss on the whole genome before the first step, in nats a base.
        after: The same after the last step.
        steps: Steps taken; fewer than asked for when the loss stopped being finite.
        reports: What the guard found, one report a check.
    """

    before: float
    after: float
    steps: int
    reports: tuple[Report, ...]

    @property
    def report(self) -> Report:
        """The check that tells the most: the first that found a bug, else the latest."""
        return next((report for report in self.reports if report.verdict.is_bug), self.reports[-1])


def run(settings: Settings, logdir: Path) -> None:
    """Trains twice, with the fault and without, and prints what the guard made of each.

    Each act logs into a folder of its own under `logdir`.

    Raises:
        OSError: The folders cannot be made.
    """
    fault = FAULTS[settings.fault]
    with_fault, fixed = run_folders(logdir, fault)
    with logging_redirect_tqdm():
        first = act(settings, faulty(fault.name), with_fault)
        second = act(settings, LSTM, fixed)
    sys.stdout.write(f"""
Act 1, a fault ({fault.name}): {fault.description}.
{told(first)}
{verdict_of_fault(first, fault)}

Act 2, the same training with the fault taken out.
{told(second)}
{verdict_of_fixed(second)}

To see both in TensorBoard:
    {tensorboard_command(logdir)}
""")


def act(settings: Settings, network: type[LSTM], folder: Path) -> Act:
    """Trains the network from the start, under a guard that logs into the folder."""
    model = network(len(ALPHABET), settings.hidden, len(ALPHABET), seed=settings.seed)
    genome = whole(read_genome(), TIMESTEPS)
    before = float(model.loss(genome))
    with (
        np.errstate(over="ignore", invalid="ignore"),  # a fault may make the training diverge
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
        outcomes = train(model, guard, settings, folder.name)
        after = float(model.loss(genome))
    return Act(before, after, len(outcomes), tuple(report for report in outcomes if report))


def train(model: LSTM, guard: GradGuard, settings: Settings, title: str) -> list[Report | None]:
    """Plain gradient descent with a falling rate; returns what the guard said at each step."""
    stream = batches(read_genome(), TIMESTEPS, settings.batch, settings.seed)
    said: list[Report | None] = []
    with tqdm(range(settings.steps), desc=title, unit="step") as bar:
        for step in bar:
            rate = LEARNING_RATE * (1 - 0.9 * step / settings.steps)
            loss, report = advance(model, guard, step, next(stream), rate)
            said.append(report)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if not math.isfinite(loss):
                break
    return said


def advance(model: LSTM, guard: GradGuard, step: int, batch: Batch, rate: float) -> tuple[float, Report | None]:
    """One step of gradient descent: the guard looks at the gradient between backward and the update."""
    loss, grads = model.loss_and_grads(batch)
    report = guard.after_backward(step, grads, loss=lambda: model.loss(batch))
    for name, grad in grads.items():
        model.params[name] -= rate * grad
    return float(loss), report


def run_folders(logdir: Path, fault: Fault) -> tuple[Path, Path]:
    """The folders of the two acts, made; numbered alike when earlier runs have filled them.

    Raises:
        OSError: They cannot be made.
    """
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    pairs = ((logdir / f"1-fault-{fault.name}{suffix}", logdir / f"2-fixed{suffix}") for suffix in suffixes)
    unused = next(pair for pair in pairs if not any(map(is_filled, pair)))
    for folder in unused:
        folder.mkdir(parents=True, exist_ok=True)
    return unused


def is_filled(folder: Path) -> bool:
    """Whether something is there already that a new run would mix with."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def told(act: Act) -> str:
    """An act as a table of its tensors, and what it learnt."""
    learnt = f"{act.steps} steps: loss on the whole genome {act.before:.3f} -> {act.after:.3f} nats a base"
    return f"{act.report}\n{learnt} (guessing: {math.log(len(BASES)):.3f})"


def verdict_of_fault(act: Act, fault: Fault) -> str:
    """What the guard said of an act with a fault, beside what it should have said."""
    found = bugs(act.report)
    if not found:
        return f"The guard saw no bug in {checks(act)}; the fault spoils {listed(fault.tensors)}."
    verdicts = listed({str(act.report.tensors[name].verdict) for name in found})
    head = f"The guard alarmed at step {act.report.step}: {verdicts} in {listed(found)}"
    if found == fault.tensors:
        return f"{head}, the very tensors that the fault spoils."
    return f"{head}; the fault spoils {listed(fault.tensors)}."


def verdict_of_fixed(act: Act) -> str:
    """What the guard said of an act without a fault."""
    found = bugs(act.report)
    if found:
        return f"A false alarm at step {act.report.step}, in {listed(found)}."
    return f"The guard raised no alarm in {checks(act)}: what is left is float precision, not a bug."


def bugs(report: Report) -> set[str]:
    """The tensors that the report calls wrong."""
    return {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


def checks(act: Act) -> str:
    """How many checks there were."""
    return f"{len(act.reports)} check{'s' if len(act.reports) > 1 else ''}"


def listed(names: Iterable[str]) -> str:
    """The names in order, for a sentence."""
    return ", ".join(sorted(names))


def tensorboard_command(logdir: Path) -> str:
    """The line to paste into a shell: `tensorboard` where that is the one of this Python, else the path to it."""
    beside = shutil.which("tensorboard", path=Path(sys.executable).parent)
    known = shutil.which("tensorboard")
    name = "tensorboard" if beside is None or (known and Path(known).samefile(beside)) else shown(Path(beside))
    return shlex.join([name, "--logdir", str(logdir)])


def shown(path: Path) -> str:
    """The path as one would type it here: relative when it lies inside the working directory."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
