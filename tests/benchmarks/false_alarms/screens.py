"""How often do routine screens of the whole model alarm on correct gradients, over many checks of many trainings?

What is measured: the networks of `random_trainings`, or deep residual networks, train on changing batches, and every
step is screened: one aligned and one Gaussian direction through all tensors. Nothing else of a check is done, so that
there are many screens in a short time.

How to read it: a row is a kind of network with one form of the loss. For N(0, 1), |Z| > 2 would hold for 4.6 % of the
"probes" and |Z| > 3 for 0.27 %; beyond 6 a probe alarms, and the alarm "lasts" where the disagreement is as large at
shorter steps. "evidence" is the largest log10 of the sequential evidence that a training's screens add up to, "level"
the largest at which a guard of it alarms, and "above" counts the trainings that rise above theirs. An alarm costs a
search for a wrong tensor and reports nothing by itself.

    python tests/benchmarks screens
    python tests/benchmarks screens --trainings 90 --steps 50
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.deep_networks import UNITS, DeepNetwork, Examples
from benchmarks.support.networks import FORMS, Float64, LossForm
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.probe_recording import z_of
from benchmarks.support.random_models import KINDS, Trial
from benchmarks.support.tables import Row, table
from gradguard.measurement import CheckTarget, Precision, ProvenSetup
from gradguard.perturbation import Rollback, combined_snapshot
from gradguard.report import Thresholds
from gradguard.screening import Screen, Screened
from gradguard.statistics import ALARM_Z, alarm_level
from gradguard.testing import random_batch
from gradguard.training.monitor import CHECKS_IN_A_RUN, PROBES

USUAL_TIME = "about 10 to 20 min"

RATE = np.float32(1e-2)
LAYERS, WIDTH, BATCH = 6, 16, 32
Step = tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]], Callable[[], object]]
"""The parameters, their gradients and the loss at one step of a training."""


@dataclass(frozen=True, slots=True)
class Training:
    """One training that is screened at each step.

    Attributes:
        kind: Of the network: one of `random_models.KINDS` or of `UNITS`.
        form: Of the loss.
        seed: Of everything that is drawn.
        steps: Of the training.
    """

    kind: str
    form: LossForm
    seed: int
    steps: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the screens of a training found.

    Attributes:
        z: Of the probes whose step suits the loss.
        screens: How many there were.
        unusable: Screens none of whose probes is usable.
        alarms: Screens with an alarm that lasts.
        evidence: The largest log10 of the evidence of a tensor or of the model.
        level: At which a guard alarms.
    """

    z: Float64
    screens: int
    unusable: int
    alarms: int
    evidence: float
    level: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each kind of network and form of the loss, the sum, and the trainings that alarm."""
    options = parser().parse_args(arguments)
    count, steps = (1, 8) if options.quick else (options.trainings, options.steps)
    kinds = [(kind, form) for kind in KINDS for form in FORMS]
    kinds += [(kind, form) for kind in UNITS for form in FORMS if form.reduction is None]
    chosen = itertools.islice(itertools.cycle(kinds), max(count, len(kinds)))
    trainings = [Training(*kind, options.first + place, steps) for place, kind in enumerate(chosen)]
    outcomes = dict(zip(trainings, in_parallel(screened, trainings, options.processes, "trainings"), strict=True))
    head = ("network, loss", "screens", "unusable", "probes", "|Z| > 2", "|Z| > 3", "|Z| > 6", "largest", "lasts")
    print(table((*head, "evidence", "level", "above"), rows(outcomes)))
    for training, outcome in outcomes.items():
        if outcome.alarms or outcome.evidence > outcome.level:
            print(f"{training}: {outcome.alarms} alarms that last, evidence {outcome.evidence:.1f}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one training of each kind, eight steps", processes=2)
    options.add_argument("--trainings", type=int, default=510, help="in all (default: %(default)s)")
    options.add_argument("--steps", type=int, default=100, help="of each training (default: %(default)s)")
    options.add_argument("--first", type=int, default=0, help="the first seed")
    return options


def rows(outcomes: Mapping[Training, Outcome]) -> Iterator[Row]:
    """The numbers of all trainings of a kind, and of all."""
    groups: dict[str, list[Outcome]] = {}
    for training, outcome in outcomes.items():
        groups.setdefault(f"{training.kind}, {training.form.name}", []).append(outcome)
    for name, group in [*groups.items(), ("all", list(outcomes.values()))]:
        z = np.abs(np.concatenate([outcome.z for outcome in group]))
        counts = (str(sum(getattr(outcome, what) for outcome in group)) for what in ("screens", "unusable"))
        shares = (f"{np.mean(z > bound) if z.size else 0:.3%}" for bound in (2, 3, ALARM_Z))
        whole = (str(z.size), *shares, f"{z.max(initial=0):.1f}", str(sum(outcome.alarms for outcome in group)))
        evidence, level = (max(getattr(outcome, what) for outcome in group) for what in ("evidence", "level"))
        above = sum(outcome.evidence > outcome.level for outcome in group)
        yield (name, *counts, *whole, f"{evidence:.1f}", f"{level:.1f}", str(above))


def screened(training: Training) -> Outcome:
    """Train, and screen every step as a guard does."""
    rng, found, evidence = np.random.default_rng(training.seed), list[Screened](), 0.0
    screen: Screen | None = None
    proven: ProvenSetup | None = None
    names: list[str] = []
    with np.errstate(over="ignore", invalid="ignore"):
        for target in targets(training):
            names = list(target.arrays)
            # "float64" would raise where the copies have another loss; such a training has no screens in float64.
            precision: Precision = "native" if training.form.precision == "native" else "auto"
            context = target.reopened(proven, names) if proven else target.context(precision)
            is_chosen = context.objective.space.precision == training.form.precision
            if not is_chosen or context.near is None or not np.isfinite(context.centre).all():
                break
            if screen is None or proven is None:
                screen, proven = Screen.of(context, names, context.near), context.proven
            result = screen.probe_all(context, rng)
            found.append(result)
            evidence = max(evidence, result.of_model, *result.evidence.values())
            if not result.is_usable:
                screen = Screen.anew(context, names, rng)
            elif result.alarms:
                screen = screen.restarted(screen.names)
    return Outcome(
        z=np.concatenate([np.empty(0), *(z_of(result) for result in found)]),
        screens=len(found),
        unusable=sum(not result.is_usable for result in found),
        alarms=sum(result.alarms for result in found),
        evidence=evidence,
        level=alarm_level(PROBES * (len(names) + PROBES), CHECKS_IN_A_RUN, Thresholds().false_alarms),
    )


def targets(training: Training) -> Iterator[CheckTarget]:
    """What a guard would check, at each step of a training."""
    drawn = steps_of_deep if training.kind in UNITS else steps_of_recurrent
    for params, grads, loss in drawn(training):
        state = Rollback(grads, combined_snapshot(None))
        yield CheckTarget(params, dict(params), loss, training.form.reduction, state)


def steps_of_recurrent(training: Training) -> Iterator[Step]:
    """A network of `random_trainings`."""
    model = Trial(training.seed, training.kind, training.form).model()
    params, batch = model.network.params, model.batch
    (timesteps, sequences, inputs), outputs = batch.x.shape, int(params["V"].shape[1])
    for step in range(training.steps):
        if step % 5 == 0:
            batch = random_batch(timesteps, sequences, inputs=inputs, outputs=outputs, seed=step)
        grads = model.gradients(batch)
        if not grads:
            break
        yield params, grads, partial(model.loss, batch)
        for name, grad in grads.items():
            params[name] -= RATE / np.float32(model.scale) * grad


def steps_of_deep(training: Training) -> Iterator[Step]:
    """A deep network, with another batch at each step."""
    network = DeepNetwork(training.kind, LAYERS, WIDTH, training.seed)
    for step in range(training.steps):
        batch = Examples.drawn(BATCH, WIDTH, step)
        grads = network.gradients(batch)
        yield network.params, grads, partial(network.loss, batch)
        network.descend(grads, float(RATE))
