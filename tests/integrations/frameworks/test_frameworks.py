"""What the frameworks on PyTorch have in common: a page whose example runs, and trainings in two processes."""

from pathlib import Path

import pytest
from doc_pages import digitless, outputs

pytest.importorskip("torch")

from busy_network import WRONG
from torchrun import in_two_processes

INTEGRATIONS = Path(__file__).parent.parent


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("name", ["accelerate", "lightning", "skorch", "transformers"])
def test_the_example_says_what_the_page_says(name: str, tmp_path: Path) -> None:
    """Up to the digits."""
    pytest.importorskip(name)
    ((printed, said),) = outputs(f"{name}.md", tmp_path)
    assert said
    assert digitless(said) in digitless(printed)


@pytest.mark.parametrize(
    ("name", "script", "prefix"),
    [
        ("accelerate", "loop_in_processes.py", ""),
        ("lightning", "ddp_training.py", "network."),
        ("transformers", "trainer_in_processes.py", "network."),
    ],
)
def test_two_processes_check_together(name: str, script: str, prefix: str, tmp_path: Path) -> None:
    """The training is the same on both, bit for bit, and the fault is named."""
    pytest.importorskip(name)
    for rank in in_two_processes(INTEGRATIONS / name / script, tmp_path):
        assert rank["same"] == [True] * len(rank["same"])
        (first, found), (last, left) = rank["rows"]
        assert (first, last) == (0, 3)
        assert found  # both, unless a busy machine ends the first check after its ten seconds
        assert set(found) <= set(left) == {prefix + name for name in WRONG}
        assert "`timesteps`" in rank["said"]
