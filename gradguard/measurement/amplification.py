"""Backprop's rounding error where the forward pass amplifies roundings, as a sharp recurrence does."""

import math
from collections.abc import Sequence

import numpy as np

from gradguard.arrays.types import Float64
from gradguard.differences.four_point import NOISE_OF_NUMERICAL
from gradguard.measurement.context import MeasurementContext
from gradguard.measurement.measured import Measured
from gradguard.perturbation.directions import Probe

NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2
NUDGED = 16  # differences measured there
ASTRAY = 2  # roundings all through a pass, in moves of the parameters by one roundoff
ROUNDINGS = 16  # roundoffs by which parameters are moved to see whether x is that close to a corner
SIDES = (1, -1)  # there and back: one of them crosses it
BEYOND = 3.0  # times what a smooth loss would do, from which it is one
CLEARLY = 5.0  # standard deviations of the noise, too


def amplified(context: MeasurementContext, name: str, chosen: Sequence[Probe], settled: Measured) -> Float64:
    """Backprop's own rounding error along each probe, (K,), no less than it was known to be.

    Backprop follows the rounded forward pass. How far that leads it astray is how far the derivatives move when the
    parameters do by a rounding; they are moved further, so that it shows, and the effect is scaled back. At a corner
    they jump, and backprop may be on the other side of it; in native precision no step is so short that it would show.
    """
    suspects = settled.suspects[:NUDGED]
    before = settled.points.take(suspects)

    def moved(amount: float, seed: int) -> Float64:
        with context.nudged(amount, seed) as nudged:
            after = nudged.measure(name, [chosen[i] for i in suspects], before.step)
        return np.nan_to_num(np.abs(after.n - before.n), nan=np.inf)

    furthest = np.max([moved(NUDGE, seed) for seed in range(NUDGES)], axis=0)
    astray = ASTRAY * context.unit / NUDGE * furthest
    if context.objective.space.precision != "native":
        close = ROUNDINGS * context.unit
        jump = np.max([moved(side * close, 0) for side in SIDES], axis=0)
        noisy = CLEARLY * math.sqrt(2) * NOISE_OF_NUMERICAL * settled.sigma / before.length
        astray = np.where(jump > np.maximum(BEYOND * close / NUDGE * furthest, noisy), jump, astray)
    rounding: Float64 = np.maximum(settled.rounding, np.sqrt(np.mean(astray**2)))
    rounding[suspects] = np.maximum(rounding[suspects], astray)
    return rounding
