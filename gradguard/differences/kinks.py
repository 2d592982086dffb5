"""Kinks of the loss at x, as a ReLU at 0 makes them: n is off there by up to half of the jump in slope."""

import math
from collections.abc import Sequence

import numpy as np

from gradguard.arrays import Float64
from gradguard.differences.four_point import FourPoint


def jumps(again: Sequence[FourPoint], sigma: float) -> tuple[Float64, Float64]:
    """The jump of the slope at x along k probes, and its standard deviation, both of shape (k,).

    The even part of a smooth loss grows as the square of the step. A kink adds a part in proportion to the step, and
    the noise of L(0) adds the same at all steps; least squares separates the three. The results are nan where a loss is
    not finite.

    Args:
        again: Differences along the same probes, at several steps.
        sigma: The noise of one loss.
    """
    reach = np.concatenate([[each.length1, each.length2] for each in again]).T / 2
    even = np.concatenate([[each.even1, each.even2] for each in again]).T
    unit = reach.max(axis=1, keepdims=True)
    parts = np.stack([np.ones_like(reach), reach / unit, (reach / unit) ** 2], axis=-1)
    weights = np.linalg.pinv(parts)[:, 1] / unit
    return np.sum(weights * even, axis=1), math.sqrt(2) * sigma * np.linalg.norm(weights, axis=1)
