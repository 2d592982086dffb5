import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.cli import main

QUESTION = """\
numeric,analytic
-0.015223,-0.000385
0.000000,0.000000
-0.058794,-0.001509
-0.000381,-9.238e-06
9.537e-05,2.473e-06
0.000215,6.266e-06
-0.015223,-0.000385
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The seven rows of the question, in a file."""
    path = tmp_path / "lstm.csv"
    path.write_text(QUESTION)
    return path


COLUMNS = "numerical:    backpropped:\n\n" + QUESTION.partition("\n")[2].replace(",", "     ")
MARKDOWN = "| n (numerical) | g (backprop) |\n|---|---|\n" + "".join(
    f"| {row.replace(',', ' | ')} |\n" for row in QUESTION.splitlines()[1:]
)
BARE = QUESTION.partition("\n")[2]


@pytest.mark.parametrize("content", [COLUMNS, MARKDOWN, BARE, COLUMNS.replace("6.266e-06", "6.266e-0.6")])
def test_the_question_in_any_layout_is_the_same_bug(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As columns, as a table of Markdown, without a header, and with its typo."""
    path = tmp_path / "lstm.txt"
    path.write_text(content)
    assert main(["diagnose", str(path), "--constant", "timesteps=39"]) == 1
    out = capsys.readouterr().out
    assert "lstm  BUG: scale  numerical = 39" in out
    assert ("6.266e-0.6' is not a number" in out) == ("e-0.6" in content)
    assert ("column 1 was read as numerical and column 2 as backprop" in out) == (content is BARE)


def test_notes_are_part_of_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was assumed and left out is there for programs, too."""
    path = tmp_path / "lstm.txt"
    path.write_text(COLUMNS.replace("6.266e-06", "6.266e-0.6"))
    main(["diagnose", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["notes"] == ["skipped line 8: '6.266e-0.6' is not a number"]


def run(*arguments: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """`gradguard diagnose` in a process of its own."""
    command = [sys.executable, "-m", "gradguard", "diagnose", *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def test_the_question_as_printed_is_a_bug_with_a_name(table: Path) -> None:
    """The factor is found and named, the tensor is called after the file, and the status says that there is a bug."""
    done = run(str(table), "--constant", "timesteps=39")
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"lstm  BUG: scale  numerical = 39" in done.stdout
    assert b"`timesteps`" in done.stdout


def test_a_right_gradient_ends_with_0(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What agrees is fine."""
    path = tmp_path / "right.csv"
    path.write_text("analytic,numeric\n" + "".join(f"{k / 7},{k / 7}\n" for k in range(1, 20)))
    assert main(["diagnose", str(path)]) == 0
    assert "No bug" in capsys.readouterr().out


def test_what_cannot_be_told_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Error bars as large as the numbers leave it open."""
    path = tmp_path / "noisy.csv"
    path.write_text("numeric,analytic,error\n1.1,1,2\n2.5,2,2\n0.9,1,2\n")
    assert main(["diagnose", str(path)]) == 2
    assert "inconclusive" in capsys.readouterr().out


def test_the_standard_input_is_read_as_a_file() -> None:
    """A dash stands for the standard input."""
    done = run("-", "--json", content=QUESTION.encode())
    assert (done.returncode, done.stderr) == (1, b"")
    report = json.loads(done.stdout)
    assert (report["tensors"]["all"]["verdict"], report["notes"]) == ("scale", [])


def test_json_is_strict_and_alone(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--json` the whole report comes as strict JSON, whatever the numbers are."""
    table.write_text("numeric,analytic\nnan,1\n2,inf\n")
    status = main(["diagnose", str(table), "--json"])

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert report["tensors"]["lstm"]["verdict"] == report["verdict"]
    assert status == {"nonfinite": 1, "inconclusive": 2}[report["verdict"]]


def test_error_bars_and_tensors_are_read_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are known by name, others are left alone, and each tensor has its own verdict."""
    path = tmp_path / "two.csv"
    rows = [f"{k},V,{k / 9},note,1e-6,{k / 9}" for k in range(1, 12)]
    rows += [f"{k},W,{k / 9},note,1e-6,{2 * k / 9}" for k in range(1, 12)]
    path.write_text("\n".join(["index, Tensor ,ANALYTIC,what,error,numeric", *rows]))
    assert main(["diagnose", str(path), "--json"]) == 1
    tensors = json.loads(capsys.readouterr().out)["tensors"]
    assert {name: tensor["verdict"] for name, tensor in tensors.items()} == {"V": "ok", "W": "scale"}
    assert tensors["W"]["ratio"] == pytest.approx(2, abs=1e-4)


def test_names_cannot_harm_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a tensor's name are shown as escapes; in JSON the name is what it was."""
    path = tmp_path / "evil.csv"
    path.write_text('numeric,analytic,tensor\n1,2,"\x1b[2Ja\nstep 0  W  ok"\n3,6,"\x1b[2Ja\nstep 0  W  ok"\n')
    main(["diagnose", str(path)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Ja\\nstep 0  W  ok" in out
    main(["diagnose", str(path), "--json"])
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
    assert list(json.loads(out)["tensors"]) == ["\x1b[2Ja\nstep 0  W  ok"]


def test_a_terminal_without_the_letters_of_a_name_is_no_obstacle(tmp_path: Path) -> None:
    """What the encoding of the output lacks is shown as an escape."""
    path = tmp_path / "table.csv"
    path.write_text("numeric,analytic,tensor\n1,1,層\n2,2,層\n", encoding="utf-8")
    command = [sys.executable, "-X", "utf8=0", "-m", "gradguard", "diagnose", str(path)]
    done = subprocess.run(command, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"\\u5c64" in done.stdout


@pytest.mark.parametrize(
    "constant", ["timesteps", "=3", "timesteps=", "timesteps=many", "timesteps=0", "t=-1", "t=nan"]
)
def test_a_constant_is_a_name_and_a_positive_number(constant: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else is an error of the command line."""
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", "-", "--constant", constant])
    assert ended.value.code == 2
    assert "expected NAME=VALUE with a positive number" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_traceback(table: Path) -> None:
    """Into a pipe that nobody reads the output ends quietly, with a status that is no verdict."""
    command = [sys.executable, "-m", "gradguard", "diagnose", str(table)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@given(st.lists(st.tuples(st.floats(), st.floats()), min_size=1, max_size=6))
@settings(max_examples=150)
def test_any_numbers_have_a_verdict(pairs: list[tuple[float, float]]) -> None:
    """Whatever stands in the columns, there is strict JSON and a status of 0, 1 or 2 that goes with it."""
    out = io.StringIO()
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file, contextlib.redirect_stdout(out):
        file.write("numeric,analytic\n" + "".join(f"{n!r},{g!r}\n" for n, g in pairs))
        file.flush()
        status = main(["diagnose", file.name, "--json"])
    verdict = json.loads(out.getvalue())["verdict"]
    assert status == {"ok": 0, "float_precision": 0, "inconclusive": 2, "kink": 2}.get(verdict, 1)
