import logging

import pytest


@pytest.fixture(autouse=True)
def _no_noise(caplog: pytest.LogCaptureFixture) -> None:
    """Everything that is logged is captured."""
    caplog.set_level(logging.INFO, logger="gradguard")
