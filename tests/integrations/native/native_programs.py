"""Programs in C and C++ that the tests of the native integration build and train."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gradguard import GradGuard
from gradguard.integrations.native import INCLUDE_DIR, Program
from gradguard.integrations.native.abi import Constant, Table, Tensor

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[2] / "docs" / "examples" / "cpp"
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
LIBRARY = ("-O2", "-shared", "-fPIC", "-pthread", f"-I{INCLUDE_DIR}", f"-I{EXAMPLES}")
TIMESTEPS = 39
RECURRENT = {"Wx", "Wh", "b"}
STEPS = 8

Compile = Callable[..., Path]


class Spoilt:
    """A table in C, and what to spoil of it."""

    def __init__(self, path: Path) -> None:
        self.library = ctypes.CDLL(str(path))
        self.rows = (Tensor * 2).in_dll(self.library, "rows")
        self.constants = (Constant * 2).in_dll(self.library, "constants")
        self.table = Table.in_dll(self.library, "table")
        self.answer = ctypes.c_void_p.in_dll(self.library, "answer")
        self.parts: list[Any] = [self.rows, self.constants, self.table, self.answer]


def prepared(program: Program, *, averages: bool = False) -> Program:
    """The same with gradients of one batch, right or averaged over the timesteps."""
    program.library.start(0, int(averages))
    program.library.backward()
    return program


def guard_of(program: Program, **options: Any) -> GradGuard:
    """A guard that checks every third step, whatever it costs."""
    return GradGuard(program.params, program.loss, **{"every_n_steps": 3, "max_overhead": None} | options)


def bits(program: Program) -> list[bytes]:
    """Every bit that a training leaves behind: values, gradients, and the batch that the next draw makes."""
    program.library.next_batch()
    return [array.tobytes() for arrays in (program.params, program.grads) for array in arrays.values()] + [
        symbols(program).tobytes()
    ]


def symbols(program: Program) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The inputs and the targets of the current batch, (2, T)."""
    program.library.current_batch.restype = ctypes.POINTER(ctypes.c_int32)
    return np.ctypeslib.as_array(program.library.current_batch(), (2, TIMESTEPS)).copy()


def loop_in_python(program: Program, guard: GradGuard | None, steps: int = STEPS) -> None:
    """What `train` does, in Python; goes on after Ctrl-C in a check."""
    for step in range(steps):
        program.library.next_batch()
        program.library.backward()
        if guard is not None:
            with contextlib.suppress(KeyboardInterrupt):
                guard.after_backward(step, program.grads, constants=program.constants)
        program.library.update()
