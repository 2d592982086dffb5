"""Whether a prediction of the numerical gradient explains what was measured, and how much speaks for it."""

from dataclasses import dataclass

import numpy as np

from gradguard.arrays import Float64
from gradguard.statistics import DerivativePairs, Rules, norm

RESOLVED = 3.0  # deviations by which an entry must contradict g, to speak for anything else
MAX_REST = 0.01  # of n, and of n - g: what a prediction leaves beside what it explains, where the bars are too narrow
MIN_SUPPORT = 6.0  # powers of ten by which chance is excluded; up to 1,000 predictions are tried on a tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """The numerical gradient at the m entries that were measured, as `fixed` + `columns` @ coefficients.

    Attributes:
        fixed: The part without a coefficient, (m,).
        columns: What the coefficients multiply, (m, p).
        rounding: Backprop's rounding error in all that, (m,).
        is_rearranged: Whether the values are those of a gradient in another order. Then a zero that is met by a zero is
            no evidence, since a gradient may have many.
    """

    fixed: Float64
    columns: Float64
    rounding: Float64
    is_rearranged: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """A prediction at its best coefficients.

    Attributes:
        coefficients: One for each column, (p,).
        errors: Their standard errors, (p,).
        support: The power of ten by which chance is excluded.
        explains: Whether what is left of n is within the error bars, or nothing beside n and n - g.
    """

    coefficients: Float64
    errors: Float64
    support: float
    explains: bool

    @property
    def is_convincing(self) -> bool:
        """Whether the prediction explains n, and not by chance."""
        return self.explains and self.support >= MIN_SUPPORT


def fitted(entries: DerivativePairs, prediction: Prediction, rules: Rules) -> Fit | None:
    """The prediction at its best coefficients; None where the entries do not determine these.

    Args:
        entries: What was measured.
        prediction: What is predicted of it.
        rules: The rules of the check.
    """
    deviation = np.hypot(entries.error, prediction.rounding)
    deviation = np.maximum(deviation, np.finfo(float).eps * np.abs(entries.n).max(initial=0.0))
    count, free = prediction.columns.shape
    if count <= free or not (deviation > 0).all():
        return None
    coefficients, errors = np.empty(0), np.empty(0)
    if free:
        scaled = prediction.columns / deviation[:, None]
        sizes = np.sqrt(np.square(scaled).sum(0))
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            return None
        target = (entries.n - prediction.fixed) / deviation
        solution, _, rank, _ = np.linalg.lstsq(scaled / sizes, target, rcond=1e-9)
        if rank < free:
            return None
        coefficients = solution / sizes
        errors = np.sqrt(np.diag(np.linalg.inv((scaled / sizes).T @ (scaled / sizes)))) / sizes
    rest = entries.n - prediction.fixed - prediction.columns @ coefficients
    return Fit(
        coefficients,
        errors,
        _support(entries, rest, deviation, free, is_rearranged=prediction.is_rearranged),
        _explains(entries, rest, deviation, free, rules),
    )


def _explains(entries: DerivativePairs, rest: Float64, deviation: Float64, free: int, rules: Rules) -> bool:
    z = rest / deviation
    within_bars = float(np.square(z).sum()) <= rules.max_chi2 * (rest.size - free) and np.abs(z).max() <= rules.alarm
    return within_bars or norm(rest) <= MAX_REST * min(norm(entries.n), norm(entries.n - entries.g))


def _support(entries: DerivativePairs, rest: Float64, deviation: Float64, free: int, *, is_rearranged: bool) -> float:
    """How unlikely it is that an unrelated field meets n where g does not, as a power of ten.

    An entry that contradicts g by x tolerances is met by chance about once in x trials.
    """
    tolerance = np.maximum(deviation, np.abs(rest))
    telling = np.abs(entries.n - entries.g) > RESOLVED * tolerance
    if is_rearranged:
        telling &= np.abs(entries.n) > RESOLVED * tolerance
    count = int(telling.sum())
    if count <= free:
        return 0.0
    met = np.log10(np.abs(entries.n - entries.g)[telling] / tolerance[telling])
    return float(met.sum()) * (count - free) / count
