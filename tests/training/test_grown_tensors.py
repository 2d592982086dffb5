"""A tensor that has grown since its steps were found."""

from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("size", [1e-8, 1e-3, 1.0])
def test_a_tensor_that_has_grown_a_million_times_is_checked_without_a_warning(size: float, precision: str) -> None:
    """The steps found for it before would be rounded away now: a warning of NumPy's stops who has them raise."""
    w = (size * np.array([0.3, -0.7, 1.1])).astype(np.float32)

    def loss() -> Any:
        return np.log1p(params["w"] ** 2).sum()

    params = {"w": w}
    guard = GradGuard(params, loss, every_n_steps=1, max_overhead=None, precision=precision)
    for step in range(8):
        if step == 1:
            w *= np.float32(1e6)
        report = guard.after_backward(step, {"w": 2 * w / (1 + w**2)})
        assert report is not None
        assert not report.verdict.is_bug
    assert not any(row.alarms for row in list(guard.history)[4:])
