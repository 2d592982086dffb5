"""The header, and where it is."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
from native_programs import WARNINGS, Compile

from gradguard.cli import main
from gradguard.integrations.native import INCLUDE_DIR
from gradguard.integrations.native.abi import ABI_VERSION, Constant, Table, Tensor


@pytest.mark.parametrize("language", [("gcc", "-x", "c", "-std=c11"), ("g++", "-x", "c++", "-std=c++17")])
@pytest.mark.usefixtures("compiled")
def test_the_header_compiles_without_a_warning(language: tuple[str, ...]) -> None:
    """On its own, as C11 and as C++17."""
    command = [*language, *WARNINGS, f"-I{INCLUDE_DIR}", "-fsyntax-only", "-"]
    done = subprocess.run(command, input="#include <gradguard.h>\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_header_and_its_mirror_in_python_agree(compiled: Compile, tmp_path: Path) -> None:
    """Version, sizes and offsets of every field."""
    mirrored = [(f"gradguard_{kind.__name__.lower()}", kind) for kind in (Tensor, Constant, Table)]
    expected = {"GRADGUARD_ABI_VERSION": ABI_VERSION}
    for name, kind in mirrored:
        expected[f"sizeof({name})"] = ctypes.sizeof(kind)
        expected |= {f"offsetof({name}, {field[0]})": getattr(kind, field[0]).offset for field in kind._fields_}
    prints = "".join(f'printf("%d\\n", (int){what});' for what in expected)
    source = tmp_path / "layout.c"
    source.write_text(f"#include <gradguard.h>\n#include <stdio.h>\nint main(void) {{ {prints} return 0; }}\n")
    done = subprocess.run([compiled(source, "layout", f"-I{INCLUDE_DIR}")], capture_output=True, text=True, check=True)
    assert dict(zip(expected, map(int, done.stdout.split()), strict=True)) == expected


def test_the_command_line_tells_where_the_header_is(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, the folder."""
    assert main(["native", "--include-dir"]) == 0
    out = capsys.readouterr().out
    assert out == f"{INCLUDE_DIR}\n"
    assert (Path(out.strip()) / "gradguard.h").is_file()


def test_the_core_does_without_the_integration() -> None:
    """Neither the package nor its command line imports it."""
    source = "import sys, gradguard, gradguard.cli; sys.exit('gradguard.integrations.native' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0


def test_the_integration_needs_no_other_framework() -> None:
    """It imports where PyTorch is not installed."""
    source = "import sys; sys.modules['torch'] = None; import gradguard.integrations, gradguard.integrations.native"
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
