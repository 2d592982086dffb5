"""Attributes of an object, class or module replaced by others for some time."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

Wrapper = Callable[..., Any]
"""Called with the original function, bound to its object, and the arguments of the call."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A function that is an attribute, as it was before it was replaced.

    Attributes:
        owner: The object, class or module.
        name: The name of the attribute.
        own: The attribute as the owner itself holds it; `MISSING` where it comes from a class.
    """

    owner: Any
    name: str
    own: Any

    def undo(self) -> None:
        """Put the attribute back."""
        if self.own is MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.own)


MISSING = object()


def patched(owner: Any, name: str, wrapper: Wrapper) -> Patch:
    """Replace a function that is an attribute, such as a method, by a wrapper of it.

    Args:
        owner: An object, a class or a module.
        name: The name of the attribute.
        wrapper: `wrapper(function, *args, **kwargs)` is called in place of `function(*args, **kwargs)`.

    Raises:
        AttributeError: There is no such attribute, or it cannot be set.
        TypeError: It is no function.
    """
    what = name_of(owner)
    if not hasattr(owner, name):
        raise AttributeError(f"{what} has no attribute {name!r}; expected the name of a function")
    if not callable(getattr(owner, name)):
        raise TypeError(f"{what}.{name} is a {type(getattr(owner, name)).__name__}; expected a function")
    patch = Patch(owner, name, getattr(owner, "__dict__", {}).get(name, MISSING))
    try:
        setattr(owner, name, _wrapped(owner, name, wrapper))
    except AttributeError:
        raise AttributeError(
            f"{what}.{name} cannot be replaced, since the object has no __dict__; pass its class instead"
        ) from None
    return patch


def _wrapped(owner: Any, name: str, wrapper: Wrapper) -> Any:
    function, raw = getattr(owner, name), inspect.getattr_static(owner, name)

    # By `wraps` a wrapper belongs to the user's module, so that what the function writes to is reached through it.
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(function, *args, **kwargs)

    @functools.wraps(function, updated=())
    def call_method(obj: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(raw.__get__(obj, owner), *args, **kwargs)

    if not isinstance(owner, type):
        return call
    return call_method if isinstance(raw, FunctionType) else staticmethod(call)


def name_of(owner: Any) -> str:
    """What an owner of functions is called: a class or a module by its name, an object by its class."""
    if isinstance(owner, ModuleType):
        return owner.__name__.rpartition(".")[2]
    return owner.__name__ if isinstance(owner, type) else type(owner).__name__
