"""The attributes of an object as a mapping, for models that keep their arrays in `self.W`."""

import difflib
from collections.abc import Iterator, MutableMapping
from types import MemberDescriptorType
from typing import Any

import numpy as np


class Attributes(MutableMapping[str, Any]):
    """Some attributes of an object by name; assigning to an entry assigns to the attribute.

    Args:
        obj: The object.
        names: The name of each attribute, by the name of its entry.
    """

    def __init__(self, obj: object, names: dict[str, str]) -> None:
        self._obj = obj
        self._names = names

    def __getitem__(self, name: str) -> Any:
        return getattr(self._obj, self._names[name])

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._obj, self._names[name], value)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} cannot be taken out: it is an attribute of a {type(self._obj).__name__}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        names = "".join(
            f", {name!r}" if name == attribute else f", {name}={attribute!r}" for name, attribute in self._names.items()
        )
        return f"attributes(<{type(self._obj).__name__}>{names})"

    @property
    def keeps_assigned_objects(self) -> bool:
        """Whether each attribute is known to be the very object that was assigned to it, on this object alone."""
        kind = type(self._obj)
        is_plain = kind.__setattr__ is object.__setattr__ and kind.__getattribute__ is object.__getattribute__
        return is_plain and all(map(self._is_stored, self._names.values()))

    def _is_stored(self, attribute: str) -> bool:
        """Whether the object itself stores an attribute, in its dict or a slot, and no property stands before it."""
        of_class = getattr(type(self._obj), attribute, None)
        if isinstance(of_class, MemberDescriptorType):
            return True
        return attribute in getattr(self._obj, "__dict__", {}) and not hasattr(of_class, "__set__")


def attributes(obj: object, *names: str, **renamed: str) -> Attributes:
    """A live mapping of some attributes of an object, such as the parameters of a model that keeps them in `self.W`.

    `attributes(model, "Wf", "Wi")` are the parameters, `attributes(model, Wf="dWf", Wi="dWi")` their gradients. Each
    look reads the attribute anew, so that `self.W = self.W - lr * self.dW` is seen.

    Args:
        obj: The object.
        names: Attributes that keep their names.
        renamed: The names of attributes, by the names that they have in the mapping.

    Raises:
        AttributeError: There is no attribute of a name; the message lists those that are arrays.
        ValueError: No names were given, or one stands twice.
    """
    chosen = {name: name for name in names} | renamed
    if not chosen:
        raise ValueError(f"attributes was given no names{_arrays_of(obj)}")
    if len(chosen) < len(names) + len(renamed):
        raise ValueError(f"attributes was given a name twice: {', '.join((*names, *renamed))}")
    for attribute in chosen.values():
        if not hasattr(obj, attribute):
            raise AttributeError(f"{type(obj).__name__} has no attribute {attribute!r}{_arrays_of(obj, attribute)}")
    return Attributes(obj, chosen)


def array_attributes(obj: object) -> list[str]:
    """The names of the attributes of an object that are arrays of floating-point numbers."""
    own = getattr(obj, "__dict__", {})
    return [name for name, value in own.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def _arrays_of(obj: object, wanted: str = "") -> str:
    """Which arrays the object has, those first that are called alike, in a clause; "" where it has none."""
    there = array_attributes(obj)
    in_lower_case = {name.lower(): name for name in there}
    alike = [in_lower_case[name] for name in difflib.get_close_matches(wanted.lower(), in_lower_case)]
    names = ", ".join([*alike, *(name for name in there if name not in alike)])
    return f"; its arrays are {names}" if names else ""
