"""What docs/native.md shows is true: its blocks run in their order, in one folder beside the examples."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from doc_pages import DOCS, blocks, digitless, page, python_of

from gradguard import GradGuard, check

EXAMPLES = DOCS / "examples" / "cpp"
PAGE = page("native.md")
BLOCKS = blocks(PAGE)
PYTHON = python_of(BLOCKS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built as the page says."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        pytest.skip("there is no Python.h, which pybind11 needs")
    place = tmp_path_factory.mktemp("cpp") / "examples"
    shutil.copytree(EXAMPLES, place)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for language, block in BLOCKS:
        if language == "sh":
            subprocess.run(["bash", "-euc", block], cwd=place, env=environment, check=True)
    return place


@pytest.fixture(scope="module")
def bound(folder: Path) -> ModuleType:
    """The module that the page builds with pybind11."""
    spec = importlib.util.spec_from_file_location("bound", folder / "bound.so")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("number", PYTHON)
def test_an_example_runs_and_says_what_the_page_says(number: int, folder: Path) -> None:
    """Each in a process of its own; where a block of text follows, it begins by printing that, up to the digits."""
    done = subprocess.run([sys.executable, "-c", BLOCKS[number][1]], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    language, said = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else ("", "")
    if language == "text":
        assert digitless(done.stdout).startswith(digitless(said))


def test_the_excerpts_are_of_the_example() -> None:
    """Each piece of C++ stands, as it is shown, in the trainer that the tests build."""
    excerpts = [block for language, block in BLOCKS if language == "cpp"]
    trainer = (EXAMPLES / "trainer.cpp").read_text(encoding="utf-8")
    assert len(excerpts) >= 2
    assert all(excerpt in trainer for excerpt in excerpts)


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    """None is left out by the expression above, or by its language."""
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert {language for language, _ in BLOCKS} == {"cpp", "sh", "python", "text"}
    assert len(PYTHON) >= 4


def test_the_links_lead_somewhere() -> None:
    """Each file that the page names lies beside it."""
    links = re.findall(r"\]\(([^)]*)\)", PAGE)
    assert links
    assert all((DOCS / link).is_file() for link in links)


# pybind11.


def test_a_module_of_pybind11_needs_only_the_buffer_protocol(bound: ModuleType) -> None:
    """Its arrays are none of NumPy's; with the fault it is named, and without it all is right."""
    dice = bound.Dice(0)
    model, batch = bound.Lstm(dice), bound.Batch(dice)
    assert not isinstance(model.params["Wx"], np.ndarray)
    for averages, wrong in ((True, {"Wx", "Wh", "b"}), (False, set())):
        model.averages = averages
        model.backward(batch)
        report = check(model.params, model.grads, lambda: model.loss(batch), constants={"timesteps": 39})
        assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == wrong
        assert all("39 is `timesteps`" in report.tensors[name].explanation for name in wrong)
        assert report.precision == "native"


def test_training_through_pybind11_is_bit_for_bit_the_same_under_guard(bound: ModuleType) -> None:
    """Values, gradients and the random stream."""

    def trained(*, is_guarded: bool) -> list[bytes]:
        dice = bound.Dice(0)
        model = bound.Lstm(dice)
        guard = GradGuard(model.params, every_n_steps=3, max_overhead=None)
        for step in range(8):
            batch = bound.Batch(dice)
            model.backward(batch)
            if is_guarded:
                guard.after_backward(step, model.grads, lambda batch=batch: model.loss(batch))
            model.update(0.5)
        assert len(guard.history) == 3 * is_guarded
        left = [bytes(array) for arrays in (model.params, model.grads) for array in arrays.values()]
        return [*left, repr(model.loss(bound.Batch(dice))).encode()]

    assert trained(is_guarded=True) == trained(is_guarded=False)
