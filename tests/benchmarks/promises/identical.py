"""Does a guard leave a training unchanged, bit for bit?

What is measured: a training of 2,000 steps on the demo's genome, once without a guard and once under a guard that
checks every 50 steps, for each form of the loss. All parameters are hashed after every step, into one running hash.

How to read it: "same" is "yes" if the "running hash" and the parameters at the end are, bit for bit, those of the
training without a guard. Anything else is a bug of gradguard.

    python tests/benchmarks identical
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

from benchmarks.support.networks import LossForm, descend
from benchmarks.support.options import parser_of
from benchmarks.support.tables import Row, table
from gradguard import GradGuard
from gradguard.demo.genome import batches, read_genome
from gradguard.testing import LSTM

USUAL_TIME = "about 1 min"

FORMS = tuple(
    LossForm(f"{'unreduced' if reduction else 'scalar'}, {precision}", precision, reduction)
    for precision in ("native", "float64")
    for reduction in (None, "mean")
)
RATE = 1.0
EVERY_N_STEPS = 50


@dataclass(frozen=True, slots=True)
class Course:
    """The course of one training.

    Attributes:
        hash: The running hash of all parameters after each step.
        end: The bytes of all parameters after the last step.
        loss: Of the last step.
        evaluations: Of the loss, by the guard.
        checks: By the guard.
    """

    hash: str
    end: bytes
    loss: float
    evaluations: int
    checks: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each guard."""
    options = parser_of(__name__, "20 steps").parse_args(arguments)
    steps, timesteps = (20, 3) if options.quick else (2000, 39)
    print(
        table(("guard", "steps", "checks", "evaluations", "last loss", "running hash", "same"), rows(steps, timesteps))
    )


def rows(steps: int, timesteps: int) -> Iterator[Row]:
    """The training without a guard, and with each."""
    with tqdm(total=(1 + len(FORMS)) * steps, desc="steps", leave=False) as bar:
        alone = course(None, steps, timesteps, bar)
        yield row("none", steps, alone, "-")
        for form in FORMS:
            guarded = course(form, steps, timesteps, bar)
            same = (guarded.hash, guarded.end) == (alone.hash, alone.end)
            yield row(form.name, steps, guarded, "yes" if same else "NO")


def row(guard: str, steps: int, of: Course, same: str) -> Row:
    """A row for one training."""
    return guard, str(steps), str(of.checks), str(of.evaluations), f"{of.loss:.9g}", of.hash[:12], same


def course(form: LossForm | None, steps: int, timesteps: int, bar: tqdm) -> Course:
    """Train under a guard that gets that form of the loss; None for no guard."""
    model, running, loss = LSTM(), hashlib.sha256(), 0.0
    guard = None if form is None else guard_of(model, form)
    stream = batches(read_genome(), timesteps, 4)
    for step in range(steps):
        batch = next(stream)
        value, grads = model.loss_and_grads(batch)
        loss = float(value)
        if guard is not None and form is not None:
            guard.after_backward(step, grads, form.of(model, batch))
        descend(model, grads, RATE)
        running.update(contents(model))
        bar.update()
    history = [] if guard is None else list(guard.history)
    return Course(running.hexdigest(), contents(model), loss, sum(row.evaluations for row in history), len(history))


def guard_of(model: LSTM, form: LossForm) -> GradGuard:
    """A guard without a limit on its overhead."""
    return GradGuard(
        model.params,
        every_n_steps=EVERY_N_STEPS,
        max_overhead=None,
        precision=form.precision,
        reduction=form.reduction,
    )


def contents(model: LSTM) -> bytes:
    """Every bit of the parameters."""
    return b"".join(param.tobytes() for param in model.params.values())
