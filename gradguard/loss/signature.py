"""The forms that a loss may have, and what it may return."""

import inspect
from collections.abc import Callable
from numbers import Number
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Loss = Callable[..., object]
Reduction = Literal["sum", "mean"]


def takes_parameters(loss: Loss) -> bool:
    """Whether the loss is `loss(params)`; otherwise it is `loss()` and reads the live arrays.

    A parameter with a default does not count: the loss can be called as `loss()`.

    Raises:
        TypeError: the loss is no callable, or wants more than one argument.
    """
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}; expected a callable, loss() or loss(params)")
    try:
        parameters = inspect.signature(loss).parameters.values()
    except (TypeError, ValueError):  # some extension types have no signature; they are called as loss()
        return False
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    by_keyword = any(parameter.kind is parameter.KEYWORD_ONLY and parameter.name in needed for parameter in parameters)
    if len(needed) > 1 or by_keyword:
        raise TypeError(f"loss takes the arguments {', '.join(needed)}; expected a callable, loss() or loss(params)")
    return len(needed) == 1


def require_reduction(reduction: str | None) -> Reduction | None:
    """The reduction that the user named.

    Raises:
        ValueError: there is none of that name; the message lists the valid ones.
    """
    if reduction is None or reduction in get_args(Reduction):
        return reduction  # type: ignore[return-value]  # just compared with the literal's values
    raise ValueError(f"reduction is {reduction!r}; expected 'sum', 'mean' or None")


def losses_of(result: object, reduction: Reduction | None) -> NDArray[Any]:
    """What one evaluation of a loss returned, as an array; it may have several numbers if there is a `reduction`.

    Raises:
        TypeError: it is no number and no array of numbers.
        ValueError: it has several numbers and there is no `reduction`.
    """
    values = numbers_of(result)
    if values.size != 1 and reduction is None:
        raise ValueError(
            f"the loss returned an array of shape {values.shape} and no reduction was given; pass the one that the "
            "gradient belongs to: reduction='sum' or reduction='mean'"
        )
    return values


def numbers_of(result: object) -> NDArray[Any]:
    """What a loss returned, as an array of any shape but an empty one.

    Raises:
        TypeError: it is no number and no array of numbers, or an empty array.
    """
    if isinstance(result, tuple) or (isinstance(result, list) and not all(isinstance(one, Number) for one in result)):
        others = ", ".join(type(item).__name__ for item in result)
        raise TypeError(
            f"the loss returned a {type(result).__name__} of {len(result)} ({others}); expected a number, or an array "
            "of unreduced losses. Where the loss is the first of them, pass loss=lambda: f()[0], or lambda params: "
            "f(params)[0]"
        )
    values = np.asarray(result)
    if values.dtype.kind not in "fiu" or values.size == 0:
        what = f"an array of dtype {values.dtype} and shape {values.shape}" if values.ndim else type(result).__name__
        raise TypeError(f"the loss returned {what}; expected a number, or an array of unreduced losses")
    return values
