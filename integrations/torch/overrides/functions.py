"""Custom Functions without their backward pass: what the operations of a forward pass come to by themselves.

Forward mode and vmap refuse a Function that has no rule for them. While no gradients are recorded its forward pass is
but a piece of the loss, and each operation in it has rules of PyTorch's own, of which the hand-written backward pass is
no part.
"""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import FunctionCtx
from torch.overrides import _get_current_function_mode_stack

from gradguard.integrations.torch.overrides.double import StandingIn

APPLY = Function.__dict__["apply"]
OPEN: set["SeenThrough"] = set()


class SeenThrough(AbstractContextManager[None]):
    """While it is entered, and where a mode is, Functions without the rule needed are run as the code they are.

    Other threads see no difference. It may be left more than once, and before it was entered.

    Args:
        mode: What this thread is in while the loss runs.
        rule: The method of a Function that makes it its own: "jvp" or "vmap".
    """

    def __init__(self, mode: StandingIn, rule: str) -> None:
        self.mode = mode
        self.rule = rule

    def __enter__(self) -> None:
        OPEN.add(self)
        Function.apply = classmethod(_apply)  # type: ignore[method-assign,assignment]  # for the time of the loss

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        OPEN.discard(self)
        if not OPEN:
            Function.apply = APPLY  # type: ignore[method-assign]  # as it was


def _apply(function: type[Function], *args: Any, **kwargs: Any) -> Any:
    apply, here = APPLY.__get__(None, function), _here()
    if not here or torch.is_grad_enabled():
        return apply(*args, **kwargs)
    if all(getattr(function, seen.rule) is not getattr(Function, seen.rule) for seen in here):
        exact = here[0].mode.exact
        return apply(*map(exact, args), **{name: exact(value) for name, value in kwargs.items()})
    if function.setup_context is not Function.setup_context:
        return function.forward(*args, **kwargs)
    context = FunctionCtx()
    context.needs_input_grad = (False,) * len(args)  # type: ignore[attr-defined]  # PyTorch sets it, too
    return function.forward(context, *args, **kwargs)


def _here() -> list[SeenThrough]:
    """Those that are entered in this thread."""
    modes = set(map(id, _get_current_function_mode_stack()))  # type: ignore[no-untyped-call]
    return [seen for seen in tuple(OPEN) if id(seen.mode) in modes]
