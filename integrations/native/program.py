"""A trainer in C or C++: its parameters and gradients in place, its loss, and its own loop under guard."""

import ctypes
import os
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import ParamSpec, TypeVar

from gradguard.integrations.native.abi import AfterBackward
from gradguard.integrations.native.table import NativeArrays, NativeConstants, read_table
from gradguard.training import GradGuard

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

CONTINUE, STOP = 0, 1
"""What the trainer's loop reads from `gradguard_after_backward`."""


def load(library: str | os.PathLike[str] | ctypes.CDLL) -> "Program":
    """Attach to a trainer that was built as a shared library with `gradguard.h`.

    Args:
        library: The path of the library; or the loaded library, where one of its functions must be called first.

    Raises:
        OSError: The library cannot be loaded.
        ValueError: Its table cannot be used; the message names the tensor, what was given and what was expected.
    """
    if isinstance(library, ctypes.CDLL):
        return Program(library)
    path = Path(library).absolute()  # the loader looks for a bare name in the system's directories
    if not path.is_file():
        raise FileNotFoundError(f"there is no library {str(library)!r}; build the trainer as one: -shared -fPIC")
    return Program(ctypes.CDLL(os.fspath(path)))


class Program:
    """A trainer in C or C++, described by its `gradguard_table`.

    Args:
        library: The loaded library of the trainer.

    Attributes:
        library: As given; the trainer's own functions are called through it.
        params: The parameters by name: arrays on the trainer's memory.
        grads: The gradients by the same names: arrays on the trainer's memory.
        constants: Numbers of the training by name, at their current values.

    Raises:
        ValueError: The table cannot be used; the message names the tensor, what was given and what was expected.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._table = read_table(library)
        self._hook: _LoopHook | None = None
        self.params = NativeArrays(self._table, "values")
        self.grads = NativeArrays(self._table, "gradients")
        self.constants = NativeConstants(self._table)
        for arrays in (self.params, self.grads):
            dict(arrays)  # reads every row, so that a mistake in one is an error here

    def loss(self) -> float:
        """The loss on the current batch, at the current parameters."""
        value: float = self._table.loss(self._table.user)
        return value

    def run(
        self,
        guard: GradGuard,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call a function that runs the trainer's own loop, and check at the steps at which the loop asks for it.

        An exception in a check, such as a `GradientError`, or Ctrl-C at any time, asks the loop to stop; `run` raises
        it once the function has returned.

        Args:
            guard: A guard of the `params` and the `loss` of this program.
            function: A function of `library`, or any other that runs the loop.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What the function returns.
        """
        # An attribute, so that the pointer stays valid: a thread of the loop may still call it after the loop.
        self._hook = hook = _LoopHook(self, guard)
        self._table.after_backward = hook.pointer
        try:
            result = function(*args, **kwargs)
        finally:
            self._table.after_backward = AfterBackward()
            if hook.error is not None:
                raise hook.error
        if not hook.is_called:
            warnings.warn(
                "the loop ran without a check: it called gradguard_after_backward(&table, step) at no step; call it "
                "between the backward pass and the update",
                RuntimeWarning,
                stacklevel=2,
            )
        return result


class _LoopHook:
    """The function that the trainer's loop calls at each step while it runs under guard.

    Attributes:
        pointer: The function, as a C function pointer.
        is_called: Whether the loop has called it.
        error: The exception of a check, or of a signal handler; None while there is none.
    """

    def __init__(self, program: Program, guard: GradGuard) -> None:
        self.is_called = False
        self.error: BaseException | None = None
        answers = self._answers(program, guard)
        next(answers)
        self.pointer = AfterBackward(answers.send)

    def _answers(self, program: Program, guard: GradGuard) -> Generator[int, int, None]:
        """After each step that is sent, `CONTINUE` or `STOP`.

        ctypes prints and drops an exception of a function that C calls. Python raises the exception of a signal handler
        on entry to a function, outside of any `try` in it; a generator resumes inside its `try`.
        """
        while True:
            try:
                while self.error is None:
                    step = yield CONTINUE
                    self.is_called = True
                    guard.after_backward(step, program.grads, constants=program.constants)
                yield STOP
            except GeneratorExit:
                return
            except BaseException as error:
                self.error = error
