"""What docs/distributed.md shows is true: its programs run under torchrun as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

PAGE = (Path(__file__).parents[3] / "docs" / "distributed.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
PROGRAMS = [number for number, (language, _) in enumerate(BLOCKS) if language == "python"]
NUMBER = re.compile(r"\d[\d.]*(e-?\d+)?(\(\d+\))?")


@pytest.mark.parametrize("number", PROGRAMS)
def test_a_program_runs_and_says_what_the_page_says(number: int, tmp_path: Path) -> None:
    """On two ranks; where the page shows what it prints, it begins with that, up to the digits."""
    (tmp_path / "train.py").write_text(BLOCKS[number][1], encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = [text for language, text in BLOCKS[number + 1 : number + 3] if language == "text"]
    for text in shown:
        assert NUMBER.sub("#", done.stdout).startswith(NUMBER.sub("#", text))


def test_the_programs_are_found() -> None:
    """The expression above finds them."""
    assert len(PROGRAMS) == 2
