"""Do the error bars cover the true derivative, and how accurate are the four-point differences?

What is measured: finite differences of the loss of an LSTM (5 inputs, 5 cells, 5 outputs, 39 timesteps) along the
gradient ("aligned"), along Gaussian directions and along single entries, in several states of training and at two
batch sizes. The truth is the gradient of a float64 copy of the network, which is itself verified by the complex step.
The step sizes and the noise estimates are those that gradguard finds by itself: "deep" is the step search of an
examination; "routine" is 60 routine checks that begin with the step sizes of an examination, with a small training step
between them.

How to read it: a cell is one state at one batch size. "covered" is the share of differences that lie within 1.96
noise bars plus one truncation bar of the truth; the nominal share is 0.95. "worst" is the smallest share of a cell.
"error" is the root mean square error, relative to that of the two-point difference at its best step size. That step
size is chosen with knowledge of the truth, for each tensor in each cell, so that an "error" below 1 beats the classic
check even at its best (the mean over cells is geometric). Probes with a true derivative of exactly 0 are not counted.
"left out" is the share of probes for which gradguard itself reports that it found no reliable step size.

    python tests/benchmarks calibration
    python tests/benchmarks calibration --cells
"""

import argparse
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.support.networks import (
    FORMS,
    STATES,
    Float64,
    LossForm,
    State,
    check_target_of,
    descend,
    hold_to_complex_step,
    true_gradient,
)
from benchmarks.support.options import parser_of
from benchmarks.support.parallel import in_parallel
from benchmarks.support.tables import Row, table
from gradguard.differences.four_point import NOISE_OF_NUMERICAL, FourPoint
from gradguard.differences.noise import Noise, estimate_noise
from gradguard.examination.effort import Effort
from gradguard.examination.examine import KnownSteps, examine
from gradguard.examination.tensor_state import TensorState
from gradguard.loss.interleaving import run_search
from gradguard.measurement.confirmation import confirm_measurement
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.measured import Measured, ProbePlan
from gradguard.measurement.step_search import measured_at_best_steps
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation import directions
from gradguard.perturbation.directions import Probe
from gradguard.screening.stream import FAR_TOO_LONG_Z3, Stream
from gradguard.testing import LSTM, Batch

USUAL_TIME = "about 5 to 10 min"

BATCHES = (1, 16)
KINDS = ("aligned", "gaussian", "entry")
DIRECTIONS = 4  # of each kind, whose steps are searched together
GRID = {"native": np.geomspace(1e-4, 0.5, 12), "float64": np.geomspace(1e-7, 1e-2, 12)}
CREEP = 1e-3  # the learning rate between routine checks: the losses' roundings change, the state does not


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured.

    Attributes:
        repeats: Step searches of eight directions, per tensor.
        entries: Entries per tensor, at most.
        checks: Routine checks.
        oracle: Probes per tensor and kind for the best step size of the two-point difference.
    """

    repeats: int = 4
    entries: int = 40
    checks: int = 60
    oracle: int = 20


@dataclass(frozen=True, slots=True)
class Cell:
    """One state at one batch size, and how much is measured there."""

    state: State
    batch: int
    amount: Amount

    @property
    def name(self) -> str:
        """For the tables."""
        return f"{self.state.name} B={self.batch}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Some probes of one kind, arrays of shape (K,).

    Attributes:
        kind: Of the probes.
        error: |n - the true derivative|.
        bar: 1.96 noise bars and one truncation bar.
        usable: Whether gradguard found a reliable step size.
    """

    kind: str
    error: Float64
    bar: Float64
    usable: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sample:
    """All probes of one kind in one tensor in one cell.

    Attributes:
        source: "deep" or "routine".
        form: Of the loss.
        cell: State and batch size.
        kind: Of the probes.
        probes: How many.
        left_out: Those without a reliable step size.
        covered: Those of the others whose error bar covers the truth.
        error: The root mean square error of the others, relative to the two-point difference.
    """

    source: str
    form: str
    cell: str
    kind: str
    probes: int
    left_out: int
    covered: int
    error: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each source, form of the loss and kind of probe, and the sum of it all."""
    options = parser().parse_args(arguments)
    amount = Amount(1, 4, 4, 4) if options.quick else Amount()
    states, batches = (STATES[:1], BATCHES[:1]) if options.quick else (STATES, BATCHES)
    cells = [Cell(state, batch, amount) for batch, state in itertools.product(batches, states)]
    samples = [sample for found in in_parallel(samples_of, cells, options.processes, "cells") for sample in found]
    print(
        table(
            ("measured", "loss", "probe", "probes", "covered", "worst", "in cell", "error", "left out"), rows(samples)
        )
    )
    print()
    print(table(("all cells", "loss", "cells", "covered", "worst", "error: directions", "entries"), sums(samples)))
    if options.cells:
        print()
        print(
            table(("measured", "loss", "probe", "cell", "probes", "covered", "error", "left out"), cell_rows(samples))
        )


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = parser_of(__name__, "one cell, few probes", processes=2)
    options.add_argument("--cells", action="store_true", help="a row for every cell, too")
    return options


def samples_of(cell: Cell) -> list[Sample]:
    """All that is measured in one cell."""
    model, batch = cell.state.reached(cell.batch)
    hold_to_complex_step(model, batch, true_gradient(model, batch))
    return [sample for form in FORMS for sample in samples_of_form(model, batch, form, cell)]


def samples_of_form(model: LSTM, batch: Batch, form: LossForm, cell: Cell) -> Iterator[Sample]:
    """Deep and routine differences of one form of the loss."""
    rng = np.random.default_rng(0)
    truth = true_gradient(model, batch)
    context = check_target_of(model, batch, form, truth).context(form.precision)
    oracles = {(name, kind): oracle(context, name, kind, cell.amount.oracle, rng) for name in truth for kind in KINDS}
    effort = Effort(cell.amount.entries, aligned=DIRECTIONS, gaussian=DIRECTIONS)
    near = estimate_noise(context.objective, list(truth), context.centre, rng)
    examined = examine(context, list(truth), effort, rng, near, KnownSteps(), {})
    carried = {name: TensorState.after(measured) for name, measured in examined.items()}
    for name in truth:
        found = list(deep_measurements(context, name, cell.amount, rng))
        yield from samples_of_tensor("deep", form, cell, name, found, oracles)
    routine: dict[str, list[Measurement]] = {name: [] for name in truth}
    for name, measurement in routine_measurements(model, batch, form, context, carried, cell.amount.checks, rng):
        routine[name].append(measurement)
    for name, found in routine.items():
        yield from samples_of_tensor("routine", form, cell, name, found, oracles)


def samples_of_tensor(
    source: str,
    form: LossForm,
    cell: Cell,
    name: str,
    found: Sequence[Measurement],
    oracles: Mapping[tuple[str, str], float],
) -> Iterator[Sample]:
    """The measurements of one tensor, counted by kind."""
    for kind in KINDS:
        alike = [measurement for measurement in found if measurement.kind == kind]
        error, bar, usable = (
            np.concatenate([getattr(each, field) for each in alike]) for field in ("error", "bar", "usable")
        )
        error, bar = error[usable], bar[usable]
        relative = root_mean_square(error) / oracles[name, kind] if error.size else np.nan
        covered = int((error <= bar).sum())
        yield Sample(source, form.name, cell.name, kind, usable.size, int((~usable).sum()), covered, relative)


def root_mean_square(values: Float64) -> float:
    """Over all the values; 0 where there are none."""
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def oracle(context: MeasurementContext, name: str, kind: str, count: int, rng: np.random.Generator) -> float:
    """The root mean square error of two-point differences along `count` probes, at the best step of a grid."""
    chosen = drawn(context.gradients[name], kind, count, rng)
    errors = [two_point_errors(context, name, chosen, step) for step in GRID[context.objective.space.precision]]
    return min(root_mean_square(error) for error in errors)


def drawn(gradient: Float64, kind: str, count: int, rng: np.random.Generator) -> list[Probe]:
    """Probes of one kind."""
    if kind == "entry":
        return list(directions.stratified_entries(gradient, count, rng))
    draw = directions.aligned if kind == "aligned" else directions.gaussian
    return [draw(gradient, rng) for _ in range(count)]


def two_point_errors(context: MeasurementContext, name: str, chosen: Iterable[Probe], step: float) -> Float64:
    """The errors of two-point differences over the step as rounded, where the true derivative is not 0."""
    errors = []
    with context.objective.moving(name) as place:
        for probe in chosen:
            losses, truths, places = [], [], []
            for sign in (1, -1):
                along, truth = probe.displace(place, sign * step, context.gradients[name])
                losses.append(context.objective())
                truths.append(truth)
                places.append(along)
            probe.reset(place)
            change = context.objective.total(losses[0] - losses[1])
            if truths[0] != truths[1]:
                errors.append((change - (truths[0] - truths[1])) / (places[0] - places[1]))
    return np.array(errors)


def deep_measurements(
    context: MeasurementContext, name: str, amount: Amount, rng: np.random.Generator
) -> Iterator[Measurement]:
    """One tensor as an examination measures it: eight directions at a time, and some entries."""
    counts = {"aligned": DIRECTIONS, "gaussian": DIRECTIONS}
    tensor = TensorUnderTest(context, name)
    for _ in range(amount.repeats):
        kinds = np.repeat(list(counts), list(counts.values()))
        probes = [probe for kind, count in counts.items() for probe in drawn(tensor.gradient, kind, count, rng)]
        noise = noise_along(tensor, rng)
        plan = ProbePlan(
            tensor, probes, noise, tensor.own_rounding_of_direction, tensor.steps_of_directions, enough=np.inf
        )
        found = confirmed(plan)
        for kind in counts:
            yield measurement(kind, found.points.take(kinds == kind), found.sigma, found.resolved[kinds == kind])
    probes = drawn(tensor.gradient, "entry", amount.entries, rng)
    plan = ProbePlan(tensor, probes, noise_along(tensor, rng), tensor.own_rounding_of_entry, tensor.steps_of_entries)
    found = confirmed(plan)
    yield measurement("entry", found.points, found.sigma, found.resolved)


def noise_along(tensor: TensorUnderTest, rng: np.random.Generator) -> Noise:
    """The noise of the loss along a tensor."""
    return estimate_noise(tensor.context.objective, [tensor.name], tensor.context.centre, rng)


def confirmed(plan: ProbePlan) -> Measured:
    """Differences along some probes at their best steps, as a check confirms them."""
    return confirm_measurement(run_search(plan.tensor.context.objective, measured_at_best_steps(plan)))


def routine_measurements(
    model: LSTM,
    batch: Batch,
    form: LossForm,
    found: MeasurementContext,
    carried: Mapping[str, TensorState],
    checks: int,
    rng: np.random.Generator,
) -> Iterator[tuple[str, Measurement]]:
    """One probe of each kind for each tensor and check, as routine checks make them."""
    for _ in range(checks):
        descend(model, true_gradient(model, batch), CREEP)
        context = check_target_of(model, batch, form, true_gradient(model, batch)).reopened(
            found.proven, list(model.params)
        )
        for name, state in carried.items():
            floor = state.noise.floor_at(context.objective, context.centre)
            for kind in KINDS:
                probe = drawn(context.gradients[name], kind, 1, rng)
                yield name, routine_measurement(context, name, kind, getattr(state, kind), probe, floor)


def routine_measurement(
    context: MeasurementContext, name: str, kind: str, stream: Stream, probe: Sequence[Probe], floor: float
) -> Measurement:
    """One probe, from which the step size and the noise of the next one are learned."""
    points = TensorUnderTest(context, name).measure(probe, np.array([stream.steps.start]))
    stream.variance = max(stream.variance, floor**2)
    sigma = float(np.sqrt(stream.variance))
    z3 = points.truncation_in_noise(sigma)
    stream.learn(float(z3[0]), float(points.fourth[0]), 0.0)
    return measurement(kind, points, sigma, z3 <= FAR_TOO_LONG_Z3)


def measurement(kind: str, points: FourPoint, sigma: float, usable: NDArray[np.bool_]) -> Measurement:
    """Errors and error bars of differences whose `g` is the true derivative, where this is not 0."""
    bar = (1.96 * NOISE_OF_NUMERICAL * sigma + points.truncation_bar(sigma)) / points.length
    counted = points.g != 0
    return Measurement(kind, np.abs(points.n - points.g)[counted], bar[counted], usable[counted])


def rows(samples: Sequence[Sample]) -> Iterator[Row]:
    """A row for each source, form of the loss and kind of probe."""
    for source, form, kind in distinct(samples, "source", "form", "kind"):
        group = [each for each in samples if (each.source, each.form, each.kind) == (source, form, kind)]
        worst, cell = worst_cell(group)
        probes, covered, error, left_out = numbers(group)
        yield source, form, kind, probes, covered, f"{worst:.3f}", cell, error, left_out


def sums(samples: Sequence[Sample]) -> Iterator[Row]:
    """A row for each source and form of the loss; here a cell is one state, batch size and kind of probe."""
    for source, form in distinct(samples, "source", "form"):
        group = [each for each in samples if (each.source, each.form) == (source, form)]
        cells = distinct(group, "cell", "kind")
        coverages = [coverage([each for each in group if (each.cell, each.kind) == cell]) for cell in cells]
        of_entries = mean_error([each for each in group if each.kind == "entry"])
        of_directions = mean_error([each for each in group if each.kind != "entry"])
        covered, worst = f"{np.mean(coverages):.3f}", f"{min(coverages):.3f}"
        yield source, form, str(len(cells)), covered, worst, f"{of_directions:.2f}", f"{of_entries:.2f}"


def cell_rows(samples: Sequence[Sample]) -> Iterator[Row]:
    """A row for each cell."""
    fields = ("source", "form", "kind", "cell")
    for found in distinct(samples, *fields):
        group = [each for each in samples if tuple(getattr(each, field) for field in fields) == found]
        yield *found, *numbers(group)


def numbers(group: Sequence[Sample]) -> tuple[str, str, str, str]:
    """Probes, coverage, error and share left out."""
    probes, left_out = sum(each.probes for each in group), sum(each.left_out for each in group)
    return str(probes), f"{coverage(group):.3f}", f"{mean_error(group):.2f}", f"{left_out / max(probes, 1):.3f}"


def coverage(group: Iterable[Sample]) -> float:
    """The share of covered probes, among those that are not left out."""
    covered, left = map(sum, zip(*((each.covered, each.probes - each.left_out) for each in group), strict=True))
    return covered / left if left else np.nan


def mean_error(group: Iterable[Sample]) -> float:
    """The geometric mean over tensors and cells."""
    return float(np.exp(np.mean([np.log(each.error) for each in group if each.error > 0])))


def worst_cell(group: Sequence[Sample]) -> tuple[float, str]:
    """The smallest coverage of a cell, and that cell."""
    return min((coverage([each for each in group if each.cell == cell]), cell) for (cell,) in distinct(group, "cell"))


def distinct(samples: Iterable[Sample], *fields: str) -> list[tuple[str, ...]]:
    """The combinations of some fields that occur, in their order."""
    return list(dict.fromkeys(tuple(getattr(each, field) for field in fields) for each in samples))
