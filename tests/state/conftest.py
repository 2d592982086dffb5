from typing import Any

import pytest
from resumed_training import Training


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """That of a guard after five checks, with a bug."""
    training = Training()
    guard = training.guard()
    training.run(guard, range(5))
    return guard.state_dict()
