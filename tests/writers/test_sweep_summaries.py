import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard_runs import Series, read_run

from gradguard import Report, Sweep, sweep
from gradguard.writers import TensorBoardWriter

TABLE = "gradguard.sweep/table"
CURVE = "gradguard.sweep/curve"


@pytest.fixture
def swept() -> Sweep:
    """A sweep with a name that is markup."""
    x = {"a|b*<i>": np.ones(3, np.float32)}
    return sweep(x, x, lambda: np.float32(x["a|b*<i>"].sum()))


def write(logdir: Path, *sweeps: tuple[Sweep, int | None]) -> Series:
    """What TensorBoard reads of some sweeps."""
    writer = TensorBoardWriter(logdir)
    for swept, step in sweeps:
        writer.write_sweep(swept, step)
    writer.close()
    return read_run(logdir)


def test_a_sweep_is_a_table_and_what_it_says(swept: Sweep, tmp_path: Path) -> None:
    """The text holds the explanation and a row for each step and tensor, and no name in it is markup."""
    ((step, value),) = write(tmp_path, (swept, None))[TABLE]
    text = value.item().decode()
    assert step == 0
    assert "The best step is" in text
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 1 + 2 + len(swept.steps)
    assert "a&#124;b&#42;&#60;i&#62;" in text
    assert "<i>" not in text


def test_the_best_step_is_a_scalar_of_the_training_step(swept: Sweep, tmp_path: Path) -> None:
    """What can be a curve over training steps is one; a curve over step sizes is none."""
    run = write(tmp_path, (swept, 100), (swept, 200))
    for name, value in (
        ("best_step", swept.best_step),
        ("discrepancy", swept.discrepancy[swept.best]),
        ("floor", swept.floor[swept.best]),
    ):
        assert [step for step, _ in run[f"gradguard.sweep/{name}"]] == [100, 200]
        assert run[f"gradguard.sweep/{name}"][0][1].item() == pytest.approx(value)


def test_the_curves_are_a_picture_where_matplotlib_is_installed(swept: Sweep, tmp_path: Path) -> None:
    """The picture is a PNG with its size, as TensorBoard's image plugin wants it."""
    pytest.importorskip("matplotlib")
    ((_, (width, height, content)),) = write(tmp_path, (swept, None))[CURVE]
    assert content.startswith(b"\x89PNG")
    assert content[16:24] == int(width).to_bytes(4, "big") + int(height).to_bytes(4, "big")


def test_a_sweep_of_nothing_but_nan_can_be_written(tmp_path: Path) -> None:
    """What is not finite is no scalar, and the text is there."""
    x = {"x": np.ones(2)}
    swept = sweep(x, {"x": np.full(2, math.nan)}, lambda: 1.0)
    run = write(tmp_path, (swept, None))
    assert "gradguard.sweep/discrepancy" not in run
    assert TABLE in run


def test_sweeps_and_reports_share_the_order_of_steps(swept: Sweep, make_report: Any, tmp_path: Path) -> None:
    """A sweep belongs to the step of the report before it, and neither may go back."""
    report: Report = make_report(7)
    writer = TensorBoardWriter(tmp_path)
    writer.write(report)
    writer.write_sweep(swept)
    with pytest.raises(ValueError, match="expected a step of at least 7"):
        writer.write_sweep(swept, 6)
    writer.write_sweep(swept, 9)
    with pytest.raises(ValueError, match="expected a step of at least 9"):
        writer.write(report)
    writer.close()
    assert [step for step, _ in read_run(tmp_path)[TABLE]] == [7, 9]
