import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import gradguard
from gradguard.cli import main

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]

TRAIN = """
import sys

import numpy as np
from gradguard import gates, snapshot_rng
from gradguard.testing import LSTM, faulty, random_batch

SIZE = 3
FIRST = np.random.default_rng(0).random()


def made(network=LSTM):
    model, batch = network(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
    return model, batch, model.loss_and_grads(batch)[1]


def right():
    print("loading")
    model, batch, grads = made()
    return model.params, grads, lambda: model.loss(batch)


def wrong():
    model, batch, grads = made(faulty("timesteps"))
    loss = lambda: model.loss(batch)
    return {"params": model.params, "grads": grads, "loss": loss, "constants": {"timesteps": 4}}


def unclear():
    x = {"x": np.zeros(4)}
    return x, {"x": np.ones(4)}, lambda: float(np.abs(x["x"]).sum())


def everything():
    model, batch, grads = made()
    rng = np.random.default_rng(0)
    grads["b"][2:4] *= np.float32(0.5)

    def losses(params):
        return model.losses(batch, params) * (1 + 0.01 * rng.random())

    return dict(
        params=model.params,
        grads={name: grad * np.float32(1 + 0.01 * FIRST) for name, grad in grads.items()},
        loss=losses,
        reduction="mean",
        blocks={"b": gates("ifog", axis=0)},
        snapshot=snapshot_rng(rng),
    )


class Models:
    @staticmethod
    def right():
        return right()


def raises():
    return broken_inside()


def broken_inside():
    raise RuntimeError("no data\\nhere")


def quits():
    raise SystemExit(0)


def loss_raises():
    params, grads, _ = right()
    calls = []

    def loss():
        calls.append(1)
        if len(calls) > 30:
            raise KeyError("batch")
        return float(params["b"].sum())

    return params, grads, loss


def loss_quits():
    params, grads, _ = right()
    return params, grads, quits


def loss_is_exit():
    params, grads, _ = right()
    return params, grads, sys.exit


def wants(model, batch):
    return right()


def nothing():
    pass


def pair():
    return [1, 2]


def misspelled():
    return {"params": {}, "gradients": {}, "loss": None}


def unknown():
    params, grads, loss = right()
    return {"params": params, "grads": grads, "loss": loss, "optimizer": None}


def shapes():
    params, grads, loss = right()
    return params, grads | {"V": grads["V"][:1]}, loss


def array():
    model, batch, grads = made()
    return model.params, grads, lambda: model.losses(batch)
"""


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


@pytest.mark.parametrize(
    ("factory", "status", "words"),
    [
        ("train:right", 0, "No bug: float precision explains every difference"),
        ("train:wrong", 1, "4 is `timesteps`"),
        ("train:unclear", 2, "This check cannot tell"),
        ("train:Models.right", 0, "No bug"),
        ("package.inner:right", 0, "No bug"),
    ],
)
def test_a_check_prints_its_report_and_ends_with_its_verdict(factory: str, status: int, words: str, run: Run) -> None:
    """0 is fine, 1 a bug, 2 that it cannot be told."""
    done = run("check", factory)
    assert (done.returncode, done.stderr) == (status, "")
    assert words in done.stdout


def test_a_check_takes_all_that_a_factory_may_return(run: Run) -> None:
    """Reduction, blocks and snapshot of the mapping reach the check."""
    done = run("check", "train:everything", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert set(report["tensors"]["b"]["blocks"]) == set("ifog")
    assert report["tensors"]["b"]["verdict"] == "structure"
    assert "wrong on f" in report["tensors"]["b"]["explanation"]
    assert {name for name, tensor in report["tensors"].items() if tensor["verdict"] == "ok"} == {"Wx", "Wh", "V", "c"}


def test_options_reach_the_check(run: Run) -> None:
    """Precision, entries and reduction on the command line are those of the check."""
    done = run("check", "train:array", "--reduction", "mean", "--precision", "native", "--entries", "2", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert report["precision"] == "native"
    assert all(tensor["sampled"] <= 2 for tensor in report["tensors"].values())


def test_json_is_all_that_is_printed(run: Run) -> None:
    """What the user's own code prints goes to the standard error stream, and a constant has its name."""
    done = run("check", "train:right", "--json")
    assert (done.returncode, done.stderr) == (0, "loading\n")
    assert json.loads(done.stdout)["verdict"] == "ok"
    done = run("sweep", "train:wrong", "--json", "--steps", "1e-4,1e-3,1e-2", "--constant", "T=4", "--entries", "3")
    assert (done.returncode, done.stderr) == (0, "")
    swept = json.loads(done.stdout)
    assert swept["steps"] == [1e-4, 1e-3, 1e-2]
    assert "`timesteps` or `T`" in swept["explanation"]


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


def test_a_sweep_prints_its_table_and_what_it_means(run: Run) -> None:
    """The table, the tensors, the words; the status says that it was swept, whatever came of it."""
    done = run("sweep", "train:wrong", "--entries", "4")
    assert (done.returncode, done.stderr) == (0, "")
    steps, tensors, says = done.stdout.split("\n\n")
    assert "best" in steps
    assert tensors.startswith("tensor")
    assert "(`timesteps`) at every step" in says


def test_a_sweep_is_drawn_and_logged(run: Run, folder: Path) -> None:
    """`--plot` writes the picture and `--logdir` an event file, and both are told."""
    pytest.importorskip("matplotlib")
    done = run("sweep", "train:right", "--steps", "1e-3,1e-2", "--plot", "sweep.png", "--logdir", "runs/sweep")
    assert (done.returncode, done.stderr) == (0, "")
    assert struct.unpack(">II", (folder / "sweep.png").read_bytes()[16:24]) > (500, 300)
    assert len(list((folder / "runs" / "sweep").glob("events.out.tfevents.*"))) == 1
    assert "The curves: sweep.png" in done.stdout
    assert "tensorboard --logdir runs/sweep" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "sweep.gif"], "ends in .png or .svg"),
        (["--plot", "missing/sweep.png"], "there is no folder 'missing'"),
        (["--logdir", "train.py"], "cannot log into 'train.py'"),
    ],
)
def test_where_a_sweep_cannot_be_kept_is_told_before_it_is_made(
    options: list[str], words: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody waits for a sweep whose picture or log cannot be written: the factory is not even called."""
    monkeypatch.chdir(folder)
    assert main(["sweep", "train:raises", *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check"], "MODULE:FACTORY"),
        (["check", "a:b", "--precision", "half"], "'half'"),
        (["check", "a:b", "--reduction", "max"], "'max'"),
        (["check", "a:b", "--entries", "0"], "at least 1"),
        (["check", "a:b", "--seed", "-1"], "at least 0"),
        (["sweep", "a:b", "--steps", "1e-3"], "two positive numbers or more"),
        (["sweep", "a:b", "--steps", "1e-3,small"], "two positive numbers or more"),
        (["sweep", "a:b", "--steps", "1e-3,-1"], "two positive numbers or more"),
    ],
)
def test_a_wrong_option_is_told_in_a_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line ends with status 2 and says what is allowed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["check", "sweep", "diagnose"])
def test_help_tells_the_exit_statuses_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each help page says what the status means, and ends with a command to paste."""
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit status:\n  0 " in out
    assert f"example:\n  gradguard {command} " in out
