"""The discrepancy at every step size: where the loss stops moving, which step is best, and what is left there."""

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradguard.arrays.reductions import typical_size
from gradguard.arrays.types import Array, Float64
from gradguard.arrays.validation import read_gradients, read_parameters, require_constants
from gradguard.differences import noise
from gradguard.differences.noise import Noise
from gradguard.loss.signature import Loss, require_reduction
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.precision import CheckTarget, require_precision
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation import directions
from gradguard.perturbation.directions import EntryProbe
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import Snapshot, together
from gradguard.sweeps import curves, text
from gradguard.sweeps.curves import Curve, Differences

ENTRIES = 50  # of a tensor, at most, unless asked for otherwise
PILOTS = 12  # four-point differences that the noise is read off
DECADES = {4: 6, 8: 10}  # from the longest step down to the shortest, by the size of the parameters' dtype
BAR_AFTER = 2.0  # seconds

Tick = Callable[[], object]


@dataclass(frozen=True, slots=True, eq=False)
class Sweep(Curve):
    """A sweep over step sizes: the curve of all sampled entries together, and that of each tensor.

    Attributes:
        tensors: One curve a tensor, by name.
        explanation: In words, where the loss stops moving, which step is best, and whether float precision explains
            what is left there.
        steady: Whether the loss repeats, bit for bit; without that nothing else here means anything.
        precision: "native" or "float64": what the loss was evaluated in.
        quantum: The distance from the loss to the next number that its dtype has.
        loss: The loss at the parameters as they are.
        evaluations: How often the loss was evaluated.
        seconds: How long the sweep took.
    """

    tensors: Mapping[str, Curve]
    explanation: str
    steady: bool
    precision: str
    quantum: float
    loss: float
    evaluations: int
    seconds: float

    @property
    def explained(self) -> bool | None:
        """Whether float precision explains the discrepancy of every tensor; None where that cannot be told."""
        told = {curve.explained for curve in self.tensors.values()}
        return None if not self.steady else False if False in told else None if None in told else True

    def __str__(self) -> str:
        return f"{text.table(self, self.tensors)}\n\n{self.explanation}"

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the curves into a PNG or SVG file, by the ending of its name.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: The name ends in something else.
            OSError: The file cannot be written.
        """
        from gradguard.sweeps.plot import save  # it imports matplotlib, which is neither light nor always there

        save(self, path)


def sweep(
    params: Mapping[str, object],
    grads: Mapping[str, object],
    loss: Loss,
    *,
    steps: ArrayLike | None = None,
    constants: Mapping[str, float] | None = None,
    reduction: str | None = None,
    precision: str = "native",
    snapshot: Snapshot | Iterable[Snapshot] | None = None,
    entries: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Sweep:
    """Compare the gradients with two-point differences of the loss at many step sizes.

    It shows the U of which everybody who checks gradients by differences sees a part: rounding on the side of short
    steps, truncation on that of long ones, and whether the bottom of the U is where float precision puts it.

    Unlike `check`, it measures in the precision that the model computes in unless told otherwise, since that is the
    question it answers: which step suits this loss, and what is left there. In float64 the curve is that of another
    loss, with another best step.

    Args:
        params: The parameters by name, floating-point arrays; afterwards they are as they were, bit for bit.
        grads: Their gradients, by the same names.
        loss: `loss()` reads the live arrays; `loss(params)` is handed a mapping of the same names. It returns a
            scalar, or an array of unreduced losses (then say which `reduction` the gradient is of).
        steps: The step sizes, in units of the parameters; by default 1, 2 and 5 of each decade, from the size of the
            parameters down to a millionth of it (a ten-billionth for float64).
        constants: Numbers of the training by name, such as `{"timesteps": 39}`, to name a ratio after.
        reduction: "sum" or "mean", when the loss returns an array.
        precision: "native", "float64", or "auto", which is float64 where that proves to take.
        snapshot: Captures state that an evaluation of the loss disturbs, and returns what puts it back.
        entries: How many entries of a tensor to measure at most, 50 by default: two evaluations each at every step.
        seed: Which entries are drawn.
        progress: Whether to show a bar where it takes more than two seconds.

    Raises:
        TypeError: Something is of a kind that cannot be swept; the message names it.
        ValueError: Names, shapes, sizes or an option's value do not fit, or the loss is nan or inf to begin with.
    """
    started = time.perf_counter()
    arrays = read_parameters(params)
    gradients = read_gradients(grads, arrays)
    known = require_constants(constants)
    count = ENTRIES if entries is None else _require_entries(entries)
    state = Rollback(gradients, together(snapshot))

    def measure() -> tuple[MeasurementContext, dict[str, Noise], bool, dict[str, Differences]]:
        context = CheckTarget(params, arrays, loss, require_reduction(reduction), state).context(
            require_precision(precision)
        )
        sizes = _default_steps(context) if steps is None else _require_steps(steps)
        _require_finite(context)
        rng = np.random.default_rng(seed)
        chosen = {name: directions.entries(g, count, rng) for name, g in context.gradients.items() if g.size}
        with np.errstate(all="ignore"):  # the longest steps may well overflow
            heard = {name: noise.estimate_noise(context.objective, name, context.centre, rng) for name in chosen}
            return context, heard, *_measured(context, chosen, sizes, heard, progress)

    context, heard, steady, measured = state.run(measure)
    tensors = {name: curves.curve(differences) for name, differences in measured.items()}
    whole = curves.curve(curves.joined(list(measured.values())))
    quantum = math.sqrt(12) * min(one.floor for one in heard.values())
    says = text.explanation(whole, tensors, quantum, known) if steady else text.UNSTEADY
    return Sweep(
        **{field.name: getattr(whole, field.name) for field in dataclasses.fields(Curve)},
        tensors=tensors,
        explanation=says,
        steady=steady,
        precision=context.objective.space.precision,
        quantum=quantum,
        loss=context.loss,
        evaluations=context.objective.evaluations,
        seconds=time.perf_counter() - started,
    )


def _measured(
    context: MeasurementContext,
    chosen: Mapping[str, Sequence[EntryProbe]],
    steps: Float64,
    heard: Mapping[str, Noise],
    progress: bool,
) -> tuple[bool, dict[str, Differences]]:
    """Whether the loss repeats, and the differences along the probes of each tensor."""
    steady = context.repeats()
    with _bar(sum(map(len, chosen.values())), progress) as tick:
        measured = {
            name: _differences(context, name, entries, steps, _sigma(context, name, entries, heard[name]), tick)
            for name, entries in chosen.items()
        }
    return steady and context.repeats(), measured


def _differences(
    context: MeasurementContext, name: str, chosen: Sequence[EntryProbe], steps: Float64, sigma: float, tick: Tick
) -> Differences:
    odd, even, length = _two_point(context, name, chosen, steps, tick)
    stuck = length == 0
    n = np.divide(odd, length, out=np.zeros_like(odd), where=~stuck)
    deviation = math.sqrt(2) * sigma / np.where(stuck, 2 * steps[:, None], length)
    truncation = curves.truncation(steps, n, deviation) + curves.kinks(steps, even, length, sigma)
    best = curves.best_of(np.hypot(deviation, truncation))
    rounding = context.rules.backprop_rounding * context.roundoff * float(np.abs(n[best]).max())
    return Differences(
        steps=steps,
        n=n,
        deviation=deviation,
        truncation=truncation,
        still=(odd == 0) & (even == 0),
        stuck=stuck,
        g=np.array([context.gradients[name][probe.index] for probe in chosen], np.float64),
        rounding=np.full(len(chosen), rounding),
    )


def _two_point(
    context: MeasurementContext, name: str, chosen: Sequence[EntryProbe], steps: Float64, tick: Tick
) -> tuple[Float64, Float64, Float64]:
    """L(x + h) - L(x - h), L(x + h) - 2 L(x) + L(x - h) and the realised distance of the two points, (J, m) each."""
    objective, gradient = context.objective, context.gradients[name]
    odd, even, length = np.empty((3, len(steps), len(chosen)))
    with objective.space.moving(name) as place:
        for i, probe in enumerate(chosen):
            for j, step in enumerate(steps):
                above, _ = probe.displace(place, step, gradient)
                upper = objective()
                below, _ = probe.displace(place, -step, gradient)
                lower = objective()
                odd[j, i] = objective.total(upper - lower)
                even[j, i] = objective.total(upper - 2 * context.centre + lower)
                length[j, i] = above - below
            probe.reset(place)
            tick()
    return odd, even, length


def _sigma(context: MeasurementContext, name: str, chosen: Sequence[EntryProbe], heard: Noise) -> float:
    """The noise of the loss along entries of a tensor, from four-point differences at steps too short to be curved.

    At ever shorter steps the points share their roundings and it reads low, by twice or so; where it reads lower still,
    the longer ones were curved.
    """
    pilots = [chosen[i] for i in np.linspace(0, len(chosen) - 1, PILOTS).astype(int)]
    # Few entries come round several times: at other points each time, or they would show the same roundings.
    tensor = TensorUnderTest(context, name)
    apart = tensor.steps_of_entries.start * np.linspace(1, 0.5, PILOTS)
    longer, shorter = [
        noise.from_fourth_differences(tensor.measure(pilots, steps), heard.sigma, heard.floor)
        for steps in (apart, apart / 4)
    ]
    return max(heard.sigma, min(longer, 3 * shorter))


def _require_finite(context: MeasurementContext) -> None:
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
    every = np.concatenate([_finite(array) for array in arrays])
    longest = round(math.log10(typical_size(every, 1.0)))
    size = max(array.dtype.itemsize for array in arrays)
    decades = range(longest - DECADES.get(size, 6), longest)
    return np.array([*(float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)), 10.0**longest])


def _finite(array: Array) -> NDArray[np.float64]:
    return array[np.isfinite(array)].astype(np.float64)


def _require_steps(steps: ArrayLike) -> Float64:
    given = np.asarray(steps)
    if given.dtype.kind not in "fiu":
        raise TypeError(f"steps is an array of dtype {given.dtype}; expected step sizes such as [1e-4, 1e-3, 1e-2]")
    sizes = np.unique(given.astype(np.float64))
    wrong = sizes[~(np.isfinite(sizes) & (sizes > 0))]
    if wrong.size:
        raise ValueError(f"steps holds {wrong[0]}; expected positive numbers")
    if sizes.size < 2:
        raise ValueError(f"steps holds {sizes.size} step sizes; expected at least two, since truncation shows between")
    return sizes


def _require_entries(entries: int) -> int:
    if isinstance(entries, bool) or not isinstance(entries, int) or entries < 1:
        raise ValueError(f"entries is {entries!r}; expected a whole number of at least 1, or None for {ENTRIES}")
    return entries


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[Tick]:
    """What to call for each entry done; it moves a bar where one is shown."""
    if not shown:
        yield lambda: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]  # tqdm ships no types

    # disable=None: no bar where nobody looks, as in a log file
    with tqdm(total=total, desc="sweep", unit="entry", delay=BAR_AFTER, leave=False, disable=None) as bar:
        yield bar.update
