"""Finds the benchmarks from their source alone: none is imported, so that the list needs none of their libraries.

Each folder of this package is a question, the docstring of its `__init__.py`. A benchmark is a module in such a folder
that sets `USUAL_TIME`. The first line of its docstring is its sentence, and its `main(arguments)` runs it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: On the command line.
        module: The dotted name of its module.
        sentence: What it measures.
        usual_time: How long it takes with its default settings, on two cores.
        question: Which question it belongs to.
    """

    name: str
    module: str
    sentence: str
    usual_time: str
    question: str


def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name, those of a question in a row."""
    return {found.name: found for folder in sorted(FOLDER.glob("*/__init__.py")) for found in _in(folder.parent)}


def listing() -> str:
    """A line for each benchmark, under its question."""
    known = list(benchmarks().values())
    name, time = (max(len(getattr(one, field)) for one in known) for field in ("name", "usual_time"))
    lines = []
    for question in dict.fromkeys(one.question for one in known):
        lines += ["", question]
        lines += [
            f"  {one.name:<{name}}  {one.usual_time:<{time}}  {one.sentence}"
            for one in known
            if one.question == question
        ]
    return "\n".join(lines[1:])


def _in(folder: Path) -> Iterator[Benchmark]:
    question = _first_line(_parsed(folder / "__init__.py"))
    for path in sorted(folder.glob("*.py")):
        tree = _parsed(path)
        if usual_time := _constant(tree, "USUAL_TIME"):
            module = f"{FOLDER.name}.{folder.name}.{path.stem}"
            yield Benchmark(path.stem, module, _first_line(tree), usual_time, question)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first_line(tree: ast.Module) -> str:
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _constant(tree: ast.Module, name: str) -> str:
    """The text that a module assigns to a name; empty where it does not."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=ast.Constant(value=str(text))) if found == name:
                return text
    return ""
