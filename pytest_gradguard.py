"""The pytest plugin of gradguard: a fixture for tests of hand-written gradients.

pytest imports it at the start of every session. It lies outside the package so that this does not import NumPy: a
`conftest.py` may have to set its threads before that.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gradguard import Report


@pytest.fixture(scope="session")
def assert_gradients() -> Callable[..., "Report"]:
    """`gradguard.testing.assert_gradients`: a test fails, with the report, where a gradient is not that of the loss."""
    from gradguard.testing import assert_gradients

    return assert_gradients
