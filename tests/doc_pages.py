"""What the pages of the documentation show: their blocks, and texts to compare up to the digits."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each block of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def python_of(found: list[tuple[str, str]]) -> list[int]:
    """The places of the blocks in Python."""
    return [number for number, (language, _) in enumerate(found) if language == "python"]


def digitless(text: str) -> str:
    """The text with a sign for each number."""
    return re.sub(r"\d[\d.]*(e-?\d+)?(\(\d+\))?", "#", text)
