"""What the pages of docs/ show is true: examples run, links lead somewhere, and nothing is left out."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import DOCS, ROOT, blocks, digitless, headings, links, page

from gradguard import GradGuard, Verdict
from gradguard.testing import LSTM, random_batch
from gradguard.writers.tensorboard.curves import summarize

RUN_IN_ORDER = (
    "alerts.md",
    "check.md",
    "faq.md",
    "functions.md",
    "options.md",
    "quickstart.md",
    "tensorboard.md",
    "verdicts.md",
)
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
END_OF_BLOCK = "<end of block>"


def program(found: list[tuple[str, str]]) -> str:
    """The blocks in Python and the commands of gradguard, one after the other; each block ends by printing a mark."""
    return "\n".join(f"{code(*block)}\nprint({END_OF_BLOCK!r})" for block in found)


def code(language: str, text: str) -> str:
    """What runs for a block; nothing for a text and for commands of other programs."""
    if language == "python":
        return text
    commands = text.splitlines() if language == "sh" else ()
    calls = [shlex.split(command)[1:] for command in commands if command.startswith("gradguard ")]
    return "\n".join(["from gradguard.cli import main", *(f"assert main({call}) in (0, 1)" for call in calls)])


def words(text: str) -> str:
    """A text up to its digits and line breaks."""
    return digitless(" ".join(text.split()))


@pytest.mark.parametrize("name", RUN_IN_ORDER)
def test_the_blocks_of_a_page_run_and_print_what_it_shows(name: str, tmp_path: Path) -> None:
    """In their order, in one process; a block of text is the beginning of what the block above it printed."""
    found = blocks(page(name))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, "-c", program(found)], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split(END_OF_BLOCK)
    shown = [number for number, (language, _) in enumerate(found) if language == "text" and number]
    for number in shown:
        if found[number - 1][0] == "python":
            assert words(printed[number - 1]).startswith(words(found[number][1]))


def test_the_readme_is_short() -> None:
    """A newcomer reads it to its end."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    """Relative links, also those between the headings of pages."""
    text = path.read_text(encoding="utf-8")
    for file, heading in links(text):
        target = path.parent / file if file else path
        assert target.is_file(), file
        assert not heading or heading in headings(target.read_text(encoding="utf-8")), f"{file}#{heading}"


def test_every_page_is_listed() -> None:
    """The README or the index of the documentation leads to each page."""
    listed = {(path.parent / file).resolve() for path in PAGES[:1] for file, _ in links(path.read_text("utf-8"))}
    listed |= {(DOCS / file).resolve() for file, _ in links(page("README.md"))}
    assert set(PAGES) <= listed | {ROOT / "README.md", DOCS / "README.md"}


def test_every_verdict_has_its_section() -> None:
    """A new verdict is explained, too."""
    assert {str(verdict) for verdict in Verdict} <= headings(page("verdicts.md"))


def test_every_tag_of_tensorboard_is_explained() -> None:
    """The table of tags names each metric that a check writes."""
    model, batch = LSTM(hidden=2), random_batch()
    _, grads = model.loss_and_grads(batch)
    report = GradGuard(model.params).after_backward(0, grads, loss=lambda: model.loss(batch))
    assert report is not None
    tags = {value.tag for value in summarize(report, described=set()).value}
    metrics = {re.sub(r"gradguard[./](check/)?(\w+).*", r"\2", tag) for tag in tags}
    assert len(metrics) > 10
    assert all(re.search(rf"[`./]{metric}[`/]", page("tensorboard.md")) for metric in metrics)


def test_every_benchmark_that_a_page_names_is_there() -> None:
    """Their list has each name that stands behind `tests/benchmarks`."""
    done = subprocess.run([sys.executable, ROOT / "tests" / "benchmarks", "list"], capture_output=True, text=True)
    there = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    named = {name for path in PAGES for name in re.findall(r"tests/benchmarks (\w+)", path.read_text("utf-8"))}
    assert named - {"list"} <= there
