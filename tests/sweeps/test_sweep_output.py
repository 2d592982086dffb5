"""A sweep as a table, and as plain data."""

import json
import math

import numpy as np
import pytest
from swept_losses import swept, toy

from gradguard import Sweep, sweep
from gradguard.testing import LSTM, Batch

CURVE_KEYS = {
    *("steps", "discrepancy", "floor", "excess", "noise", "truncation", "rounding", "ratio", "ratio_error"),
    *("scaled_discrepancy", "loss_unchanged", "step_rounded_away", "best"),
    *("best_step", "loss_unchanged_up_to", "explained"),
}
SWEEP_KEYS = {
    *("tensors", "explanation", "deterministic", "precision", "quantum", "loss", "evaluations", "seconds"),
}


def test_it_prints_as_a_table_with_the_best_step_marked(right: Sweep) -> None:
    """One row a step and one a tensor, aligned, and then what it means."""
    steps, tensors, says = str(right).split("\n\n")
    assert len({len(line) for line in steps.splitlines()}) == 1
    assert len(steps.splitlines()) == 1 + len(right.steps)
    assert [line.split()[1] for line in steps.splitlines() if line.startswith("best")] == [f"{right.best_step:g}"]
    assert [line.split()[0] for line in tensors.splitlines()] == ["tensor", "Wx", "Wh", "b", "V", "c"]
    assert says == right.explanation


def test_a_name_with_control_characters_is_printed_harmlessly() -> None:
    """A name cannot move the cursor of the terminal that a table is printed on."""
    x = {"W\x1b[31m\nx": np.ones(2, np.float32)}
    text = str(sweep(x, {name: -array for name, array in x.items()}, lambda: float(sum(v.sum() for v in x.values()))))
    assert "W\\x1b[31m\\nx" in text
    assert "\x1b" not in text


def test_it_is_plain_data(averaged: Sweep) -> None:
    """`to_dict` is strict JSON with all that the sweep found."""
    plain = json.loads(json.dumps(averaged.to_dict(), allow_nan=False))
    assert plain["steps"] == averaged.steps.tolist()
    assert plain["best_step"] == averaged.best_step
    assert plain["explained"] is False
    assert plain["explanation"] == averaged.explanation
    assert set(plain["tensors"]) == set(averaged.tensors)
    assert set(plain["tensors"]["Wx"]) == CURVE_KEYS
    assert set(plain) == CURVE_KEYS | SWEEP_KEYS
    assert all(len(plain[name]) == len(plain["steps"]) for name in ("discrepancy", "floor", "noise", "truncation"))
    assert plain["tensors"]["Wx"]["ratio"][averaged.best] == pytest.approx(39, abs=0.5)
    overflowed = toy(math.nan, lambda x: x.sum()).to_dict()
    assert overflowed["discrepancy"] == [None] * len(overflowed["steps"])


def test_no_bar_is_shown_where_nobody_looks(model: LSTM, batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by default nor into a file is there a progress bar."""
    swept(model, batch, entries=1)
    swept(model, batch, entries=1, progress=True)
    assert capsys.readouterr() == ("", "")
