"""Backprop's rounding error where the forward pass amplifies roundings, as a sharp recurrence does."""

import math

import numpy as np

from gradguard.arrays import Float64
from gradguard.differences import NOISE_OF_NUMERICAL
from gradguard.measurement.measured import Measured

NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2  # such moves, of which the larger effect counts
NUDGED_PROBES = 16  # differences measured after each move
ROUNDINGS_OF_A_PASS = 2  # roundings all through a forward pass, in moves of the parameters by one roundoff
NEAR_KINK = 16  # roundoffs by which the parameters are moved to see whether a kink is that close
SIDES = (1, -1)  # of the parameters; a move to one of them crosses a kink
BEYOND_SMOOTH = 3.0  # ratio of a change to that of a smooth loss above which a kink was crossed
BEYOND_NOISE = 5.0  # standard deviations of the noise that the change must also exceed


def amplified(measured: Measured) -> Float64:
    """Backprop's rounding error along each probe, shape (K,), not less than it was known to be.

    Backprop follows the rounded forward pass. Its derivatives are off by as much as they move when the parameters move
    by a rounding; the parameters are moved further, so that the effect shows, and the effect is scaled back. At a kink
    the derivatives jump, and backprop may be on the other side of it; no step in native precision is short enough to
    show that.
    """
    plan, context = measured.plan, measured.plan.tensor.context
    suspects = measured.suspects[:NUDGED_PROBES]
    before, probes = measured.points.take(suspects), [plan.probes[i] for i in suspects]

    def change(amount: float, seed: int) -> Float64:
        after = plan.tensor.after_nudge(probes, before.step, amount, seed)
        return np.nan_to_num(np.abs(after.n - before.n), nan=np.inf)

    largest = np.max([change(NUDGE, seed) for seed in range(NUDGES)], axis=0)
    error = ROUNDINGS_OF_A_PASS * context.unit / NUDGE * largest
    if not context.is_native:
        near = NEAR_KINK * context.unit
        jump = np.max([change(side * near, 0) for side in SIDES], axis=0)
        noisy = BEYOND_NOISE * math.sqrt(2) * NOISE_OF_NUMERICAL * measured.sigma / before.length
        error = np.where(jump > np.maximum(BEYOND_SMOOTH * near / NUDGE * largest, noisy), jump, error)
    rounding: Float64 = np.maximum(measured.rounding, np.sqrt(np.mean(error**2)))
    rounding[suspects] = np.maximum(rounding[suspects], error)
    return rounding
