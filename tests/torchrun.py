"""Scripts in two processes on gloo, as torchrun starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
SECONDS = 240


def in_two_processes(script: Path, folder: Path, *arguments: str) -> list[Any]:
    """What each process of a script has left in FOLDER/RANK.json; the folder is its first argument.

    Raises:
        RuntimeError: One of them has failed; the message is what they printed.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(
        [*launcher, str(script), str(folder), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def leave(result: Any) -> None:
    """Write what a process has found, for the test that started it."""
    Path(sys.argv[1], f"{os.environ['RANK']}.json").write_text(json.dumps(result))
