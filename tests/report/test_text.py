import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.report.text import counted, one_line, percent, printable


@given(st.text())
def test_what_is_shown_is_one_line_without_control_characters(name: str) -> None:
    """Nothing that moves a cursor, ends a line or turns the direction of writing is left."""
    assert printable(name).isprintable()


@given(st.text())
def test_a_text_is_shown_on_one_line(text: str) -> None:
    """Its printable characters stay, backslashes too; all others are escapes."""
    assert one_line(text).isprintable()
    assert (one_line(text) == text) == text.isprintable()


@given(st.text(), st.text())
def test_different_names_stay_different(first: str, second: str) -> None:
    """No name can pass for another."""
    assert (printable(first) == printable(second)) == (first == second)


def test_a_plain_name_is_shown_as_it_is() -> None:
    """Letters of any script stay, and what cannot be printed is an escape."""
    assert printable("encoder.層/Wx") == "encoder.層/Wx"
    assert printable("a\x1b[31mb\n\u202e") == "a\\x1b[31mb\\n\\u202e"
    assert printable("a\\nb") == "a\\\\nb"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.002, "0.2 %"), (4.73e-5, "0.0047 %"), (0.5, "50 %"), (0.999, "100 %"), (1.5, "150 %"), (3e7, "3e+09 %")],
)
def test_a_share_is_written_in_percent(share: float, text: str) -> None:
    """Two digits are enough, and no exponent stands where a person expects none."""
    assert percent(share) == text


def test_things_are_counted_in_words() -> None:
    """One is no plural."""
    assert (counted(1, "tensor"), counted(39, "tensor")) == ("1 tensor", "39 tensors")
