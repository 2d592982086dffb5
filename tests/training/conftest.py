import logging
from typing import Any

import pytest
from resumed_training import Training


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is logged is captured."""
    caplog.set_level(logging.INFO, logger="gradguard")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """That of a guard after five checks, with a bug."""
    training = Training()
    guard = training.guard()
    training.run(guard, range(5))
    return guard.state_dict()
