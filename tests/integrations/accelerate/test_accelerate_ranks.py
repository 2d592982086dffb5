"""The guard in two processes."""

from pathlib import Path

import pytest

pytest.importorskip("accelerate")

from busy_network import WRONG
from torchrun import in_two_processes

SCRIPT = Path(__file__).with_name("loop_in_processes.py")


def test_two_processes_check_together(tmp_path: Path) -> None:
    """The training is the same on both, bit for bit, and the fault is named."""
    for rank in in_two_processes(SCRIPT, tmp_path):
        assert rank["same"] == [True] * len(rank["same"])
        (first, found), (last, left) = rank["rows"]
        assert (first, last) == (0, 3)
        assert found  # both, unless a busy machine ends the first check after its ten seconds
        assert set(found) <= set(left) == WRONG
        assert "`timesteps`" in rank["said"]
