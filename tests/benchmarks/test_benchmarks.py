"""The benchmarks run: each with its smallest settings, so that they keep up with the code."""

import importlib
import re
import sys

import pytest

HEADS = {
    "question": ("backward pass", "verdict"),
    "calibration": ("covered", "error: directions"),
    "null": ("alarms", "bugs"),
    "evaluations": ("evaluations", "overhead"),
    "growth": ("ms of the loss", "copies"),
    "batching": ("one by one, s", "gain"),
    "wall_time": ("of the loss", "correct", "no-dc-carry"),
    "share": ("first check, s", "share"),
    "writing": ("share of a check", "bytes a check"),
    "identical": ("running hash", "same"),
    "detection": ("caught", "missed"),
    "deep_null": ("bugs", "inconclusive"),
    "soak": ("alarms", "runs with a bug"),
    "false_alarms": ("nominal", "alarmed", "of real trainings"),
    "drift": ("told", "median", "alarms"),
    "ablation": ("false", "caught", "all rules"),
    "tab": ("sentence and strip", "charts"),
    "peers": ("false alarms", "named", "timesteps"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_benchmark_prints_its_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --quick it prints its heads, a rule and rows as wide."""
    importlib.import_module(name).main(["--quick"])
    printed = capsys.readouterr().out
    assert all(head in printed for head in HEADS[name])
    head, rule, *rows = printed.partition("\n\n")[0].splitlines()
    assert re.fullmatch("-+(  -+)+", rule)
    assert rows
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}


def test_the_guarded_trainings_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty steps end, bit for bit, where they end without a guard."""
    importlib.import_module("identical").main(["--quick"])
    assert capsys.readouterr().out.count(" yes") == 4


def test_no_fault_costs_more_than_it_must(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is changed, stopped or lost without a word, no bug is told, and no input crashes a reader."""
    importlib.import_module("faults").main(["--quick"])
    faults, inputs = capsys.readouterr().out.strip().split("\n\n")
    for row in faults.splitlines()[2:]:
        changed, stopped, _, _, _, lost, bugs = row.split()[-7:]
        assert (changed, stopped, lost, bugs) == ("0", "0", "0", "0"), row
    assert [row.split()[-1] for row in inputs.splitlines()[2:]] == ["0"] * 6


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own, of its compiler
def test_the_trainings_of_pytorch_are_the_same_under_guard(capsys: pytest.CaptureFixture[str]) -> None:
    """In each way that it trains, several processes included."""
    pytest.importorskip("torch")
    importlib.import_module("torch_identical").main(["--quick"])
    assert capsys.readouterr().out.count(" yes") == 7


def test_the_mistakes_made_with_pytorch_are_told_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """At the first check, from the start and where they set in; and of correct networks no bug is told."""
    pytest.importorskip("torch")
    importlib.import_module("torch_detection").main(["--quick"])
    correct, mistakes = capsys.readouterr().out.strip().split("\n\n")
    assert correct.splitlines()[-1].split()[-3:-1] == ["0", "0"]
    for row in mistakes.splitlines()[2:]:
        assert re.search(" native +1 +1 +8 of 8 +0 +scale +yes ", row), row


def test_what_a_guard_of_pytorch_costs_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """For both models, precisions and kinds of check."""
    pytest.importorskip("torch")
    importlib.import_module("torch_cost").main(["--quick"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["own", "times", "raw"]
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert len(rows) == 8


def test_what_vmap_gains_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """For each LSTM; PyTorch's own has no rule for it, and is called for each point."""
    pytest.importorskip("torch")
    importlib.import_module("torch_batching").main(["--quick"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "gain"
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert len(rows) == 12


def test_a_peer_that_is_not_installed_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says so, and the others are asked."""
    monkeypatch.setitem(sys.modules, "torch", None)
    importlib.import_module("peers").main(["--quick", "--checkers", "torch", "d"])
    printed = capsys.readouterr().out
    assert re.search("^torch gradcheck, defaults +not installed +$", printed, re.MULTILINE)
    assert re.search("^one global d.* 0 of 1 +1 of 1 +cannot +cannot +500$", printed, re.MULTILINE)
    assert "torch is not installed: pip install torch" in printed
