"""The fixture that pytest finds where gradguard is installed."""

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import sys

assert "numpy" not in sys.modules, "a conftest sets the threads of NumPy before it is imported"
"""
USER_TEST = """
import numpy as np
import pytest

W = np.array([0.3, 0.7])


@pytest.mark.parametrize("factor", [1, 39])
def test_the_gradient(assert_gradients, factor):
    report = assert_gradients({"W": W}, {"W": np.cos(W) / factor}, lambda: np.sin(W).sum(), constants={"T": 39})
    assert report.tensors["W"].discrepancy < 1e-6
"""


def test_the_fixture_is_there_without_a_plugin_to_name_and_fails_with_the_report(tmp_path: Path) -> None:
    """A right gradient passes, a wrong one shows its factor; a session without the fixture imports nothing of it."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_user.py").write_text(USER_TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "AssertionError: the gradient of W is wrong" in done.stdout
    assert "BUG: scale" in done.stdout
    assert "test_user.py:10: AssertionError" in done.stdout
