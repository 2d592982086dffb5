"""The ratio n/g of every tensor from probes that move all of them at once.

What a probe sees is the sum of what each tensor contributes, N = sum_t k_t P_t, and the predicted shares P_t are known.
Many probes, in which the signs of the shares are random, therefore give all ratios k_t by least squares. Source: the
weighing designs of Hotelling 1944 (10.1214/aoms/1177731236).
"""

from typing import Self

import numpy as np

from gradguard.arrays import Float64

PRIOR = 1.0  # standard deviation of k - 1 before any probe: a ratio that no probe resolves keeps this error bar
ROWS = 256  # probes that are kept at most; older ones are forgotten, so that the ratios follow the training
PROBES_PER_TENSOR = 4  # that are kept where there are fewer tensors


class WeighedRatios:
    """The latest probes of T tensors together, and the ratios that they give.

    Args:
        count: T.
    """

    def __init__(self, count: int) -> None:
        self._rows: Float64 = np.empty((0, count + 1))

    @property
    def count(self) -> int:
        """The number of tensors."""
        return int(self._rows.shape[1]) - 1

    def to_plain(self) -> list[list[float]] | int:
        """The rows as lists; T while there are none."""
        rows: list[list[float]] = self._rows.tolist()
        return rows or self.count

    @classmethod
    def from_plain(cls, plain: list[list[float]] | int) -> Self:
        """Ratios from what `to_plain` returned.

        Raises:
            ValueError: It is no table of finite numbers.
        """
        if isinstance(plain, int):
            return cls(plain)
        rows = np.array(plain, dtype=np.float64)
        if rows.ndim != 2 or not np.isfinite(rows).all():
            raise ValueError("expected rows of finite numbers, all of one length")
        ratios = cls(rows.shape[1] - 1)
        ratios._rows = rows
        return ratios

    def add(self, shares: Float64, difference: float, deviation: float) -> None:
        """Add one probe.

        Args:
            shares: The change of the loss that the gradient of each tensor predicts, shape (T,).
            difference: N - sum_t P_t: how far the numerical change is from what they predict together.
            deviation: The standard deviation of that difference.
        """
        row = np.append(shares, difference) / deviation
        if np.isfinite(row).all():
            most = min(ROWS, PROBES_PER_TENSOR * self.count)
            self._rows = np.concatenate([self._rows, row[None]])[-most:]

    def forget(self) -> None:
        """Forget all probes."""
        self._rows = self._rows[:0]

    def ratios(self) -> tuple[Float64, Float64]:
        """n/g of each tensor and its standard error, both of shape (T,).

        The prior of k_t about 1 makes the result unique where there are fewer probes than tensors. The errors then say
        that the ratios are not resolved. Where the probes scatter more than their deviations, the errors are larger.
        """
        shares, differences = self._rows[:, :-1], self._rows[:, -1]
        left, singular, right = np.linalg.svd(shares, full_matrices=False)
        kept = singular / (singular**2 + 1 / PRIOR**2)
        explained = (right**2).T @ (singular * kept)
        shifts = right.T @ (kept * (left.T @ differences))
        freedom = len(differences) - float(singular @ kept)
        scatter = np.sum((differences - shares @ shifts) ** 2) / freedom if freedom > 1 else 1.0
        return 1 + shifts, PRIOR * np.sqrt(np.clip(1 - explained, 0, None) * max(1.0, float(scatter)))
