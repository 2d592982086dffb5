"""What a function reads besides its arguments: the cells of its closure, its globals, the object it is a method of."""

import builtins
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

from gradguard.integrations.torch.replay.saved import Walk, restore_all
from gradguard.perturbation import Restore

MAX_BYTES = 2**28
"""Memory for copies of tensors that a loss names: 256 MiB."""


class LossState:
    """The containers, objects and tensors that a loss names, such as a list in which it notes its values.

    They are put back once, at the end of a check; so are tensors, such as a batch that the loss normalizes in place.

    Args:
        skipped: Objects that are restored elsewhere.

    Attributes:
        loss: The function, or a list of several.
    """

    def __init__(self, *skipped: object) -> None:
        self._skipped = skipped
        self._restore: Restore = _nothing
        self.loss: object = None

    def capture(self) -> Restore:
        """Remember them, as a check begins; what is returned does nothing."""
        walk = Walk(skipped=self._skipped, max_bytes=MAX_BYTES, follow=named_by)
        self._restore = restore_all(list(walk.contents(self.loss)))
        return _nothing

    def restore(self) -> None:
        """Put them back, after a check; calling it once more does no harm."""
        self._restore()

    def release(self) -> None:
        """Forget them."""
        self._restore = _nothing


def _nothing() -> None:
    """What a capture returns that is restored elsewhere."""


def named_by(function: object) -> list[object]:
    """What a function has names for: globals, cells of its closure, defaults; the object that a method is of."""
    if isinstance(function, functools.partial):
        return [function.func, *function.args, *function.keywords.values()]
    if isinstance(function, types.MethodType):
        return [function.__func__, function.__self__]
    if isinstance(function, types.FunctionType):
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        return [*_named(function).values(), *defaults]
    return []


def frozen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with what its names mean now: those in it that are bound anew later do not change it.

    Functions that it calls read their own globals as they are when it is called.
    """
    if not isinstance(function, types.FunctionType):
        return function
    named = _named(function)
    cells = tuple(
        types.CellType(named[name]) if name in named else cell
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    )
    meanings = {"__builtins__": builtins, **_globals_of(function)}
    copied = types.FunctionType(function.__code__, meanings, function.__name__, function.__defaults__, cells)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _named(function: types.FunctionType) -> dict[str, object]:
    """The values of the globals that a function names and of the cells of its closure."""
    values = dict(_globals_of(function))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # it is not bound yet
            continue
    return values


def _globals_of(function: types.FunctionType) -> dict[str, object]:
    names = set(_names(function.__code__)) & function.__globals__.keys()
    return {name: function.__globals__[name] for name in names}


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names in a function, and in the functions within it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
