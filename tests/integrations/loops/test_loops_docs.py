"""What docs/loops.md shows is true: its loops run as they stand."""

import runpy
from pathlib import Path

import pytest
from doc_pages import blocks, digitless, outputs, page

for package in ("torch", "autograd", "ignite"):
    pytest.importorskip(package)

IN_PLACE = """        for name, grad in grads.items():
            params[name] -= 0.01 * grad
"""
ANEW = """        params = {name: tensor - 0.01 * grads[name] for name, tensor in params.items()}
        arrays.update({name: tensor.numpy() for name, tensor in params.items()})
"""


def test_each_loop_says_what_the_page_says(tmp_path: Path) -> None:
    """Up to the digits: the bug is named in all of them."""
    found = outputs("loops.md", tmp_path)
    assert len(found) == 3
    for printed, said in found:
        assert said
        assert digitless(said) in digitless(printed)


def test_a_loop_of_new_tensors_is_checked_as_the_page_says(tmp_path: Path) -> None:
    """The mapping is filled anew after each update; no check takes the loss for another one."""
    example = blocks(page("loops.md"))[0][1]
    for old, new in ((IN_PLACE, ANEW), ("every_n_steps=100", "every_n_steps=1, max_overhead=None"), ("300", "8")):
        assert old in example
        example = example.replace(old, new)
    program = tmp_path / "example.py"
    program.write_text(example)
    rows = runpy.run_path(str(program))["guard"].history
    assert [str(row.verdict) for row in rows] == ["scale"] * 8
