"""Prints what .ci/run reads from the project's own files, so that no copy of it can become outdated.

`python3 .ci/facts.py FUNCTION ARGUMENT...` prints what one of the functions below returns.
"""

import re
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]


def command(text: str) -> str:
    """The block of shell commands in README.md that contains the text.

    Raises:
        ValueError: There is no such block, or more than one.
    """
    readme = Path("README.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if text in block]
    if len(found) != 1:
        raise ValueError(f"README.md has {len(found)} shell blocks that contain {text!r}; expected one")
    return found[0]


def extras() -> str:
    """The names of all extras, as pip takes them."""
    return ",".join(PROJECT["optional-dependencies"])


def floors() -> str:
    """The core dependencies pinned to the lowest versions that pyproject.toml promises, one a line.

    Raises:
        ValueError: A dependency is not of the form name>=version.
    """
    promised = [re.fullmatch(r"([\w-]+)>=([\d.]+)", dependency) for dependency in PROJECT["dependencies"]]
    if not all(promised):
        raise ValueError(f"the dependencies are {PROJECT['dependencies']}; expected name>=version for each")
    return "\n".join(f"{match[1]}=={match[2]}" for match in promised if match)


def skipped(report: str) -> str:
    """The ids of the tests and files that pytest skipped, one a line, from its JUnit report."""
    return "\n".join(_id(test) for test in _tests(report) if _outcome(test) == "skipped")


def passed(*reports: str) -> str:
    """How many tests passed in all, in the words of a test runner's last line, from JUnit reports."""
    outcomes = [_outcome(test) for report in reports for test in _tests(report)]
    return f"{outcomes.count('passed')} passed, {outcomes.count('failed')} failed"


def _tests(report: str) -> list[ET.Element]:
    return list(ET.parse(report).iter("testcase"))  # noqa: S314 (pytest wrote the file a moment ago)


def _id(test: ET.Element) -> str:
    """A file that is skipped as a whole has no class name; here, tests are functions of a module."""
    return f"{test.attrib['file']}::{test.attrib['name']}" if test.get("classname") else test.attrib["file"]


def _outcome(test: ET.Element) -> str:
    if test.find("failure") is not None or test.find("error") is not None:
        return "failed"
    reason = test.find("skipped")
    return "passed" if reason is None or reason.get("type") == "pytest.xfail" else "skipped"


if __name__ == "__main__":
    facts: dict[str, Callable[..., str]] = {fact.__name__: fact for fact in (command, extras, floors, skipped, passed)}
    if printed := facts[sys.argv[1]](*sys.argv[2:]):
        sys.stdout.write(printed + "\n")
