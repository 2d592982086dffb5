"""Text with numbers is read from a file, or refused in one line that says what was expected."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.cli import main
from gradguard.cli.columns import Pasted
from gradguard.cli.output import Failure
from gradguard.cli.pasted import parse
from gradguard.cli.source import read_pasted

EXAMPLE = "numeric,analytic"


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
        ("", ["is empty", EXAMPLE]),
        ("\n\n  \n", ["is empty", EXAMPLE]),
        ("numeric,analytic\n", ["holds no pairs", EXAMPLE]),
        ("Nothing to see here.\n", ["holds no pairs", EXAMPLE]),
        ("W1 relative error: 2.41e-03\nb1 relative error: 1.00e+00\n", ["holds no pairs", EXAMPLE]),
        ("step,loss\n1,2.3\n2,2.1\n", ["holds no pairs", EXAMPLE]),
        ("epoch 1 loss 2.3\nepoch 2 loss 2.1\n", ["holds no pairs", EXAMPLE]),
        ("0.1\n0.2\n0.3\n", ["1 number without a header", EXAMPLE]),
        ("0.12 0.57 0.91\n0.36 0.25 0.47\n0.83 0.62 0.22\n", ["3 numbers without a header", EXAMPLE]),
        ("x: array([0.2, 0.4, 0.6])\ny: array([0.1, 0.2, 0.3])\n", ["3 numbers without a header", EXAMPLE]),
        ("numeric: 0.1 0.2\n", ["2 numerical and 0 backprop values", EXAMPLE]),
        ("W numeric: [0.1 0.2]\nW backprop: [0.1]\n", ["2 numerical and 1 backprop values of W", "as many of both"]),
        ("numeric,analytic\n1_000,2\n", ["line 2", "numeric is '1_000'", EXAMPLE]),
        ("numeric,analytic\n0x10,2\n", ["line 2", "numeric is '0x10'"]),
        ("numeric,analytic\n1,\x1b[31mred\n", ["line 2", "'\\x1b[31mred'"]),
        (f"numeric,analytic\n1,{'long' * 1000}\n", ["line 2", "longlong...'"]),
        ("numeric,analytic\n0,5,0,25\n", ["line 2", "expected 2 values", "got 4"]),
        ('numeric,analytic\n1,2\n1,"2\n3,4\n', ["line 3", "unexpected end"]),
        (f'numeric,analytic\n1,2\n1,"{"9" * 200_000}"\n', ["line 3", "field larger"]),
        ("n,g\n0.1,0.2\n?,0.3\n!,0.4\n", ["line 3", "numeric is '?'", "1 of 3 rows can be read", EXAMPLE]),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason_and_an_example(
    content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says where and why, and shows a header that would do."""
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    message = complaint(path, capsys)
    assert "table.csv'" in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0", "is not text (a zero byte at 8)"),
        (b"numeric,analytic\n1,\xff\n", "is not text in UTF-8 (byte 0xff at 19)"),
        (b"\xff\xfe1\x00,", "is not text in UTF-16"),
    ],
)
def test_a_file_that_is_no_text_is_refused(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture, another encoding, or whatever else the file is."""
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    assert words in complaint(path, capsys)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_of_a_spreadsheet_is_read(encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spreadsheets save tabs between cells, in UTF-16 or with a mark in front."""
    path = tmp_path / "table.txt"
    path.write_text("numeric\tanalytic\r\n0.2\t0.2\r\n0.4\t0.4\r\n", encoding=encoding)
    assert main(["diagnose", str(path)]) == 0
    assert "table  ok" in capsys.readouterr().out


def test_a_file_without_end_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """No more is read than makes sense."""
    assert "is larger than 64 MiB" in complaint(Path("/dev/zero"), capsys)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file, a folder, and a name that no file can have."""
    assert "missing.csv': No such file" in complaint(tmp_path / "missing.csv", capsys)
    assert "Is a directory" in complaint(tmp_path, capsys)
    assert "\\x1b" in complaint(tmp_path / "\x1b[31m", capsys)
    assert "null" in complaint(Path("a\0b"), capsys)


def outcome(read: Callable[[], Pasted]) -> str:
    """Why something cannot be read; "" where it can."""
    try:
        pasted = read()
    except Failure as failure:
        return failure.message
    for columns in pasted.tensors.values():
        assert len(columns.numeric) == len(columns.analytic) > 0
        assert len(columns.error) in (0, len(columns.numeric))
        assert all(isinstance(float(number), float) for number in (*columns.numeric, *columns.analytic))
    return ""


TOKENS = st.sampled_from(
    [
        *("numeric", "analytic", "W1", "error", "0.5", "1", "-2e-3", "6e-0.6", "nan", "...", "=>", "==", '"'),
        *("[", "]", "(", ")", "{", "}", "=", ":", ",", ";", "|", "\t", " ", "  ", "\n", "\n"),
        *("1.0e-03 *\n", "Columns 1 through 2\n"),
    ]
)


@given(
    st.one_of(
        st.text(),
        st.text(alphabet='numericalyt,;\t\n\r"0123456789.-e '),
        st.lists(TOKENS, max_size=40).map("".join),
    )
)
@settings(max_examples=1500)
def test_any_text_is_read_or_refused_in_a_line(text: str) -> None:
    """No text, however broken, ends in anything but numbers or one line that can be printed."""
    for content in (text, f"numeric,analytic\n{text}", f"numeric analytic\n{text}", f"numeric: {text}"):
        assert outcome(lambda content=content: parse(content, "t")).isprintable()


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_any_file_is_read_or_refused_in_a_line(content: bytes) -> None:
    """No bytes, either."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        assert outcome(lambda: read_pasted(file.name)).isprintable()
