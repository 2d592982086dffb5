"""NumPy's error settings: gradguard computes under its own, the user's code under the user's.

`np.seterr(all="raise")` is how people look for the first nan of a training. An underflow in an error bar is none.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

import numpy as np

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

SILENT = {"warn": "ignore", "print": "ignore"}

# The settings of the user, and those in which nothing is printed or warned of.
_OF_USER: ContextVar[tuple[Mapping[str, Any], Mapping[str, Any]]] = ContextVar(
    "numpy_errors_of_user", default=(MappingProxyType({}), MappingProxyType({}))
)


def own_numerics(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that computes without floating-point errors; what it calls under `user_settings` keeps the user's."""

    @wraps(function)
    def under_own_settings(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        settings: dict[str, Any] = dict(np.geterr())
        token = _OF_USER.set((settings, {kind: SILENT.get(reaction, reaction) for kind, reaction in settings.items()}))
        try:
            with np.errstate(all="ignore"):
                return function(*args, **kwargs)
        finally:
            _OF_USER.reset(token)

    return under_own_settings


def user_settings(*, moved: bool) -> np.errstate:
    """A context manager in which NumPy's error settings are those of the code that called gradguard.

    Args:
        moved: Whether the loss is evaluated at moved parameters: an overflow there is no news of the training, so that
            nothing is printed or warned of. What the user made an error stays one.
    """
    return np.errstate(**_OF_USER.get()[moved])
