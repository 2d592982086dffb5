import os
import subprocess
import sys
from pathlib import Path

import pytest
from user_project import TRAIN, Run

import gradguard


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with modules in it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "train.py").write_text(TRAIN)
    (folder / "imports_missing.py").write_text("import no_such_package_anywhere\n")
    (folder / "not_python.py").write_text("def make(:\n")
    (folder / "exits.py").write_text("import sys\nsys.exit('usage')\n")
    (folder / "empty.py").write_text("value = 1\n")
    (folder / "package").mkdir()
    (folder / "package" / "__init__.py").write_text("")
    (folder / "package" / "inner.py").write_text("from train import right\n")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Runs the command line in a process of its own, in that directory."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "gradguard", *arguments],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path(gradguard.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )

    return run
