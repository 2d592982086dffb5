"""What docs/torch.md shows is true: its blocks run as they stand."""

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("torch")

PAGE = (Path(__file__).parents[3] / "docs" / "torch.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
PYTHON = [number for number, (language, _) in enumerate(BLOCKS) if language == "python"]
NUMBER = re.compile(r"\d[\d.]*(e-?\d+)?(\(\d+\))?")


@pytest.mark.parametrize("number", PYTHON)
def test_an_example_runs_and_says_what_the_page_says(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each on its own; where a block of text follows, it begins by printing that, up to the digits."""
    example = tmp_path / "example.py"
    example.write_text(BLOCKS[number][1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    language, said = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else ("", "")
    if language == "text":
        assert NUMBER.sub("#", capsys.readouterr().out).startswith(NUMBER.sub("#", said))


def test_the_examples_are_found() -> None:
    """The expression above finds them."""
    assert len(PYTHON) == 3
