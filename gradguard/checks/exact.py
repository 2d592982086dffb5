"""Exact derivatives of the loss, where it has them: tensors in doubt are measured again with them.

Exact derivatives have neither noise nor truncation, and see no kink but one at x itself. There are two methods:

- The complex step, of a loss that takes complex parameters: Im L(x + i h v) / h has no difference in it that could
  cancel, so that h can be far below all roundings. Source: Squire and Trapp 1998 (10.1137/S003614459631241X).
- Forward mode, where a framework has it: each operation of the forward pass has a derivative of its own, and no
  backward pass takes part.

A loss that is not analytic in complex parameters, or that drops tangents (an abs, a comparison, a cast), gives wrong
derivatives. So they are used only where they agree with differences in float64.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradguard.arrays import Array, Float64, Masks, entries_in_blocks
from gradguard.checks.effort import Deadline
from gradguard.diagnosis import Evidence
from gradguard.differences import MARGIN
from gradguard.loss import LossRequest, try_twice
from gradguard.measurement import Derivative, Measured, MeasurementContext, TensorMeasurement
from gradguard.perturbation import EntryProbe, Probe
from gradguard.statistics import DerivativePairs

ONE_SIDED = 1e-9  # difference of the slopes to both sides, relative to the largest, above which x is at a kink
PROOF_STEP = 1e-5  # step of the differences that prove a derivative, in typical sizes: kinks are seldom so near
ROUNDING_OF_LOSS = 1e-14  # relative error of an exact derivative: the loss is still rounded in float64
SAME_DERIVATIVE = 1e-8  # relative distance within which two derivatives agree
AGREEMENT = 6.0  # error bars of a difference within which they must agree beyond that
SHARP_PROOF = 1e-3  # error bar of a proving difference, relative to the largest derivative, that proves enough


def remeasured(
    context: MeasurementContext,
    measured: Mapping[str, TensorMeasurement],
    doubtful: Mapping[str, Evidence],
    masks: Masks,
    deadline: Deadline,
) -> dict[str, Evidence]:
    """The evidence on some tensors from exact derivatives; empty if the loss has none.

    Args:
        context: What they were measured with.
        measured: The measurements by differences.
        doubtful: The evidence from them.
        masks: Named blocks, by tensor.
        deadline: When no further tensor is begun.
    """
    make = context.derivative
    if make is None or not doubtful:
        return {}
    derivative = try_twice(lambda: make(context.objective.at_once))
    if not isinstance(derivative, Derivative):  # there is none, or no memory for further copies
        return {}
    found: dict[str, Evidence] = {}

    def measure() -> None:
        for name, evidence in doubtful.items():
            if name not in found and not deadline.is_over:
                found[name] = _exactly(derivative, measured[name], evidence, masks)

    with warnings.catch_warnings():  # a loss that drops the imaginary part is found out by the proof
        warnings.simplefilter("ignore", np.exceptions.ComplexWarning)
        try_twice(measure)  # a loss that raises here carries no tangents
    context.objective.evaluations += derivative.objective.evaluations
    return {name: evidence for name, evidence in found.items() if evidence.method != "differences"}


def _exactly(derivative: Derivative, measured: TensorMeasurement, evidence: Evidence, masks: Masks) -> Evidence:
    """The evidence from exact derivatives; unchanged where they are not proven along the directions."""
    directions, _ = _pairs(derivative, measured.directions)
    if not _is_proven(measured.directions, directions):
        return evidence
    entries, probes = _pairs(derivative, measured.entries)
    index = tuple(probe.index for probe in probes if isinstance(probe, EntryProbe))
    return replace(
        evidence,
        entries=entries,
        index=index,
        directions=directions,
        unresolved=0,
        kinks=len(measured.entries.plan.probes) - len(index),
        coverage=measured.tensor.coverage(index),
        blocks=entries_in_blocks(masks, evidence.name, index),
        method=derivative.method,
    )


def slopes(
    derivative: Derivative, name: str, probes: Sequence[Probe], gradient: Array, typical: float
) -> tuple[Float64, Float64, Float64]:
    """The derivatives of the loss along some probes, their error bars, and what the gradient predicts; each (K,).

    A derivative is nan where the loss has a kink at x, so that its slopes to both sides differ, or is not finite.

    Args:
        derivative: The exact derivative of the loss.
        name: The tensor.
        probes: K directions.
        gradient: The gradient of the tensor.
        typical: The typical size of the tensor.
    """
    objective, step = derivative.objective, derivative.step * typical
    (values,) = objective.evaluate([LossRequest(name, probes, np.tile([step, -step], (len(probes), 1)), gradient)])
    with np.errstate(invalid="ignore"):
        sides = objective.totals(values.losses) / values.displacements
        difference = np.abs(sides[:, 0] - sides[:, 1])
    largest = np.abs(sides[np.isfinite(sides)]).max(initial=0.0)
    n = np.where(difference <= ONE_SIDED * largest, sides.mean(axis=1), np.nan)
    return n, ROUNDING_OF_LOSS * largest + difference / 2, (values.predicted / values.displacements).mean(axis=1)


def _pairs(derivative: Derivative, measured: Measured) -> tuple[DerivativePairs, list[Probe]]:
    """The exact pairs along some probes, and those probes.

    Left out are probes that start from a kink, or so near one that the rounded backward pass may be beyond it.
    """
    tensor, probes = measured.plan.tensor, measured.plan.probes
    n, error, g = slopes(derivative, tensor.name, probes, tensor.gradient, tensor.typical)
    smooth = np.isfinite(n) & ~measured.nonquadratic
    rounding = measured.rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(n == g, 0.0, (n - g) / (MARGIN * np.hypot(rounding, error)))
    pairs = DerivativePairs(n, g, error, rounding, z, measured.own)
    return pairs.where(smooth), [probe for probe, kept in zip(probes, smooth, strict=True) if kept]


def _is_proven(measured: Measured, exact: DerivativePairs) -> bool:
    """Whether differences over short steps in float64 agree along all directions, with small error bars."""
    tensor, probes = measured.plan.tensor, measured.plan.probes
    points = tensor.measure(probes, np.full(len(probes), PROOF_STEP * tensor.typical))
    bars, largest = points.bar(measured.sigma), float(np.abs(exact.n).max(initial=0.0))
    if exact.size != len(probes) or not (bars <= SHARP_PROOF * largest).all():
        return False
    return bool((np.abs(points.n - exact.n) <= AGREEMENT * bars + SAME_DERIVATIVE * largest).all())
