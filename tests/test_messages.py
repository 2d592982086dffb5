"""The texts that users see are listed in one file, and none is too long to take in."""

import pytest
from messages import CATALOGUE, ROOT, catalogue, sources, templates

MAX_LINE = 200  # characters of a template: with its names and numbers filled in, about two lines of a terminal


def test_the_catalogue_is_that_of_the_code() -> None:
    """Whoever changes a text sees it among its neighbours in the diff of the catalogue."""
    assert CATALOGUE.read_text(encoding="utf-8") == catalogue(), "run `python tests/messages.py`, and read the diff"


def test_no_text_is_longer_than_a_reader_takes_in() -> None:
    """Nothing is over 200 characters without a line break."""
    texts = {(path.relative_to(ROOT).as_posix(), text) for path in sources() for text in templates(path)}
    assert len(texts) > 500
    too_long = [(where, text) for where, text in texts if max(map(len, text.splitlines())) > MAX_LINE]
    assert not too_long


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("a.py", '"""A docstring of words."""\n', []),
        ("a.py", 'x = "key"\ny = "a text " f"of {len(names)} names, {_of(x)}"\n', ["a text of {names} names, {_of}"]),
        ("a.py", 'f"{x}" if y else f"one in {\'the middle of it\'} all"\n', ["one in {} all", "the middle of it"]),
        (
            "a.js",
            "// it's a comment\nf('one `text` here', `${a.text} of ${some}`);",
            ["one `text` here", "{text} of {some}"],
        ),
    ],
)
def test_a_template_is_found_whole(
    name: str, source: str, found: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Literals that are joined are one text; fields have names; docstrings, comments and names are left out."""
    path = tmp_path_factory.mktemp("source") / name
    path.write_text(source, encoding="utf-8")
    assert templates(path) == found
