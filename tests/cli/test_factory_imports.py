import os
import subprocess
import sys
from pathlib import Path


def test_a_factory_is_all_that_is_imported_from_the_working_directory(tmp_path: Path) -> None:
    """Files beside it that are called like what gradguard or Python need are not run."""
    (tmp_path / "train.py").write_text(
        "import numpy as np\nw = {'w': np.ones(2)}\n"
        "def make():\n    return w, {'w': np.cos(w['w'])}, lambda: np.sin(w['w']).sum()\n"
    )
    for name in (
        "tensorboard",
        "matplotlib",
        "tqdm",
        "json",
        "random",
        "gradguard",
        "numpy",
        "csv",
        "torch",
        "encodings",
    ):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [Path(sys.executable).with_name("gradguard"), "check", "train:make"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "was imported" not in done.stdout + done.stderr
