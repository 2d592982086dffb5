"""Whether an exact derivative is that of the loss: differences in float64 along a few directions must agree.

A loss that is not analytic in complex parameters, or that drops tangents (an abs, a comparison, a cast), gives wrong
derivatives, and so does an operation with a wrong derivative of its own.
"""

import numpy as np

from gradguard.arrays import Float64
from gradguard.differences import FourPoint

PROOF_STEP = 1e-5  # step of the differences, in typical sizes of the tensor: kinks are seldom so near
SAME_DERIVATIVE = 1e-8  # relative distance within which two derivatives agree
AGREEMENT = 6.0  # error bars of a difference within which they must agree beyond that
SHARP_PROOF = 1e-3  # error bar of a difference, relative to the largest derivative, that proves enough


def is_proven(points: FourPoint, exact: Float64, sigma: float) -> bool:
    """Whether differences agree with exact derivatives along some probes.

    Args:
        points: The differences along K probes, over `PROOF_STEP`.
        exact: The exact derivatives along them, shape (K,).
        sigma: The noise of one loss.
    """
    if not np.isfinite(exact).all():
        return False
    bars, largest = points.bar(sigma), float(np.abs(exact).max(initial=0.0))
    if largest == 0 and points.loss_unchanged.all():
        return True
    if not (bars <= SHARP_PROOF * largest).all():
        return False
    return bool((np.abs(points.n - exact) <= AGREEMENT * bars + SAME_DERIVATIVE * largest).all())
