import contextlib
import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.cli import main
from gradguard.cli.columns import Columns, parse, read_columns
from gradguard.cli.output import Failure

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
SPELLINGS = ("numeric", "analytic", "tensor", "error", "other")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The seven rows of the question, in a file."""
    path = tmp_path / "lstm.csv"
    path.write_text(QUESTION)
    return path


def run(*arguments: str, content: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    """`gradguard diagnose` in a process of its own."""
    command = [sys.executable, "-m", "gradguard", "diagnose", *arguments]
    return subprocess.run(command, input=content, capture_output=True, check=False)


def complaint(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a file that cannot be diagnosed: one line on the standard error stream, status 2."""
    assert main(["diagnose", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradguard diagnose: error: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    return err


def test_the_question_as_printed_is_a_bug_with_a_name(table: Path) -> None:
    """The factor is found and named, the tensor is called after the file, and the status says that there is a bug."""
    done = run(str(table), "--constant", "timesteps=39")
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"lstm  BUG: scale  n = 39" in done.stdout
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
    assert json.loads(done.stdout)["tensors"]["all"]["verdict"] == "scale"


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
    ("content", "words"),
    [
        ("", ["is empty", "numeric and analytic"]),
        ("\n\n  \n", ["is empty"]),
        ("numeric,analytic\n", ["no rows"]),
        ("1,2\n3,4\n", ["line 1", "no column 'numeric' and no 'analytic'", "'1', '2'"]),
        ("numeric,backprop\n1,2\n", ["line 1", "no column 'analytic'", "'backprop'"]),
        ("\nnumeric,analytic,numeric\n1,2,3\n", ["line 2", "2 columns 'numeric'"]),
        ("numeric,analytic\n1,2\n\n3,many\n", ["line 4", "analytic is 'many'", "expected a number"]),
        ("numeric,analytic\n1,\n", ["line 2", "analytic is ''"]),
        ("numeric,analytic\n1_000,2\n", ["line 2", "numeric is '1_000'"]),
        ("numeric,analytic\n0x10,2\n", ["line 2", "numeric is '0x10'"]),
        ("numeric,analytic\n1,\x1b[31mred\n", ["line 2", "'\\x1b[31mred'"]),
        (f"numeric,analytic\n1,{'long' * 1000}\n", ["line 2", "longlong...'"]),
        ("numeric,analytic\n0,5,0,25\n", ["line 2", "expected 2 values", "got 4"]),
        ("numeric,analytic,error\n1,2\n", ["line 2", "expected 3 values", "got 2"]),
        ('numeric,analytic,note\n1,2,"two\nlines"\n3,x,\n', ["line 4", "'x'"]),
        ("numeric,analytic,error\n1,2,-1\n", ["line 2", "error is -1"]),
        ("numeric,analytic,error\n1,2,inf\n", ["line 2", "error is inf"]),
        ("numeric,analytic,tensor\n1,2,W\n1,2, \n", ["line 3", "name of the tensor is missing"]),
        ('numeric,analytic\n1,"2\n3,4\n', ["line 2", "unexpected end"]),
        (f'numeric,analytic\n1,"{"9" * 200_000}"\n', ["line 2", "field larger"]),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(
    content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing column, a word in place of a number, or a row that does not fit: one line says which, and where."""
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    message = complaint(path, capsys)
    assert "table.csv'" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "is no text (a zero byte at 8)"),
        (b"numeric,analytic\n1,\xff\n", "is no text in UTF-8 (byte 0xff at 19)"),
        ("numeric,analytic\n1,2\n".encode("utf-16"), "is text in UTF-16; expected UTF-8"),
    ],
)
def test_a_file_that_is_no_text_is_told(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture, another encoding, or whatever else the file is."""
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert words in complaint(path, capsys)


def test_a_file_without_end_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """No more is read than makes sense."""
    assert "is larger than 64 MiB" in complaint(Path("/dev/zero"), capsys)


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder, and a name that no file can have."""
    assert "missing.csv': No such file" in complaint(tmp_path / "missing.csv", capsys)
    assert "Is a directory" in complaint(tmp_path, capsys)
    assert "\\x1b" in complaint(tmp_path / "\x1b[31m", capsys)
    assert "null" in complaint(Path("a\0b"), capsys)


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


def outcome(read: Callable[[], dict[str, Columns]]) -> str:
    """Why something cannot be read; "" where it can."""
    try:
        columns = read()
    except Failure as failure:
        return failure.message
    assert all(found.numeric.shape == found.analytic.shape for found in columns.values())
    return ""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@given(
    rows=st.lists(
        st.tuples(st.floats(), st.floats(), st.text(st.characters(exclude_categories=["Cs"])), st.floats(0, 1e300)),
        min_size=1,
        max_size=20,
    ),
    order=st.permutations(SPELLINGS),
    ending=st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=300)
def test_what_a_csv_writer_writes_is_read(
    delimiter: str, rows: list[tuple[float, float, str, float]], order: list[str], ending: str
) -> None:
    """Any numbers and names, in any order of columns, come back as they were."""
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerow(order)
    named = [(numeric, analytic, f"t{name.strip()}", error) for numeric, analytic, name, error in rows]
    for numeric, analytic, name, error in named:
        cells = {"numeric": numeric, "analytic": analytic, "tensor": name, "error": error, "other": "x"}
        writer.writerow([cells[column] for column in order])
    columns = parse(written.getvalue(), "unused")
    assert set(columns) == {name for _, _, name, _ in named}
    for name, found in columns.items():
        expected = np.array([(n, g, error) for n, g, other, error in named if other == name])
        assert found.error is not None
        assert np.array_equal(np.array([found.numeric, found.analytic, found.error]).T, expected, equal_nan=True)


@given(st.one_of(st.text(), st.text(alphabet='numericalyt,;\t\n\r"0123456789.-e ')))
@settings(max_examples=1000)
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    """No text, however broken, ends in anything but numbers or one line that can be printed."""
    for content in (text, f"numeric,analytic\n{text}"):
        assert outcome(lambda content=content: parse(content, "t")).isprintable()


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_file_is_read_or_refused_in_a_line(content: bytes) -> None:
    """No bytes, either."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert outcome(lambda: read_columns(file.name)).isprintable()


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
