"""The sweep over step sizes: two-point differences of the loss at many steps, beside the gradient."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradguard.arrays import Array, Float64, require_constants, require_entries, typical_size
from gradguard.containers import ArrayContainer, read_gradients, read_parameters
from gradguard.differences import Noise, noise
from gradguard.environment import own_numerics, with_short_traceback
from gradguard.loss import Loss, loss_of_mapping, require_reduction
from gradguard.measurement import CheckTarget, MeasurementContext, TensorUnderTest, require_precision
from gradguard.perturbation import EntryProbe, Rollback, Snapshot, combined_snapshot, directions, reached_state
from gradguard.sweeps import plot, text
from gradguard.sweeps.curves import (
    SweepCurves,
    TwoPointDifferences,
    best_step_index,
    curves_of_sweep,
    field_values,
    kink_error_across_steps,
    truncation_across_steps,
)

ENTRIES = 50  # entries of a tensor, at most, unless the caller asks for more: 100 evaluations at each step
NOISE_PILOTS = 12  # four-point differences of a tensor that the noise is estimated from
DECADES = {4: 6, 8: 10}  # decades from the longest default step to the shortest, by bytes of the parameters' dtype
PROGRESS_DELAY = 2.0  # seconds before the progress bar appears

Tick = Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep(SweepCurves):
    """A sweep over step sizes: its curves, what they mean, and how they were measured.

    Attributes:
        explanation: In words, where the loss stops changing, which step is best, and whether float precision explains
            the discrepancy there.
        deterministic: Whether the loss repeats, bit for bit; if not, nothing else here means anything.
        precision: "native" or "float64": what the loss was evaluated in.
        quantum: The distance from the loss to the next number that its dtype has.
        loss: The loss at the unperturbed parameters.
        evaluations: How often the loss was evaluated.
        seconds: How long the sweep took.
    """

    explanation: str
    deterministic: bool
    precision: str
    quantum: float
    loss: float
    evaluations: int
    seconds: float

    @property
    def explained(self) -> bool | None:
        """Whether float precision explains the discrepancy of every tensor; None where that cannot be told."""
        outcomes = {curve.explained for curve in self.tensors.values()}
        return None if not self.deterministic else False if False in outcomes else None if None in outcomes else True

    def __str__(self) -> str:
        return f"{text.table(self)}\n\n{self.explanation}"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the curves into a PNG or SVG file, by the ending of its name.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: The name has another ending.
            OSError: The file cannot be written.
        """
        plot.save(self, path)


@dataclass(frozen=True, slots=True)
class _Measurement:
    """What a sweep measures before anything is compared with the gradient."""

    context: MeasurementContext
    noise: Mapping[str, Noise]
    deterministic: bool
    differences: Mapping[str, TwoPointDifferences]

    @property
    def quantum(self) -> float:
        """The distance between neighbouring values of the loss, q: rounding to them has a deviation of q / sqrt(12)."""
        return math.sqrt(12) * min(one.floor for one in self.noise.values())


@with_short_traceback
@own_numerics
def sweep(
    params: ArrayContainer,
    grads: ArrayContainer,
    loss: Loss,
    *,
    steps: ArrayLike | None = None,
    constants: Mapping[str, float] | None = None,
    reduction: str | None = None,
    precision: str = "native",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sweep:
    """Compare the gradients with two-point differences of the loss at many step sizes.

    The discrepancy against the step size is a U: rounding dominates at short steps, truncation at long ones. The sweep
    shows the whole U, and whether its bottom is where float precision puts it.

    By default it measures in the precision that the model computes in, unlike `check`: it answers which step is best
    for this loss, and which discrepancy remains there. In float64 the loss is another one, with another best step.

    Args:
        params: The parameters by name, or in another container of arrays as for `check`; they are restored bit for bit.
        grads: Their gradients, in a container of the same form.
        loss: `loss()` reads the live arrays; `loss(params)` gets a container of the same form. It returns a
            scalar, or an array of unreduced losses (then say which `reduction` the gradient is of).
        steps: The step sizes, in units of the parameters; by default 1, 2 and 5 of each decade, from the size of the
            parameters down to a millionth of it (a ten-billionth for float64).
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, to identify a ratio with.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native", "float64", or "auto": float64 if the loss proves to compute in it.
        snapshot: Captures state that an evaluation of the loss changes, and returns a function that restores it.
        entries: The most entries of a tensor to measure, or "all"; 50 by default. Each takes two evaluations at every
            step.
        seed: The seed that draws the entries.
        progress: Whether to show a progress bar if the sweep takes more than two seconds.

    Raises:
        TypeError: An argument has a type that cannot be swept; the message names it.
        ValueError: Names, shapes, sizes or an option's value do not fit, or the loss is nan or inf at the parameters.
    """
    started = time.perf_counter()
    given = read_parameters(params)
    arrays = given.arrays
    gradients = read_gradients(grads, arrays)
    known = require_constants(constants)
    max_entries = require_entries(entries) or ENTRIES
    reached = reached_state(loss, params, (*arrays.values(), *gradients.values()))
    rollback = Rollback(gradients, combined_snapshot(snapshot), reached=reached)

    def measure() -> _Measurement:
        target = CheckTarget(
            given.mapping, arrays, loss_of_mapping(loss, given.filled), require_reduction(reduction), rollback
        )
        context = target.context(require_precision(precision))
        measured = _measure(context, steps, max_entries, np.random.default_rng(seed), progress)
        rollback.reached.attribute(context.evaluate_live)
        return measured

    measured = rollback.run(measure)
    rollback.require_intact()
    curves = curves_of_sweep(measured.differences)
    context, quantum = measured.context, measured.quantum
    return Sweep(
        **field_values(curves),
        explanation=text.explanation(curves, quantum, known) if measured.deterministic else text.NONDETERMINISTIC,
        deterministic=measured.deterministic,
        precision=context.objective.space.precision,
        quantum=quantum,
        loss=context.loss,
        evaluations=context.objective.evaluations,
        seconds=time.perf_counter() - started,
    )


def _measure(
    context: MeasurementContext, steps: ArrayLike | None, max_entries: int, rng: np.random.Generator, progress: bool
) -> _Measurement:
    sizes = _default_steps(context) if steps is None else _require_steps(steps)
    _require_finite_loss(context)
    probes = {
        name: directions.stratified_entries(g, max_entries, rng) for name, g in context.gradients.items() if g.size
    }
    noises = {name: noise.estimate_noise(context.objective, [name], context.centre, rng) for name in probes}
    repeats_before = context.repeats()
    with _progress_bar(sum(map(len, probes.values())), progress) as tick:
        differences = {
            name: _differences(context, name, entries, sizes, _sigma(context, name, entries, noises[name]), tick)
            for name, entries in probes.items()
        }
    return _Measurement(context, noises, repeats_before and context.repeats(), differences)


def _differences(
    context: MeasurementContext, name: str, probes: Sequence[EntryProbe], steps: Float64, sigma: float, tick: Tick
) -> TwoPointDifferences:
    odd, even, length = _two_point(context, name, probes, steps, tick)
    rounded_away = length == 0
    n = np.divide(odd, length, out=np.zeros_like(odd), where=~rounded_away)
    deviation = math.sqrt(2) * sigma / np.where(rounded_away, 2 * steps[:, None], length)
    truncation = truncation_across_steps(steps, n, deviation) + kink_error_across_steps(steps, even, length, sigma)
    best = best_step_index(np.hypot(deviation, truncation))
    rounding = context.rules.backprop_rounding * context.roundoff * float(np.abs(n[best]).max())
    return TwoPointDifferences(
        steps=steps,
        n=n,
        deviation=deviation,
        truncation=truncation,
        loss_unchanged=(odd == 0) & (even == 0),
        step_rounded_away=rounded_away,
        g=np.array([context.gradients[name][probe.index] for probe in probes], np.float64),
        rounding=np.full(len(probes), rounding),
    )


def _two_point(
    context: MeasurementContext, name: str, probes: Sequence[EntryProbe], steps: Float64, tick: Tick
) -> tuple[Float64, Float64, Float64]:
    """L(x + h) - L(x - h), L(x + h) - 2 L(x) + L(x - h) and the realised distance of the two points, (J, m) each."""
    objective, gradient = context.objective, context.gradients[name]
    odd, even, length = np.empty((3, len(steps), len(probes)))
    with objective.moving(name) as tensor:
        for i, probe in enumerate(probes):
            for j, step in enumerate(steps):
                above, _ = probe.displace(tensor, step, gradient)
                upper = objective()
                below, _ = probe.displace(tensor, -step, gradient)
                lower = objective()
                odd[j, i] = objective.total(upper - lower)
                even[j, i] = objective.total(upper - 2 * context.centre + lower)
                length[j, i] = above - below
            probe.reset(tensor)
            tick()
    return odd, even, length


def _sigma(context: MeasurementContext, name: str, probes: Sequence[EntryProbe], known: Noise) -> float:
    """The noise of the loss along entries of a tensor, from four-point differences at steps too short for truncation.

    At shorter steps the four points share their rounding errors, and the estimate falls by a factor of about two. If it
    falls by more than three, the longer steps had truncation.
    """
    tensor = TensorUnderTest(context, name)
    pilots = [probes[i] for i in np.linspace(0, len(probes) - 1, NOISE_PILOTS).astype(int)]
    # A tensor of few entries has several pilots along one entry: equal steps would repeat the same rounding errors.
    distinct = tensor.steps_of_entries.start * np.linspace(1, 0.5, NOISE_PILOTS)
    longer, shorter = [
        noise.from_fourth_differences(tensor.measure(pilots, steps), known.sigma, known.floor)
        for steps in (distinct, distinct / 4)
    ]
    return max(known.sigma, min(longer, 3 * shorter))


def _require_finite_loss(context: MeasurementContext) -> None:
    if not np.isfinite(context.centre).all():
        raise ValueError(
            f"the loss is {context.loss} at the parameters as they are, so that nothing can be differenced: the "
            "training has diverged, or the forward pass overflows"
        )
    if not any(gradient.size for gradient in context.gradients.values()):
        raise ValueError("no parameter has any entries; expected at least one number to move")


def _default_steps(context: MeasurementContext) -> Float64:
    """1, 2 and 5 of each decade, up to the size of the parameters."""
    arrays = context.objective.space.arrays.values()
    parameters = np.concatenate([_finite(array) for array in arrays])
    longest = round(math.log10(typical_size(parameters, 1.0)))
    itemsize = max(array.dtype.itemsize for array in arrays)
    decades = range(longest - DECADES.get(itemsize, 6), longest)
    return np.array([*(float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)), 10.0**longest])


def _finite(array: Array) -> NDArray[np.float64]:
    return array[np.isfinite(array)].astype(np.float64)


def _require_steps(steps: ArrayLike) -> Float64:
    read = np.asarray(steps)
    if read.dtype.kind not in "fiu":
        raise TypeError(f"steps is an array of dtype {read.dtype}; expected step sizes such as [1e-4, 1e-3, 1e-2]")
    sizes = np.unique(read.astype(np.float64))
    wrong = sizes[~(np.isfinite(sizes) & (sizes > 0))]
    if wrong.size:
        raise ValueError(f"steps holds {wrong[0]}; expected positive numbers")
    if sizes.size < 2:
        raise ValueError(f"steps holds {sizes.size} step sizes; expected at least two, since truncation shows between")
    return sizes


@contextlib.contextmanager
def _progress_bar(total: int, enabled: bool) -> Iterator[Tick]:
    """A function to call after each entry; it advances the progress bar if there is one."""
    if not enabled:
        yield lambda: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

    # disable=None: no bar unless the standard error stream is a terminal
    with tqdm(total=total, desc="sweep", unit="entry", delay=PROGRESS_DELAY, leave=False, disable=None) as bar:
        yield bar.update
