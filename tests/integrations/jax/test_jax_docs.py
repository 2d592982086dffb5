"""What docs/jax.md shows is true: its blocks run as they stand."""

import runpy
from pathlib import Path

import pytest
from doc_pages import blocks, digitless, page, python_of

pytest.importorskip("jax")
pytest.importorskip("optax")

BLOCKS = blocks(page("jax.md"))
PYTHON = python_of(BLOCKS)


@pytest.mark.parametrize("number", PYTHON)
def test_an_example_runs_and_says_what_the_page_says(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each on its own; it begins by printing the block of text that follows, up to the digits."""
    example = tmp_path / "example.py"
    example.write_text(BLOCKS[number][1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert digitless(capsys.readouterr().out).startswith(digitless(BLOCKS[number + 1][1]))


def test_the_examples_are_found() -> None:
    """The expression above finds them."""
    assert len(PYTHON) == 3
