import struct
from pathlib import Path

import pytest
from user_project import Run

from gradguard.cli import main


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
