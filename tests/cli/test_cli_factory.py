import os
import subprocess
import sys
from pathlib import Path

import pytest
from user_project import Run

from gradguard.cli import main


@pytest.mark.parametrize("command", ["check", "sweep"])
@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("missing:make", ["there is no module 'missing'", "looked in {folder}", "sys.path"]),
        ("package.missing:make", ["there is no module 'package.missing'"]),
        ("train:write", ["module 'train' ({folder}/train.py) has no 'write'", "it defines", "right"]),
        ("train:Models.wrong", ["has no 'Models.wrong'"]),
        ("empty:make", ["it defines no function"]),
        ("train:SIZE", ["'SIZE' in module 'train'", "is of type int"]),
        ("train:wants", ["train:wants takes (model, batch)", "no arguments"]),
        ("train:nothing", ["returned something of type NoneType", "expected (params, grads, loss)"]),
        ("train:pair", ["of type list of 2"]),
        ("train:misspelled", ["a mapping without grads", "perhaps constants, blocks, snapshot, reduction"]),
        ("train:unknown", ["a mapping with 'optimizer'"]),
        ("train:shapes", ["the gradient of 'V' has shape (1, 3)"]),
        ("train:array", ["no reduction was given"]),
        ("train", ["expected MODULE:FACTORY", "'train'"]),
        ("train:", ["expected MODULE:FACTORY"]),
        (".train:make", ["expected MODULE:FACTORY"]),
        ("train.py:make", ["such as train for train.py"]),
        ("./train:make", ["a module as `import` names it"]),
    ],
)
def test_a_factory_that_does_not_serve_is_told_in_a_line(
    command: str,
    factory: str,
    words: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line says what was given and what was expected, and where gradguard looked."""
    monkeypatch.chdir(folder)
    path = list(sys.path)
    assert main([command, factory]) == 2
    assert sys.path == path
    err = capsys.readouterr().err
    assert err.startswith(f"gradguard {command}: error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word.format(folder=folder) in err


@pytest.mark.parametrize(
    ("factory", "trace", "last"),
    [
        ("train:raises", ["in raises", "in broken_inside"], "train:raises raised RuntimeError: no data here"),
        ("train:quits", ["in quits"], "train:quits raised SystemExit: 0"),
        ("train:loss_raises", ["in loss", "KeyError: 'batch'"], "the loss, or what it needs, raised KeyError: 'batch'"),
        ("train:loss_quits", ["in quits"], "the loss, or what it needs, raised SystemExit: 0"),
        ("train:loss_is_exit", ["SystemExit"], "the loss, or what it needs, raised SystemExit"),
        (
            "imports_missing:make",
            ["import no_such_package_anywhere"],
            "importing 'imports_missing' raised ModuleNotFound",
        ),
        ("not_python:make", ["def make(:", "SyntaxError"], "importing 'not_python' raised SyntaxError"),
        ("exits:make", ["sys.exit('usage')"], "importing 'exits' raised SystemExit: usage"),
    ],
)
@pytest.mark.parametrize("command", ["check", "sweep"])
def test_what_the_users_own_code_raises_is_shown_as_it_was(
    command: str, factory: str, trace: list[str], last: str, run: Run
) -> None:
    """The traceback begins in the user's code, and the last line says whose fault it was."""
    done = run(command, factory)
    assert done.returncode == 2
    *shown, line = done.stderr.splitlines()
    assert line.startswith(f"gradguard {command}: error: {last}")
    for words in trace:
        assert words in "\n".join(shown)
    assert "gradguard/cli" not in done.stderr
    assert "importlib" not in done.stderr


def test_only_what_was_named_is_imported(run: Run, folder: Path) -> None:
    """Other modules of the working directory are left alone, also those named as one of gradguard's own needs."""
    trap = folder / "tensorboard.py"
    trap.write_text("raise RuntimeError('imported')\n")
    try:
        assert run("check", "train:right").returncode == 0
    finally:
        trap.unlink()


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
