"""What the pages of the documentation show: their blocks and links, and texts to compare up to the digits."""

import contextlib
import io
import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def page(name: str) -> str:
    """The text of a page."""
    return (DOCS / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """The language and the text of each block of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """The page without its blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)


def python_of(found: list[tuple[str, str]]) -> list[int]:
    """The places of the blocks in Python."""
    return [number for number, (language, _) in enumerate(found) if language == "python"]


def digitless(text: str) -> str:
    """The text with a sign for each number."""
    return re.sub(r"\d[\d.]*(e-?\d+)?(\(\d+\))?", "#", text)


def outputs(name: str, folder: Path) -> list[tuple[str, str]]:
    """What each example of a page prints, and what the page says that it does; "" where it says nothing.

    Args:
        name: The page.
        folder: Where the examples are written and run.
    """
    found = blocks(page(name))
    pairs = []
    for number in python_of(found):
        example = folder / f"example_{number}.py"
        example.write_text(found[number][1], encoding="utf-8")
        printed = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
            runpy.run_path(str(example), run_name="__main__")
        language, said = found[number + 1] if number + 1 < len(found) else ("", "")
        pairs.append((printed.getvalue(), said if language == "text" else ""))
    return pairs


def links(text: str) -> list[tuple[str, str]]:
    """The file and the heading that each relative link of a page leads to, as written; "" where there is none."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text))
    return [(file, heading) for file, _, heading in (link.partition("#") for link in found if "://" not in link)]


def headings(text: str) -> set[str]:
    """The headings of a page, as links write them."""
    titles = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
