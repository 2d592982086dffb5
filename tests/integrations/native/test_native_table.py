"""Mistakes in the table are told by name."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from native_programs import Spoilt

from gradguard import GradGuard, check
from gradguard.integrations.native import load
from gradguard.integrations.native.abi import Loss


def set_to(part: object, **fields: Any) -> None:
    """Other contents of some fields."""
    for name, value in fields.items():
        setattr(part, name, value)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda it: set_to(it.answer, value=None), ["gradguard_describe()", "libtable.so", "null pointer"]),
        (lambda it: set_to(it.table, abi_version=7), ["version 7; expected 1", "gradguard native --include-dir"]),
        (lambda it: set_to(it.table, loss=Loss()), ["no loss", "double (*loss)(void *user)"]),
        (lambda it: set_to(it.table, tensor_count=0), ["0 tensors", "expected the parameters"]),
        (lambda it: set_to(it.table, tensors=None), ["2 tensors at a null pointer"]),
        (lambda it: set_to(it.table, constants=None), ["2 constants at a null pointer"]),
        (lambda it: set_to(it.rows[1], name=None), ["tensor 1 of the table", "no name"]),
        (lambda it: set_to(it.rows[1], name=b""), ["tensor 1 of the table", "no name"]),
        (lambda it: set_to(it.rows[1], name=b"w"), ["tensor 1", "named 'w', as tensor 0 is"]),
        (lambda it: set_to(it.constants[1], name=None), ["constant 1 of the table", "no name"]),
        (lambda it: set_to(it.constants[1], name=b"timesteps"), ["named 'timesteps', as constant 0 is"]),
        (lambda it: set_to(it.rows[0], values=None), ["values of tensor 'w'", "null pointer", "6 numbers of float32"]),
        (lambda it: set_to(it.rows[1], gradients=None), ["gradients of tensor 'b'", "3 numbers of float64"]),
        (lambda it: set_to(it.rows[0], gradients=it.rows[0].values), ["'w'", "gradients where its values are"]),
        (lambda it: set_to(it.rows[0], value_count=5), ["'w' has 5 values and shape (2, 3), which makes 6"]),
        (lambda it: set_to(it.rows[1], gradient_count=4), ["'b' has 4 gradients and shape (3,), which makes 3"]),
        (lambda it: set_to(it.rows[0], ndim=1), ["'w' has 6 values and shape (2,)"]),
        (lambda it: set_to(it.rows[0], ndim=2**40), ["'w' has 1099511627776 dimensions; expected 32 at most"]),
        (lambda it: set_to(it.rows[0], shape=None), ["shape of tensor 'w'", "expected 2 lengths"]),
        (lambda it: set_to(it.rows[0], dtype=0), ["'w' has dtype 0", "1 (GRADGUARD_FLOAT) or 2 (GRADGUARD_DOUBLE)"]),
    ],
)
def test_a_mistake_in_the_table_is_told_by_name(
    spoilt: Spoilt, spoil: Callable[[Spoilt], None], words: list[str]
) -> None:
    """At once, with what was given and what was expected; the process lives."""
    spoil(spoilt)
    with pytest.raises(ValueError, match=r".") as raised:
        load(spoilt.library)
    assert all(word in str(raised.value) for word in words), raised.value


def test_tensors_that_share_memory_are_told_by_name(spoilt: Spoilt) -> None:
    """Moving one would move the other."""
    spoilt.rows[1].values, spoilt.rows[1].dtype = spoilt.rows[0].values, 1
    program = load(spoilt.library)
    with pytest.raises(ValueError, match=r"'[wb]' and '[wb]' share memory"):
        GradGuard(program.params, program.loss)


def test_a_constant_that_is_no_number_of_a_training_is_told_by_name(spoilt: Spoilt) -> None:
    """As in Python."""
    spoilt.constants[1].value = 0
    program = load(spoilt.library)
    with pytest.raises(ValueError, match=r"constant 'batch' is 0\.0; expected a positive number"):
        check(program.params, program.grads, program.loss, constants=program.constants)


def test_a_library_without_a_table_is_told(tmp_path: Path) -> None:
    """What is missing: the function, the library, or all that makes a file one."""
    with pytest.raises(
        ValueError, match=r"the running program has no function gradguard_describe; include gradguard\.h"
    ):
        load(ctypes.CDLL(None))
    with pytest.raises(FileNotFoundError, match=r"no library '.*libnone\.so'; build the trainer .*-shared -fPIC"):
        load(tmp_path / "libnone.so")
    text = tmp_path / "libtext.so"
    text.write_text("no library\n")
    with pytest.raises(OSError, match=r"libtext\.so"):
        load(text)
