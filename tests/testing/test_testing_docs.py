"""What docs/testing.md shows is true: its test and its training run, and its job ends on the status of their runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import blocks, page, python_of

BLOCKS = blocks(page("testing.md"))
TEST, TRAINING = (BLOCKS[place][1] for place in python_of(BLOCKS))
RIGHT, WRONG = 'grads = {"w": x.T @', 'grads = {"w": -x.T @'


def commands() -> list[list[str]]:
    """What the job of the page runs once everything is installed."""
    (job,) = (text for language, text in BLOCKS if language == "yaml")
    return [line.split() for line in re.findall(r"- run: (.*)", job) if not line.startswith("pip")]


@pytest.mark.parametrize(
    ("test", "training", "statuses"),
    [(TEST, TRAINING, [0, 0, 0]), (TEST.replace(RIGHT, WRONG), TRAINING.replace(RIGHT, WRONG), [1, 0, 1])],
    ids=["right", "wrong"],
)
def test_the_job_ends_on_the_status_of_the_gradients(
    test: str, training: str, statuses: list[int], tmp_path: Path
) -> None:
    """Each command of the page as it stands, with a right gradient and with one of the wrong sign."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_mine.py").write_text(test)
    (tmp_path / "train.py").write_text(training)
    found = []
    for program, *arguments in commands():
        start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        done = subprocess.run([*start, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        found.append(done.returncode)
    assert found == statuses
    assert (tmp_path / "report.html").is_file()
