"""Arrays in nested mappings, lists and tuples, seen as one flat mapping from names to arrays."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence
from numbers import Number
from typing import Any, TypeAlias

from gradguard.arrays import Array

ArrayContainer: TypeAlias = Mapping[Any, Any] | list[Any] | tuple[Any, ...] | Array
"""A mapping, list or tuple of arrays or of further such containers, or one array."""
ONLY = "params"  # the name of a parameter that is the whole container
SEPARATOR = "."


def is_container(value: object) -> bool:
    """Whether a value holds arrays, rather than being one: a list of numbers is an array that is none yet."""
    if isinstance(value, Mapping):
        return True
    return isinstance(value, list | tuple) and not (value and all(isinstance(item, Number) for item in value))


def leaves(root: object, name: str, of: str) -> Iterator[tuple[str, Any, Any]]:
    """Each value in a container that is none itself: its name, what holds it, and the key under which it does.

    Args:
        root: The container.
        name: Its own name, "" for the outermost.
        of: What the container is called in a message.

    Raises:
        ValueError: A container holds itself.
    """
    yield from _leaves(root, name, of, ())


def _leaves(holder: Any, name: str, of: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any, Any]]:
    if id(holder) in above:
        raise ValueError(f"{of} holds itself, at {name!r}; expected arrays in mappings, lists and tuples")
    for key, value in holder.items() if isinstance(holder, Mapping) else enumerate(holder):
        full = f"{name}{SEPARATOR}{key}" if name else str(key)
        if is_container(value):
            yield from _leaves(value, full, of, (*above, id(holder)))
        else:
            yield full, holder, key


class Container(MutableMapping[str, Any]):
    """A flat view of a container of arrays, which reads and assigns in the container itself.

    Names are joined with "."; one array by itself has the name "params". The structure is that of when the view was
    made; an array that is bound anew in it is seen.

    Args:
        root: The container.
        of: What it is called in a message.

    Raises:
        ValueError: Two arrays have one name, or a container holds itself.
    """

    def __init__(self, root: Any, of: str = ONLY) -> None:
        self.root = root
        self._places: dict[str, tuple[Any, Any]] = {}
        for name, holder, key in leaves(root, "", of) if is_container(root) else [(ONLY, (root,), 0)]:
            if name in self._places:
                raise ValueError(f"{of} holds two arrays of the name {name!r}; expected different names")
            self._places[name] = holder, key

    def __getitem__(self, name: str) -> Any:
        holder, key = self._places[name]
        return holder[key]

    def __setitem__(self, name: str, value: Any) -> None:
        holder, key = self._places[name]
        holder[key] = value

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name!r} cannot be taken out of the parameters")

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def holders(self) -> list[Any]:
        """The mappings, lists and tuples that hold an array, each once."""
        return list({id(holder): holder for holder, _ in self._places.values()}.values())

    @property
    def is_mutable(self) -> bool:
        """Whether each array can be replaced by another one."""
        return all(isinstance(holder, MutableMapping | MutableSequence) for holder in self.holders)

    def filled(self, arrays: Mapping[str, Any]) -> Any:
        """A container of the same form that holds other arrays, given by the names of this view."""
        return _filled(self.root, "", arrays) if is_container(self.root) else arrays[ONLY]


def _filled(holder: Any, name: str, arrays: Mapping[str, Any]) -> Any:
    items = holder.items() if isinstance(holder, Mapping) else enumerate(holder)
    named = [(key, value, f"{name}{SEPARATOR}{key}" if name else str(key)) for key, value in items]
    filled = {key: _filled(value, full, arrays) if is_container(value) else arrays[full] for key, value, full in named}
    if isinstance(holder, Mapping):
        return OrderedDict(filled) if isinstance(holder, OrderedDict) else filled
    values = list(filled.values())
    if isinstance(holder, list):
        return values
    return type(holder)(*values) if hasattr(holder, "_fields") else tuple(values)
