"""What docs/keras.md shows is true."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import blocks, digitless, page

MISSING = [name for name in ("keras", "torch") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")


def test_the_example_says_what_the_page_says(tmp_path: Path) -> None:
    """Up to the digits, in a process in which Keras has no backend yet."""
    (_, code), (_, said) = blocks(page("keras.md"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digitless(said) in digitless(done.stdout)
