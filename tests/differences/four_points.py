"""Four-point differences of a loss of one tensor, and some whose noise is known."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from gradguard.arrays.types import Array, Float64
from gradguard.differences.four_point import FourPoint, measuring
from gradguard.loss.interleaving import run_search
from gradguard.loss.objective import Objective
from gradguard.loss.signature import Reduction
from gradguard.perturbation.directions import EntryProbe, Probe, aligned, gaussian
from gradguard.perturbation.spaces import InPlace

Loss = Callable[[Array], object]


seeds = st.integers(0, 2**32 - 1)


def measure(
    objective: Objective, name: str, gradient: Array, probes: list[Probe], steps: Float64, centre: Float64
) -> FourPoint:
    """The four-point differences of one tensor, by themselves."""
    return run_search(objective, measuring(objective, name, gradient, probes, steps, centre))


def differences(
    weights: Array,
    loss: Loss,
    gradient: Float64,
    probes: list[Probe],
    step: float,
    reduction: Reduction | None = None,
) -> FourPoint:
    """The four-point differences of one tensor at one step."""
    objective = Objective(lambda: loss(weights), InPlace({"w": weights}), reduction, lambda: None)
    return measure(objective, "w", gradient, probes, np.full(len(probes), step), objective())


def probes_of(shape: tuple[int, ...], seed: int) -> list[Probe]:
    """Some of each kind."""
    rng = np.random.default_rng(seed)
    return [
        EntryProbe(tuple(int(rng.integers(length)) for length in shape)),
        gaussian(np.zeros(shape), rng),
        aligned(rng.standard_normal(shape), rng),
    ]


def noisy(seed: int, count: int, slope: float, sigma: float, g: float, step: float = 1e-2) -> FourPoint:
    """Differences of `count` probes on a linear loss whose evaluations have independent noise."""
    rng = np.random.default_rng(seed)
    losses = {c: slope * c * step + sigma * rng.standard_normal(count) for c in (-2, -1, 1, 2)}
    full = np.ones(count)
    return FourPoint(
        step=step * full,
        odd1=losses[1] - losses[-1],
        odd2=losses[2] - losses[-2],
        even1=losses[1] + losses[-1],
        even2=losses[2] + losses[-2],
        predicted1=2 * step * g * full,
        predicted2=4 * step * g * full,
        length1=2 * step * full,
        length2=4 * step * full,
        skew=0 * full,
    )
