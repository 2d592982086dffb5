"""A trainer in C or C++, attached: its memory, its loss, and its own loop under guard."""

import ctypes
import os
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import ParamSpec, TypeVar

from gradguard.integrations.native.abi import AfterBackward
from gradguard.integrations.native.table import NativeArrays, NativeConstants, table_of
from gradguard.training.callback import GradGuard

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

GO_ON, STOP = 0, 1


def load(library: str | os.PathLike[str] | ctypes.CDLL) -> "Program":
    """Attach to a trainer that was built as a shared library with `gradguard.h`.

    Args:
        library: The path of the library; or the library itself, where something of it must be called first.

    Raises:
        OSError: The library cannot be loaded.
        ValueError: Its table cannot be used; the message names the tensor, what was given and what was expected.
    """
    if isinstance(library, ctypes.CDLL):
        return Program(library)
    path = Path(library).absolute()  # a bare name would be looked for in the system's folders
    if not path.is_file():
        raise FileNotFoundError(f"there is no library {str(library)!r}; build the trainer as one: -shared -fPIC")
    return Program(ctypes.CDLL(os.fspath(path)))


class Program:
    """A trainer in C or C++ that tells of itself by the table of `gradguard.h`.

    Args:
        library: What it was loaded as.

    Attributes:
        library: The same, to call the trainer's own functions.
        params: The values by name, in place.
        grads: Their gradients by the same names, in place.
        constants: Numbers of the training by name, as they are now.

    Raises:
        ValueError: The table cannot be used; the message names the tensor, what was given and what was expected.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self._table = table_of(library)
        self._watch: _Watch | None = None
        self.params = NativeArrays(self._table, "values")
        self.grads = NativeArrays(self._table, "gradients")
        self.constants = NativeConstants(self._table)
        for arrays in (self.params, self.grads):
            dict(arrays)  # to look at each is to have it refused by name

    def loss(self) -> float:
        """The loss on the current batch, at the values as they are."""
        value: float = self._table.loss(self._table.user)
        return value

    def run(
        self,
        guard: GradGuard,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call a function that runs the trainer's own loop, under guard.

        What a check raises, such as a `GradientError`, or Ctrl-C at any time, asks the loop to stop, and is raised
        here once the function has returned.

        Args:
            guard: Of the `params` and the `loss` of this program.
            function: One of `library`, or any other that ends up in the loop.
            *args: What it is called with.
            **kwargs: The same, by name.

        Returns:
            What the function returns.
        """
        self._watch = watch = _Watch(self, guard)  # kept: the loop may have a thread that calls once too often
        self._table.after_backward = watch.hook
        try:
            result = function(*args, **kwargs)
        finally:
            self._table.after_backward = AfterBackward()
            if watch.raised is not None:
                raise watch.raised
        if not watch.is_called:
            warnings.warn(
                "the loop ran without a check: it called gradguard_after_backward(&table, step) at no step; call it "
                "between the backward pass and the update",
                RuntimeWarning,
                stacklevel=2,
            )
        return result


class _Watch:
    """What the loop calls, while it runs under guard.

    Attributes:
        hook: It, as a pointer to a function.
        is_called: Whether it ever was.
        raised: What was raised meanwhile.
    """

    def __init__(self, program: Program, guard: GradGuard) -> None:
        self.is_called = False
        self.raised: BaseException | None = None
        answers = self._answers(program, guard)
        next(answers)
        self.hook = AfterBackward(answers.send)

    def _answers(self, program: Program, guard: GradGuard) -> Generator[int, int, None]:
        """Whether to go on, after each step that is sent.

        ctypes prints what a function raises that C has called, and drops it. What a signal raises, Python raises on
        entry to a function, where no `try` of that function can catch it; but a generator is entered inside of one.
        """
        while True:
            try:
                while self.raised is None:
                    step = yield GO_ON
                    self.is_called = True
                    guard.after_backward(step, program.grads, constants=program.constants)
                yield STOP
            except GeneratorExit:
                return
            except BaseException as error:
                self.raised = error
