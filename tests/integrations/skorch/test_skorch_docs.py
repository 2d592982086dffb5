"""What docs/skorch.md shows is true."""

from pathlib import Path

import pytest
from doc_pages import digitless, outputs

pytest.importorskip("skorch")


def test_the_example_says_what_the_page_says(tmp_path: Path) -> None:
    """Up to the digits."""
    ((printed, said),) = outputs("skorch.md", tmp_path)
    assert said
    assert digitless(said) in digitless(printed)
