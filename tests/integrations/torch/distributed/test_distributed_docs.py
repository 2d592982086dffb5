"""What docs/distributed.md shows is true: its programs run under torchrun as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import blocks, digitless, page, python_of

pytest.importorskip("torch")

BLOCKS = blocks(page("distributed.md"))
PROGRAMS = python_of(BLOCKS)


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
        assert digitless(done.stdout).startswith(digitless(text))


def test_the_programs_are_found() -> None:
    """The expression above finds them."""
    assert len(PROGRAMS) == 2
