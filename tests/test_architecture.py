"""The tree of the package is the one that docs/architecture.md draws, and imports run one way in it."""

import ast
import configparser
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"gradguard": ROOT / "gradguard", "gradguard.integrations": ROOT / "integrations"}
MOST_MODULES = 7  # of a folder: more are no longer taken in at a glance


def folders_in_order() -> list[str]:
    """The folders of the package, ground first, from the one list that there is."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    (listed,) = re.findall(r"```text\n(arrays/.*?)```", text, re.DOTALL)
    return re.findall(r"^(\w+)/", listed, re.MULTILINE)


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name."""
    for path in sorted((ROOT / "gradguard").rglob("*.py")):
        yield ".".join(("gradguard", *path.relative_to(ROOT / "gradguard").with_suffix("").parts)), path
    for path in sorted((ROOT / "integrations").rglob("*.py")):
        yield ".".join(("gradguard.integrations", *path.relative_to(ROOT / "integrations").with_suffix("").parts)), path


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a module imports, at any place in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "gradguard":
            yield from (f"{node.module}.{name.name}" for name in node.names)
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "gradguard")


def folder_of(module: str) -> str:
    """The folder that a module lies in, "" for the face of the whole package."""
    parts = module.split(".")
    return parts[1] if parts[1:2] and parts[1] in folders_in_order() else ""


def test_imports_run_one_way() -> None:
    """A folder imports only from itself and from the folders before it in the list."""
    order = folders_in_order()
    upward = [
        f"{module} imports {name}"
        for module, path in modules()
        for name in imported(path)
        if folder_of(module) and folder_of(name) and order.index(folder_of(name)) > order.index(folder_of(module))
    ]
    assert not upward


def test_every_folder_is_in_the_list() -> None:
    """The list names the folders that exist, and no others."""
    present = {path.parent.name for path in (ROOT / "gradguard").glob("*/__init__.py")} | {"integrations"}
    assert set(folders_in_order()) == present


def test_a_folder_holds_few_modules_and_says_what_lives_there() -> None:
    """At most seven modules, and a first sentence in its `__init__`."""
    crowded, silent = [], []
    for root in SOURCES.values():
        for face in root.rglob("__init__.py"):
            names = [path.name for path in face.parent.glob("*.py") if not path.name.startswith("__")]
            if len(names) > MOST_MODULES:
                crowded.append(f"{face.parent.name}: {sorted(names)}")
            if not re.match(r".+\.(\n|$)", ast.get_docstring(ast.parse(face.read_text())) or ""):
                silent.append(str(face.relative_to(ROOT)))
    assert not crowded
    assert not silent


@pytest.mark.filterwarnings("ignore:html5lib:DeprecationWarning")  # TensorBoard's own, once in a process
def test_no_module_is_hidden_by_a_name_of_its_folder() -> None:
    """`import gradguard.checks.check` gives the module, whatever the face of `checks` exports."""
    hidden = []
    for module, path in modules():
        if path.name.startswith("__") or module.startswith("gradguard.integrations"):
            continue
        importlib.import_module(module)
        parent, _, name = module.rpartition(".")
        if not inspect.ismodule(getattr(importlib.import_module(parent), name)):
            hidden.append(module)
    assert not hidden


def test_no_two_modules_import_each_other() -> None:
    """The modules can be put in an order in which each imports only earlier ones."""
    names = {module for module, _ in modules()}

    def module_of(name: str) -> str:
        return name if name in names else name.rpartition(".")[0]

    # A face only hands names on; within a folder nobody imports it.
    edges = {
        module: {module_of(name) for name in imported(path)} & names
        for module, path in modules()
        if not path.name.startswith("__")
    }
    while leaves := {module for module, needed in edges.items() if not needed & edges.keys()}:
        edges = {module: needed for module, needed in edges.items() if module not in leaves}
    assert not edges


def test_setup_cfg_lists_every_package() -> None:
    """What is not listed there is missing from the wheel."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = set(settings["options"]["packages"].split())
    present = {
        ".".join((package, *face.parent.relative_to(root).parts))
        for package, root in SOURCES.items()
        for face in root.rglob("__init__.py")
    }
    assert listed == present


@pytest.mark.parametrize("module", ["gradguard.checks.check", "gradguard.sweeps.sweep"])
def test_a_module_named_after_its_function_can_be_imported(module: str) -> None:
    """The function is `gradguard.check`; the module keeps its own name."""
    assert inspect.ismodule(importlib.import_module(module))
