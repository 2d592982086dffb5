"""Backprop's rounding error where the forward pass amplifies roundings, as a sharp recurrence does."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gradguard.arrays import Float64
from gradguard.differences import NOISE_OF_NUMERICAL, FourPoint
from gradguard.measurement.measured import Measured
from gradguard.measurement.tensor import TensorUnderTest
from gradguard.perturbation import Probe

NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2  # such moves, of which the larger effect counts
NUDGED_PROBES = 1  # differences measured after each move: the one that disagrees most
ROUNDINGS_OF_A_PASS = 2  # roundings all through a forward pass, in moves of the parameters by one roundoff
NEAR_KINK = 16  # roundoffs by which the parameters are moved to see whether a kink is that close
SIDES = (1, -1)  # of the parameters; a move to one of them crosses a kink
BEYOND_SMOOTH = 3.0  # ratio of a change to that of a smooth loss above which a kink was crossed
BEYOND_NOISE = 5.0  # standard deviations of the noise that the change must also exceed


def amplified(tensor: TensorUnderTest, probes: Sequence[Probe], before: FourPoint, sigma: float) -> Float64:
    """Backprop's rounding error along some probes, shape (K,), from how derivatives change when all parameters move.

    Backprop follows the rounded forward pass. Its derivatives are off by as much as they move when the parameters move
    by a rounding; the parameters are moved further, so that the effect shows, and the effect is scaled back. At a kink
    the derivatives jump, and backprop may be on the other side of it; no step in native precision is short enough to
    show that.

    Args:
        tensor: The tensor.
        probes: K probes.
        before: The differences along them.
        sigma: The noise of one loss.
    """
    context = tensor.context

    def change(amount: float, seed: int) -> Float64:
        after = tensor.after_nudge(probes, before.step, amount, seed)
        return np.nan_to_num(np.abs(after.n - before.n), nan=np.inf)

    largest: Float64 = np.max([change(NUDGE, seed) for seed in range(NUDGES)], axis=0)
    error: Float64 = ROUNDINGS_OF_A_PASS * context.unit / NUDGE * largest
    if context.is_native:
        return error
    near = NEAR_KINK * context.unit
    jump: Float64 = np.max([change(side * near, 0) for side in SIDES], axis=0)
    noisy = BEYOND_NOISE * math.sqrt(2) * NOISE_OF_NUMERICAL * sigma / before.length
    return np.where(jump > np.maximum(BEYOND_SMOOTH * near / NUDGE * largest, noisy), jump, error)


def with_amplification(measured: Measured, known: float | None = None) -> Measured:
    """The differences with a rounding error of backprop that is not less than what the forward pass amplifies.

    Args:
        measured: The differences.
        known: How much larger it is than its usual bound, where that has been measured.
    """
    if known is not None:
        return replace(measured, rounding=measured.rounding * known)
    suspects, plan = measured.suspects[:NUDGED_PROBES], measured.plan
    error = amplified(plan.tensor, [plan.probes[i] for i in suspects], measured.points.take(suspects), measured.sigma)
    rounding: Float64 = np.maximum(measured.rounding, np.sqrt(np.mean(error**2)))
    rounding[suspects] = np.maximum(rounding[suspects], error)
    return replace(measured, rounding=rounding)
