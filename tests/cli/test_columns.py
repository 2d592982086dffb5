"""Columns of numbers in a file are read, or refused in one line that says what was expected."""

import csv
import io
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

SPELLINGS = ("numeric", "analytic", "tensor", "error", "other")


def complaint(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said of a file that cannot be diagnosed: one line on the standard error stream, status 2."""
    assert main(["diagnose", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradguard diagnose: error: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    return err


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
