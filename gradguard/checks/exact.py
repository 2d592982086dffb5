"""Exact derivatives, of a loss that carries tangents of its parameters along: what is in doubt is told by them.

They have neither noise nor truncation, and see no kink but those at x itself. There are two ways to them:

- The complex step, of a loss that takes complex parameters: Im L(x + i h v) / h has no difference in it that could
  cancel, so that h can be far below all roundings. Source: Squire and Trapp 1998 (10.1137/S003614459631241X).
- Forward mode, where a framework has it: each operation of the forward pass has a derivative of its own, and no
  backward pass has a part in it.

A loss that is no analytic function of complex parameters, or that drops tangents (an abs, a comparison, a cast) says
something else: the derivatives are believed where they agree with differences in float64.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradguard.arrays.named_blocks import Masks, held
from gradguard.arrays.types import Array, Float64
from gradguard.checks.examine import Examined, Series, coverage
from gradguard.diagnosis.evidence import Evidence
from gradguard.differences.four_point import MARGIN
from gradguard.loss.attempts import attempted
from gradguard.loss.objective import LossRequest
from gradguard.measurement.context import Derivative, MeasurementContext
from gradguard.perturbation.directions import EntryProbe, Probe
from gradguard.statistics.pairs import DerivativePairs

ASIDE = 1e-9  # distance between the slopes to both sides, in the largest of all probes, from which x is at a corner
PROVING = 1e-5  # the step of the differences that prove it, in typical sizes: kinks are seldom so near
ROUNDED = 1e-14  # relative error of an exact derivative: the loss is still rounded, in float64
SAME = 1e-8  # relative distance between derivatives in two ways
SURE = 6.0  # error bars by which they may differ
CLEAR = 1e-3  # of the largest derivative, that the bars must be below


def remeasured(
    context: MeasurementContext,
    examined: Mapping[str, Examined],
    doubtful: Mapping[str, Evidence],
    masks: Masks,
    is_late: Callable[[], bool],
) -> dict[str, Evidence]:
    """The evidence of some tensors with exact derivatives; of none where the loss has none.

    Args:
        context: What they were measured with.
        examined: How, by name.
        doubtful: What the differences say of them.
        masks: Named blocks, by tensor.
        is_late: Whether no further tensor is to be begun.
    """
    make = context.derivative
    if make is None or not doubtful:
        return {}
    derivative = attempted(lambda: make(context.objective.at_once))
    if not isinstance(derivative, Derivative):  # there is none, or no memory for further copies
        return {}
    found: dict[str, Evidence] = {}

    def measure() -> None:
        for name, evidence in doubtful.items():
            if name not in found and not is_late():
                found[name] = _exactly(context, derivative, examined[name], evidence, masks)

    with warnings.catch_warnings():  # of a loss that drops the imaginary part, which is found out
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        attempted(measure)  # whatever it raises, the loss carries no tangents
    context.objective.evaluations += derivative.objective.evaluations
    return {name: evidence for name, evidence in found.items() if evidence.method != "differences"}


def _exactly(
    context: MeasurementContext,
    derivative: Derivative,
    measured: Examined,
    evidence: Evidence,
    masks: Masks,
) -> Evidence:
    """The evidence with exact derivatives; as it was where they are not proven along the directions."""
    directions, _ = _pairs(context, derivative, evidence.name, measured.directions)
    if not _is_proven(context, measured, directions):
        return evidence
    entries, probes = _pairs(context, derivative, evidence.name, measured.entries)
    index = tuple(probe.index for probe in probes if isinstance(probe, EntryProbe))
    return replace(
        evidence,
        entries=entries,
        index=index,
        directions=directions,
        unresolved=0,
        kinks=len(measured.entries.probes) - len(index),
        coverage=coverage(context.gradients[evidence.name], index, evidence.norm),
        blocks=held(masks, evidence.name, index),
        method=derivative.method,
    )


def slopes(
    derivative: Derivative, name: str, probes: Sequence[Probe], gradient: Array, typical: float
) -> tuple[Float64, Float64, Float64]:
    """The derivatives of the loss along some probes, how uncertain they are, and what the gradient predicts; all (K,).

    They are nan where the loss has a corner at x, so that its slopes to both sides differ, or is not finite.

    Args:
        derivative: Of the loss.
        name: The tensor.
        probes: K directions.
        gradient: Of the tensor.
        typical: The size of the tensor.
    """
    objective, step = derivative.objective, derivative.step * typical
    (answer,) = objective.evaluate([LossRequest(name, probes, np.tile([step, -step], (len(probes), 1)), gradient)])
    with np.errstate(invalid="ignore"):
        sides = objective.totals(answer.losses) / answer.along
        apart = np.abs(sides[:, 0] - sides[:, 1])
    largest = np.abs(sides[np.isfinite(sides)]).max(initial=0.0)
    n = np.where(apart <= ASIDE * largest, sides.mean(axis=1), np.nan)
    return n, ROUNDED * largest + apart / 2, (answer.against / answer.along).mean(axis=1)


def _pairs(
    context: MeasurementContext, derivative: Derivative, name: str, series: Series
) -> tuple[DerivativePairs, list[Probe]]:
    """The exact pairs along some probes, and those probes.

    None that start from a corner, or so near one that the backward pass, rounded, may have seen the other side of it.
    """
    n, error, g = slopes(derivative, name, series.probes, context.gradients[name], context.typical(name))
    smooth = np.isfinite(n) & ~series.settled.nonquadratic
    rounding, own = series.settled.rounding, series.settled.own
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(n == g, 0.0, (n - g) / (MARGIN * np.hypot(rounding, error)))
    pairs = DerivativePairs(n, g, error, rounding, z, own)
    return pairs.where(smooth), [probe for probe, kept in zip(series.probes, smooth, strict=True) if kept]


def _is_proven(context: MeasurementContext, measured: Examined, exact: DerivativePairs) -> bool:
    """Whether differences over short steps in float64 agree along all directions, and clearly."""
    name, series = measured.evidence.name, measured.directions
    steps = np.full(len(series.probes), PROVING * context.typical(name))
    points = context.measure(name, series.probes, steps)
    bars, largest = points.bar(series.settled.sigma), float(np.abs(exact.n).max(initial=0.0))
    if exact.size != len(series.probes) or not (bars <= CLEAR * largest).all():
        return False
    return bool((np.abs(points.n - exact.n) <= SURE * bars + SAME * largest).all())
