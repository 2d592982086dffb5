"""A small LSTM, whether a check of it agrees, and a library that takes float32 only."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard import Report
from gradguard.testing import LSTM, Batch, random_batch

Params = dict[str, NDArray[Any]]


def small() -> tuple[LSTM, Batch, Params]:
    """A float32 LSTM, a batch, and the gradients of its loss."""
    model, batch = LSTM(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
    return model, batch, model.loss_and_grads(batch)[1]


def agrees(report: Report) -> bool:
    """Whether every gradient was found to be right."""
    return all(tensor.verdict.is_bug is False for tensor in report.tensors.values())


def refusing(params: Mapping[str, NDArray[Any]]) -> None:
    """What a strict library makes of float64."""
    if any(param.dtype != np.float32 for param in params.values()):
        raise TypeError("expected float32 tensors")
