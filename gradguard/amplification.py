"""Backprop's rounding error where the forward pass amplifies roundings, as a sharp recurrence does."""

from collections.abc import Sequence

import numpy as np

from gradguard.bench import Bench
from gradguard.parameters import Float64
from gradguard.probes import Probe
from gradguard.settled import Settled

NUDGE = 1e-5  # relative move of all parameters that shows how the forward pass amplifies roundings
NUDGES = 2
NUDGED = 16  # differences measured there
ASTRAY = 2  # roundings all through a pass, in moves of the parameters by one roundoff


def amplified(bench: Bench, name: str, chosen: Sequence[Probe], settled: Settled) -> Float64:
    """Backprop's own rounding error along each probe, (K,), no less than it was known to be.

    Backprop follows the rounded forward pass. How far that leads it astray is how far the derivatives move when the
    parameters do by a rounding; they are moved further, so that it shows, and the effect is scaled back.
    """
    suspects = settled.suspects[:NUDGED]
    before = settled.points.take(suspects)
    furthest = np.zeros(suspects.size)
    for seed in range(NUDGES):
        with bench.nudged(NUDGE, seed) as nudged:
            after = nudged.measure(name, [chosen[i] for i in suspects], before.step)
        furthest = np.maximum(furthest, np.nan_to_num(np.abs(after.n - before.n), nan=np.inf))
    astray = ASTRAY * bench.unit / NUDGE * furthest
    rounding: Float64 = np.maximum(settled.rounding, np.sqrt(np.mean(astray**2)))
    rounding[suspects] = np.maximum(rounding[suspects], astray)
    return rounding
