import json
import logging
from pathlib import Path

import numpy as np
import pytest
from reports import MakeReport, MakeTensor

from gradguard import Alert, Verdict, sweep
from gradguard.cli import main
from gradguard.cli.commands.report import worst_status
from gradguard.writers import JSONLWriter, TensorBoardWriter


@pytest.fixture
def runs(tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor) -> Path:
    """A run that moves at step 200, one that is fine, one that cannot be told."""
    wrong = make_tensor(
        "W</script><b>", verdict=Verdict.scale, cause="divides by T", explanation="numerical = 39 x backprop"
    )
    alert = Alert(200, logging.ERROR, wrong.name, Verdict.scale, "step 200: BUG")
    with_bug = TensorBoardWriter(tmp_path / "bug")
    for step in (0, 100):
        with_bug.write(make_report(step, make_tensor(wrong.name)))
    with_bug.write(make_report(200, wrong, verdict=Verdict.scale, alerts=(alert,)))
    with_bug.close()
    JSONLWriter(tmp_path / "fine" / "log.jsonl").write(make_report(0))
    unclear = make_report(0, make_tensor("W", verdict=Verdict.inconclusive), verdict=Verdict.inconclusive)
    JSONLWriter(tmp_path / "unclear" / "log.jsonl").write(unclear)
    return tmp_path


@pytest.mark.parametrize(("run", "status"), [("bug", 1), ("fine", 0), ("unclear", 2), (".", 1)])
def test_the_exit_status_is_the_verdict(run: str, status: int, runs: Path) -> None:
    """A job of continuous integration can end on it."""
    assert main(["report", str(runs / run)]) == status


def test_the_story_says_when_and_what_and_what_to_do(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines that a person reads."""
    assert main(["report", str(runs / "bug")]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "run  tensor         BUG    from step  right again at",
        "bug  W</script><b>  scale  200",
        "",
        "bug: BUG: scale in W</script><b>, since step 200.",
        "  numerical = 39 x backprop",
        "  -> divides by T",
        f"  -> {Verdict.scale.advice}",
        "  step 0    fine        W</script><b>",
        "  step 200  BUG: scale  W</script><b>",
        "  3 checks, steps 0 to 200; the checks after the first took 0.8 % of the time",
    ]


def test_the_wrong_tensors_of_all_runs_come_first(
    tmp_path: Path,
    make_report: MakeReport,
    make_tensor: MakeTensor,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table with a row a tensor, of many runs and tensors; a run in the folder itself has the folder's name."""
    names = [f"W{number}" for number in range(25)]
    for verdict, step in ((Verdict.missing, 0), (Verdict.ok, 100)):
        tensors = [make_tensor(name, verdict=verdict) for name in names]
        JSONLWriter(tmp_path / "log.jsonl").write(make_report(step, *tensors, verdict=verdict))
    wrong = make_tensor("b", verdict=Verdict.sign)
    JSONLWriter(tmp_path / "lstm" / "log.jsonl").write(make_report(300, wrong, verdict=Verdict.sign))
    monkeypatch.chdir(tmp_path)
    assert main(["report", "."]) == 1
    table, first, second = capsys.readouterr().out.split("\n\n")
    rows = [line.split() for line in table.splitlines()]
    assert rows[1] == [tmp_path.name, "W0", "missing", "0", "100"]
    assert rows[-1] == ["and", "6", "more", "tensors"]
    assert first.startswith(f"{tmp_path.name}: No bug at the last check, but at an earlier one: missing in W0, ")
    assert second.startswith("lstm: BUG: sign in b, ")


def test_what_was_not_looked_at_is_not_called_right(
    tmp_path: Path, make_report: MakeReport, make_tensor: MakeTensor, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many tensors, which, and how to change it; the exit status says that it cannot be told."""
    path = tmp_path / "log.jsonl"
    names = [f"lstm.{i}" for i in range(9)]
    for step in (0, 100, 200, 300):
        late = [make_tensor(name, measured_at=0, screened_at=step if name == "lstm.0" else None) for name in names]
        JSONLWriter(path).write(make_report(step, *late, screened=1))
    assert main(["report", str(path)]) == 2
    headline, advice, *_ = capsys.readouterr().out.splitlines()
    assert headline == (
        "log.jsonl: Cannot tell: 8 of 9 tensors were not checked in the last 3 checks (lstm.1, lstm.2, lstm.3, "
        "lstm.4, lstm.5 and 3 more)."
    )
    assert "-> raise max_overhead" in advice
    assert main(["report", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["runs"]["log.jsonl"]["unseen"] == names[1:]


def test_the_json_holds_every_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for programs."""
    assert main(["report", str(runs), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == 1
    assert {name: run["state"] for name, run in told["runs"].items()} == {
        "bug": "bug",
        "fine": "fine",
        "unclear": "unclear",
    }
    assert told["runs"]["bug"]["findings"][0]["since"] == 200


def test_the_page_is_one_file_that_no_name_breaks_out_of(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All data is in it, and no element is ended by a name."""
    path = runs / "report.html"
    assert main(["report", str(runs), "--html", str(path)]) == 1
    assert f"Page written to {path}" in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert "W</script>" not in page
    assert r"W\u003c/script>\u003cb>" in page
    assert 'src="' not in page.partition("<script>")[0]
    assert "<link" not in page.partition("<script>")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{runs}/missing"], "there is no "),
        (["{runs}/empty"], "holds no log of gradguard"),
        (["{runs}", "--html", "{runs}/missing/report.html"], "cannot write "),
    ],
)
def test_what_cannot_be_done_is_told_in_a_line(
    arguments: list[str], words: str, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is then 2: nothing was told."""
    (runs / "empty").mkdir()
    assert main(["report", *(argument.format(runs=runs) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("gradguard report: error: ")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("statuses", "status"), [([0, 0], 0), ([0, 2], 2), ([2, 1, 0], 1)])
def test_the_gravest_of_several_runs_counts(statuses: list[int], status: int) -> None:
    """A bug in one is a bug, and one that cannot be told leaves all untold."""
    assert worst_status(statuses) == status


def test_a_sweep_by_itself_has_no_story(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep beside a run changes nothing of the run's status; alone it is not a log of checks."""
    x = {"x": np.ones(3, np.float32)}
    writer = TensorBoardWriter(runs / "fine" / "sweep")
    writer.write_sweep(sweep(x, x, lambda: np.float32(x["x"].sum()), steps=[1e-3, 1e-2]))
    writer.close()
    assert main(["report", str(runs / "fine")]) == 0
    assert main(["report", str(runs / "fine" / "sweep")]) == 2
    assert "holds no log" in capsys.readouterr().err


def test_help_tells_the_exit_statuses_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """As the other commands' help does."""
    with pytest.raises(SystemExit) as ended:
        main(["report", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit status:\n  0 " in out
    assert "example:\n  gradguard report runs" in out
