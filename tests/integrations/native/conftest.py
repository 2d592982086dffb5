import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from native_programs import HERE, LIBRARY, WARNINGS, Compile, Spoilt

from gradguard.integrations.native import Program, load


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles a source with the system's compiler into a folder of its own; without warnings."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")

    def build(source: Path, name: str, *flags: str) -> Path:
        target = tmp_path_factory.mktemp("built") / name
        language = ("gcc", "-std=c11") if source.suffix == ".c" else ("g++", "-std=c++17")
        done = subprocess.run(
            [*language, *WARNINGS, *flags, source, "-o", target], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return target

    return build


@pytest.fixture(scope="session")
def trainer(compiled: Compile) -> Path:
    """The documented trainer, built with further loops."""
    return compiled(HERE / "loops.cpp", "libloops.so", *LIBRARY)


@pytest.fixture
def program(trainer: Path) -> Program:
    """The trainer, attached, at its start and right."""
    attached = load(trainer)
    attached.library.start(0, 0)
    return attached


@pytest.fixture(scope="session")
def table_library(compiled: Compile) -> Path:
    """The table in C, built."""
    return compiled(HERE / "table.c", "libtable.so", *LIBRARY)


@pytest.fixture
def spoilt(table_library: Path) -> Iterator[Spoilt]:
    """The table in C, put back afterwards."""
    one = Spoilt(table_library)
    before = [bytes(part) for part in one.parts]
    yield one
    for part, contents in zip(one.parts, before, strict=True):
        ctypes.memmove(ctypes.addressof(part), contents, len(contents))
