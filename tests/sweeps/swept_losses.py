"""What is swept: the network of the question, and losses whose derivative is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard import Sweep, sweep
from gradguard.testing import LSTM, Batch

TIMESTEPS = 39


def swept(model: LSTM, batch: Batch, **options: Any) -> Sweep:
    """The sweep of a model's own gradients."""
    return sweep(model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch), **options)


def toy(g: float, loss: Callable[[NDArray[Any]], object], start: float = 1.0) -> Sweep:
    """The sweep of a loss of three parameters that are alike."""
    x = {"x": np.full(3, start, np.float32)}
    return sweep(x, {"x": np.full(3, g, np.float32)}, lambda: loss(x["x"]))
