"""Custom autograd Functions without their backward pass: each runs as the ordinary operations of its forward pass.

Forward mode and vmap refuse a Function that has no rule of its own for them. While no gradients are recorded, its
forward pass is ordinary code of the loss: each operation in it has rules of PyTorch, and the hand-written backward pass
takes no part. A reverse pass that is to be exact has autograd record that forward pass too.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.overrides import _get_current_function_mode_stack

from gradguard.integrations.torch.overrides.substitution import Float64Mode, SubstitutionMode

ORIGINAL_APPLY = Function.__dict__["apply"]
INNER_CLASS = Function.__mro__[1]
"""The class whose `apply` that of `Function` calls. `op = Cell.apply`, bound by the user's module, gets there too."""
INNER_APPLY = next(base.__dict__["apply"] for base in INNER_CLASS.__mro__ if "apply" in base.__dict__)
TRANSFORMED = "torch._functorch.autograd_function"
"""The module of the classes that `torch.func` derives from a Function within a transform."""
ACTIVE: set["InlinedFunctions"] = set()
"""The contexts that are entered, in any thread."""
RECORDERS: dict[int, Callable[[type[Function], tuple[Any, ...]], Any]] = {}
"""For each thread that records the calls of Functions, what makes them instead."""


class InlinedFunctions(AbstractContextManager[None]):
    """Context in which Functions without a given rule run as the operations of their forward pass.

    It takes effect where its mode is active; other threads call Functions as always. A second exit, or an exit before
    the entry, does no harm.

    Args:
        mode: The mode in which this thread evaluates the loss.
        rule: The method by which a Function defines the rule: "jvp" or "vmap". None for a mode that records
            gradients, in which all Functions run as the operations of their forward pass.

    Attributes:
        mode: As given.
    """

    def __init__(self, mode: SubstitutionMode, rule: str | None) -> None:
        self.mode = mode
        self._rule = rule

    @property
    def is_suspended(self) -> bool:
        """Whether the loss itself needs gradients at this moment, and with them the backward passes of Functions."""
        return self._rule is not None and torch.is_grad_enabled()

    def has_rule(self, function: type[Function]) -> bool:
        """Whether a Function defines the rule."""
        return self._rule is not None and getattr(function, self._rule) is not getattr(Function, self._rule)

    def __enter__(self) -> None:
        ACTIVE.add(self)
        intercept_calls()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ACTIVE.discard(self)
        release_calls()


class InliningMode(Float64Mode):
    """Float64 copies, with custom Functions inlined; a subclass says what else is open while the mode is active.

    Args:
        pairs: Tensors, each with its substitute.
        training_dtype: The dtype of the training.
        rule: As of `InlinedFunctions`.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]], training_dtype: torch.dtype, rule: str | None) -> None:
        super().__init__(pairs, training_dtype)
        self._functions = InlinedFunctions(self, rule)

    def _open(self) -> None:
        """Enter what is to be open before the first operation."""
        raise NotImplementedError

    def _close(self) -> None:
        """Exit what is open, if anything is."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._open()
            self._functions.__enter__()
            super().__enter__()  # type: ignore[no-untyped-call]
        except BaseException:  # interrupts too: a mode that is half entered is exited first
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._functions.__exit__(kind, error, trace)
        self._close()


def intercept_calls() -> None:
    """Have the calls of Functions go through the contexts that are active and the recorder of the thread."""
    Function.apply = classmethod(_apply)  # type: ignore[method-assign,assignment]  # until the last one exits
    INNER_CLASS.apply = classmethod(_inner_apply)  # type: ignore[attr-defined]  # likewise


def release_calls() -> None:
    """Have Functions called as always, where no context is active and no thread records."""
    if not ACTIVE and not RECORDERS:
        Function.apply = ORIGINAL_APPLY  # type: ignore[method-assign]  # as it was
        if "apply" in INNER_CLASS.__dict__:
            del INNER_CLASS.apply  # type: ignore[attr-defined]  # it is inherited


def _apply(function: type[Function], *args: Any, **kwargs: Any) -> Any:
    """`Function.apply` while calls are intercepted."""
    return _inlined(ORIGINAL_APPLY.__get__(None, function), function, args, kwargs)


def _inner_apply(function: type[Function], *args: Any, **kwargs: Any) -> Any:
    """`apply` of the class below `Function` while calls are intercepted."""
    apply, recorder = INNER_APPLY.__get__(None, function), RECORDERS.get(threading.get_ident())
    if recorder is not None and not kwargs:  # PyTorch says that there are no arguments by name
        return recorder(function, args)
    return apply(*args, **kwargs) if function.__module__ == TRANSFORMED else _inlined(apply, function, args, kwargs)


def _inlined(apply: Callable[..., Any], function: type[Function], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call of a Function by its own rule, by the operations of its forward pass, or as always."""
    contexts = _active_in_this_thread()
    if not contexts:
        return apply(*args, **kwargs)
    if all(context.has_rule(function) for context in contexts):
        substitute = contexts[0].mode.substitute
        return apply(*map(substitute, args), **{name: substitute(value) for name, value in kwargs.items()})
    if function.setup_context is not Function.setup_context:
        return function.forward(*args, **kwargs)
    ctx = FunctionCtx()
    ctx.needs_input_grad = (False,) * len(args)  # type: ignore[attr-defined]  # PyTorch sets it too
    return function.forward(ctx, *args, **kwargs)


def _active_in_this_thread() -> list[InlinedFunctions]:
    modes = set(map(id, _get_current_function_mode_stack()))  # type: ignore[no-untyped-call]
    return [context for context in tuple(ACTIVE) if id(context.mode) in modes and not context.is_suspended]
