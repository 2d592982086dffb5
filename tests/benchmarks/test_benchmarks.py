"""Every benchmark runs, with its smallest settings, so that a change of gradguard cannot break one unnoticed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import run
from benchmarks.catalog import benchmarks
from benchmarks.promises.mutations import mutants_of

FOLDER = Path(__file__).parent
SHOWN = {
    "motivating_example": ("backward pass", "verdict"),
    "calibration": ("covered", "error: directions"),
    "correct_trainings": ("alarms", "bugs"),
    "evaluations": ("evaluations", "overhead"),
    "time_until_known": ("ms a loss", "told, s", "transposed"),
    "growth": ("ms of the loss", "copies"),
    "batching": ("one by one, s", "gain"),
    "wall_time": ("of the loss", "correct", "no-dc-carry"),
    "overhead": ("first check, s", "own", "share"),
    "writing": ("share of a check", "bytes a check"),
    "identical": ("running hash", "same"),
    "detection": ("caught", "missed"),
    "one_wrong_tensor": ("from step", "right kind", "blamed"),
    "kinked_networks": ("raw alarms", "told", "max-pool"),
    "screens": ("lasts", "evidence", "level"),
    "random_networks": ("bugs", "inconclusive"),
    "random_trainings": ("alarms", "runs with a bug"),
    "false_alarm_bound": ("nominal", "alarmed", "of real trainings"),
    "detection_delay": ("reported", "median", "alarms"),
    "ablation": ("false", "caught", "all rules"),
    "jax_functions": ("innocents", "check_grads"),
    "tab": ("sentence and strip", "charts"),
    "causes": ("weight decay in the gradient", "named wrongly", "alarms on right gradients"),
    "hand_written": ("trace, float32", "(none)", "0 of 0, 0", "not in a function"),
    "peers": ("false alarms", "named", "timesteps"),
}
OF_PYTORCH = {"torch_identical", "torch_detection", "torch_cost", "torch_batching", "torch_functions"}
NEEDS = {"jax_functions": "jax"}
WITH_A_TEST_OF_ITS_OWN = {"faults", "mutants", "compilations", "frameworks"} | OF_PYTORCH


def test_the_list_names_every_benchmark_with_a_sentence_and_a_time(tmp_path: Path) -> None:
    """Every module with a `main` is listed, from whatever folder the command is run in."""
    command = [sys.executable, str(FOLDER), "list"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    modules = [path.stem for path in FOLDER.glob("*/**/*.py") if "\ndef main(" in path.read_text(encoding="utf-8")]
    assert len(modules) > 20
    for name in modules:
        assert re.search(rf"^  {name} +about \d\S*( to \d+)? (s|min|h) +[A-Z].*[.?]$", listed, re.MULTILINE), name


def test_an_unknown_name_is_an_error_that_suggests_a_similar_one(tmp_path: Path) -> None:
    """The message names the benchmark that was probably meant, and the command that lists them all."""
    command = [sys.executable, str(FOLDER), "detectoin", "--quick"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "'detectoin'. Did you mean detection? To see them all: python tests/benchmarks list" in failed.stderr


def test_the_command_runs_a_benchmark_in_several_processes(tmp_path: Path) -> None:
    """The processes find the work, from whatever folder the command is run in."""
    command = [sys.executable, str(FOLDER), "correct_trainings", "--quick", "--processes", "2"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert re.search("^all +3 ", printed, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(benchmarks().keys() - WITH_A_TEST_OF_ITS_OWN))
def test_a_benchmark_prints_its_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With --quick it prints its column heads, a rule, and rows of the same width."""
    pytest.importorskip(NEEDS.get(name, "numpy"))
    run(name, ["--quick"])
    printed = capsys.readouterr().out
    assert all(head in printed for head in SHOWN.get(name, ()))
    head, rule, *rows = printed.partition("\n\n")[0].splitlines()
    assert re.fullmatch("-+(  -+)+", rule)
    assert rows
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}


def test_the_guarded_trainings_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty steps end, bit for bit, as they do without a guard."""
    run("identical", ["--quick"])
    assert capsys.readouterr().out.count(" yes") == 4


def test_no_fault_changes_or_stops_a_training_or_loses_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is changed, stopped or lost without a warning, no bug is reported, and no input crashes a reader."""
    run("faults", ["--quick"])
    faults, inputs = capsys.readouterr().out.strip().split("\n\n")
    for row in faults.splitlines()[2:]:
        changed, stopped, _, _, _, lost, bugs = row.split()[-7:]
        assert (changed, stopped, lost, bugs) == ("0", "0", "0", "0"), row
    assert [row.split()[-1] for row in inputs.splitlines()[2:]] == ["0"] * 6


def test_a_mutant_is_noticed_by_the_tests_of_its_module(capsys: pytest.CaptureFixture[str]) -> None:
    """The tests run with the fault, not with the module as it is."""
    run("mutants", ["--modules", "perturbation/journal", "--each", "2", "--processes", "1"])
    head, rule, journal, total = capsys.readouterr().out.splitlines()
    assert {len(head)} == {len(row) for row in (journal, total)} == {len(rule)}
    assert journal.split() == ["gradguard/perturbation/journal.py", "2", "2", "0", "0", "100"]


def test_mutants_differ_from_the_module_in_one_place() -> None:
    """Each is drawn once; annotations and assertions stay as they are."""
    source = "def f(a: int = 1) -> bool:\n    assert a is not None\n    return not a < 2 or g(a)\n"
    mutants = mutants_of(source, 100, "seed")
    assert {(mutant.line, mutant.before, mutant.after) for mutant in mutants} == {
        (1, "1", "2"),
        (3, "not a < 2 or g(a)", "None"),
        (3, "not a < 2 or g(a)", "not a < 2 and g(a)"),
        (3, "not a < 2", "a < 2"),
        (3, "a < 2", "a <= 2"),
        (3, "a < 2", "a >= 2"),
        (3, "2", "3"),
    }
    assert len({mutant.source for mutant in mutants}) == len(mutants) == 7
    assert mutants_of(source, 3, "seed") == mutants_of(source, 3, "seed")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # PyTorch's own, of its compiler
def test_the_trainings_of_pytorch_are_the_same_under_guard(capsys: pytest.CaptureFixture[str]) -> None:
    """In each way of training, including those with several processes."""
    pytest.importorskip("torch")
    run("torch_identical", ["--quick"])
    assert capsys.readouterr().out.count(" yes") == 7


def test_the_usual_mistakes_with_pytorch_are_reported_with_their_cause(capsys: pytest.CaptureFixture[str]) -> None:
    """At the first check with the mistake, from the first step or later; correct networks have no bug."""
    pytest.importorskip("torch")
    run("torch_detection", ["--quick"])
    correct, mistakes = capsys.readouterr().out.strip().split("\n\n")
    assert correct.splitlines()[-1].split()[-3:-1] == ["0", "0"]
    for row in mistakes.splitlines()[2:]:
        assert re.search(" native +1 +1 +8 of 8 +0 +scale +yes ", row), row


def test_the_wrong_functions_of_pytorch_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With their wrong inputs, and no Function that is right is blamed."""
    pytest.importorskip("torch")
    run("torch_functions", ["--quick"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert rows[-1].split()[:8] == ["all", "2", "of", "2", "2", "of", "2", "0"]


def test_what_a_guard_of_pytorch_costs_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """For both models, precisions and kinds of check."""
    pytest.importorskip("torch")
    run("torch_cost", ["--quick"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-3:] == ["own", "times", "raw"]
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert len(rows) == 8


def test_what_vmap_gains_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """For each LSTM, batch size, precision and gradient."""
    pytest.importorskip("torch")
    run("torch_batching", ["--quick"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "gain"
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert len(rows) == 12


def test_what_a_guard_costs_and_tells_in_a_framework_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are the same; what the first check tells depends on the time that it has."""
    pytest.importorskip("torch")
    pytest.importorskip("optax")
    run("frameworks", ["--quick", "--frameworks", "PyTorch", "JAX"])
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert {len(head)} == {len(row) for row in rows} == {len(rule)}
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [("PyTorch", "yes"), ("JAX", "yes")]


def test_the_compilations_of_a_jitted_loss_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Padded calls compile a few times at the first check; the second row is theirs.

    Two sizes, and a third where a busy machine hides at first that the loss compiles.
    """
    pytest.importorskip("jax")
    run("compilations", ["--quick"])
    _head, _rule, _as_asked, padded = capsys.readouterr().out.splitlines()
    assert padded.split()[3] == "padded"
    assert 1 < int(padded.split()[4]) <= 4


def test_a_peer_that_is_not_installed_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row says so, and the other checkers run."""
    monkeypatch.setitem(sys.modules, "torch", None)
    run("peers", ["--quick", "--checkers", "torch", "d"])
    printed = capsys.readouterr().out
    assert re.search("^torch gradcheck, defaults +not installed +$", printed, re.MULTILINE)
    assert re.search("^one global d.* 0 of 1 +1 of 1 +cannot +cannot +500$", printed, re.MULTILINE)
    assert "torch is not installed: pip install torch" in printed
