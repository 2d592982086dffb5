"""Arguments that do not fit, and losses that cannot be swept."""

import math
from typing import Any

import numpy as np
import pytest
from swept_losses import swept, toy

from gradguard import sweep
from gradguard.testing import LSTM, Batch


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": [1e-3]}, ValueError, "at least two"),
        ({"steps": [1e-3, -1e-2]}, ValueError, "steps holds -0.01; expected positive numbers"),
        ({"steps": [1e-3, math.nan]}, ValueError, "steps holds nan"),
        ({"steps": ["small", "large"]}, TypeError, "expected step sizes such as"),
        ({"entries": 0}, ValueError, "entries is 0"),
        ({"entries": True}, ValueError, "entries is True"),
        ({"precision": "float16"}, ValueError, "'native', 'float64' or 'auto'"),
        ({"reduction": "median"}, ValueError, "'sum', 'mean' or None"),
        ({"constants": {"timesteps": 0}}, ValueError, "'timesteps'"),
    ],
)
def test_a_mistake_is_told(options: Any, error: type[Exception], words: str, model: LSTM, batch: Batch) -> None:
    """An argument that does not fit is an error that says what was given and what was expected."""
    with pytest.raises(error) as raised:
        swept(model, batch, **options)
    assert words in str(raised.value)


def test_a_number_of_entries_may_be_a_numpy_integer(model: LSTM, batch: Batch) -> None:
    """`entries` takes any whole number, as `check` does."""
    assert swept(model, batch, entries=np.int64(1), steps=[1e-3, 1e-2]).evaluations > 0


def test_a_loss_that_is_nan_or_without_parameters_cannot_be_swept() -> None:
    """There is nothing to difference, and that is said."""
    with pytest.raises(ValueError, match="the loss is nan at the parameters as they are"):
        toy(1.0, lambda _: math.nan)
    with pytest.raises(ValueError, match="no parameter has any entries"):
        sweep({"x": np.ones(0)}, {"x": np.ones(0)}, lambda: 1.0)


def test_a_loss_that_overflows_at_long_steps_is_swept_without_a_warning() -> None:
    """The steps that fail have no discrepancy, and the others are as good as ever."""
    found = toy(3.0, lambda x: np.float32(np.exp(x) ** 3).sum() / np.float32(math.e**3), 1.0)
    assert found.explained
    direction_dtype = sweep(
        x := {"x": np.ones(2, np.float32)},
        {"x": np.full(2, math.e, np.float32)},
        lambda: np.exp(x["x"]).sum(),
        steps=[1e-3, 1e-2, 1e-1, 1e3],
    )
    assert math.isnan(direction_dtype.discrepancy[-1])
    assert direction_dtype.best_step < 1
    assert direction_dtype.explained
