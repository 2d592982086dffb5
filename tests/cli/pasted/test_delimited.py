"""CSV with a header: cells in any order, quoted, and rows that do not fit."""

import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradguard.cli.pasted import parse

SPELLINGS = ("numeric", "analytic", "tensor", "error", "other")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@given(
    rows=st.lists(
        st.tuples(st.floats(), st.floats(), st.text(st.characters(exclude_categories=["Cs"])), st.floats(1e200, 1e300)),
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
    tensors = parse(written.getvalue(), "unused").tensors
    assert set(tensors) == {name for _, _, name, _ in named}
    for name, found in tensors.items():
        expected = np.array([(n, g) for n, g, other, _ in named if other == name])
        assert np.array_equal(np.array([found.numeric, found.analytic], float).T, expected, equal_nan=True)


def test_error_bars_are_read() -> None:
    """A column of error bars belongs to the numerical values."""
    found = parse("numeric,analytic,error\n0.2,0.1,1e-3\n0.4,0.2,2e-3\n", "W").tensors["W"]
    assert found.error == ["1e-3", "2e-3"]


@pytest.mark.parametrize("errors", [("0.1", "0.2"), ("0.333", "0.333"), ("33.3", "33.3")])
def test_a_column_error_that_compares_the_two_is_no_error_bar(errors: tuple[str, str]) -> None:
    """The difference of the two would hide every bug; a note says that it was left out."""
    pasted = parse(f"numeric,analytic,error\n0.2,0.1,{errors[0]}\n0.4,0.2,{errors[1]}\n", "W")
    assert pasted.tensors["W"].error == []
    assert "`error` compares the two gradients" in pasted.notes[0]


@pytest.mark.parametrize(
    ("row", "note"),
    [
        ("0.43,6.266e-0.6", "line 4: analytic is '6.266e-0.6'; expected a number"),
        ("0.43,", "line 4: analytic is ''; expected a number"),
        ("0.43", "line 4: expected 2 values, as the header has, got 1"),
        ("0.43,0.2,0.1", "line 4: expected 2 values, as the header has, got 3"),
    ],
)
def test_a_row_that_cannot_be_read_is_skipped_with_a_note(row: str, note: str) -> None:
    """The other rows are read."""
    pasted = parse(f"numeric,analytic\n0.2,0.1\n\n{row}\n0.4,0.2\n", "W")
    assert pasted.tensors["W"].numeric == ["0.2", "0.4"]
    assert pasted.notes == [f"skipped {note}"]


def test_many_notes_are_counted() -> None:
    """A list of a hundred lines would hide what was read."""
    rows = "".join(f"0.{k},0.{k}\n0.{k},?\n" for k in range(1, 10))
    notes = parse(f"0.1,0.1\nnumeric,analytic\n0.1,0.1\n{rows}".partition("\n")[2], "W").notes
    assert len(notes) == 6
    assert notes[-1] == "skipped 4 more lines"


def test_error_bars_below_zero_are_no_error_bars() -> None:
    """Such a row is skipped, as is one with an infinite bar or without a name."""
    text = "tensor,numeric,analytic,error\nW,1,2,1e-3\nW,1,2,-1\nW,1,2,inf\n ,1,2,1e-3\nW,3,4,1e-3\nW,5,6,1e-3\n"
    pasted = parse(text, "unused")
    assert pasted.tensors["W"].numeric == ["1", "3", "5"]
    assert [note.partition(": ")[2] for note in pasted.notes] == [
        "error is -1; expected a number of at least 0",
        "error is inf; expected a number of at least 0",
        "the name of the tensor is missing",
    ]
