"""Single containers of state as they were: each can say whether it has changed, and put itself back.

Putting back can be interrupted and repeated. Values are compared by identity: an equal object is another one, which
somebody may hold.
"""

import operator
import random
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from types import CellType, MemberDescriptorType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gradguard.arrays import reductions

MISSING: Any = object()  # in place of the value of a name that is not bound


class Restorable(Protocol):
    """Something as it was."""

    def is_changed(self) -> bool:
        """Whether it is not as it was."""

    def put_back(self) -> None:
        """Make it as it was."""


class Held(Restorable, Protocol):
    """A container of state, as it was."""

    def again(self) -> "Held":
        """The same container, as it is now."""


def are_same(ours: Iterable[object], theirs: Iterable[object]) -> bool:
    """Whether two collections of equal length hold the same objects in the same order."""
    return all(map(operator.is_, ours, theirs))


class HeldDict:
    """A dict or the attributes of an object: its names, their order and the values bound to them."""

    __slots__ = ("_dict", "_kind", "_values")

    def __init__(self, names: dict[Any, Any]) -> None:
        # The methods of a plain dict: a subclass may have ways of its own.
        self._kind: Any = OrderedDict if isinstance(names, OrderedDict) else dict
        self._dict, self._values = names, dict(self._kind.items(names))

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldDict(self._dict)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        kind, now, before = self._kind, self._dict, self._values
        return not (
            kind.__len__(now) == len(before)
            and are_same(kind.values(now), before.values())
            and are_same(kind.keys(now), before)
        )

    def changed_names(self) -> set[Any]:
        """The names that are bound to something else than they were, or newly bound, or unbound."""
        now, before = dict(self._kind.items(self._dict)), self._values
        names = [*before, *(name for name in now if name not in before)]
        return {name for name in names if now.get(name, MISSING) is not before.get(name, MISSING)}

    @property
    def names(self) -> set[Any]:
        """All names that are bound, as it was."""
        return set(self._values)

    def accept(self, name: Any, value: object) -> None:
        """Bind a name, or unbind it for `MISSING`, and take that for what it was."""
        if value is MISSING:
            self._values.pop(name, None)
            dict.pop(self._dict, name, None)
        else:
            self._values[name] = value
            self._kind.__setitem__(self._dict, name, value)

    def value(self, name: Any) -> object:
        """What a name was bound to, or `MISSING`."""
        return self._values.get(name, MISSING)

    def put_back(self) -> None:  # noqa: D102 - as in Held
        kind = self._kind
        for name in list(kind.keys(self._dict)):
            if name not in self._values:
                kind.__delitem__(self._dict, name)
        # Bound one by one, so that nobody who reads meanwhile misses a name; what was deleted has lost its place.
        self._bind_all()
        if not are_same(kind.keys(self._dict), self._values):
            kind.clear(self._dict)
            self._bind_all()

    def _bind_all(self) -> None:
        for name, value in self._values.items():
            self._kind.__setitem__(self._dict, name, value)


class HeldNames:
    """Some names that are bound by one function and unbound by another: globals, slots, a cell, a class."""

    __slots__ = ("_bind", "_read", "_unbind", "_values")

    def __init__(
        self,
        names: Iterable[Any],
        read: Callable[[Any], object],
        bind: Callable[[Any, Any], object],
        unbind: Callable[[Any], object],
    ) -> None:
        self._read, self._bind, self._unbind = read, bind, unbind
        self._values = {name: read(name) for name in names}

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldNames(self._values, self._read, self._bind, self._unbind)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return any(self._read(name) is not value for name, value in self._values.items())

    def put_back(self) -> None:  # noqa: D102 - as in Held
        for name, value in self._values.items():
            if self._read(name) is value:
                continue
            if value is MISSING:
                self._unbind(name)
            else:
                self._bind(name, value)


class HeldCell:
    """A variable of an enclosing function."""

    __slots__ = ("_cell", "_value")

    def __init__(self, cell: CellType) -> None:
        self._cell, self._value = cell, read_cell(cell)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldCell(self._cell)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return read_cell(self._cell) is not self._value

    def put_back(self) -> None:  # noqa: D102 - as in Held
        if self._value is MISSING:
            del self._cell.cell_contents
        else:
            self._cell.cell_contents = self._value


def read_cell(cell: CellType) -> Any:
    """The value of a variable of an enclosing function, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


class HeldList:
    """The items of a list."""

    __slots__ = ("_items", "_list")

    def __init__(self, items: list[Any]) -> None:
        self._list, self._items = items, list.copy(items)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldList(self._list)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        now = self._list
        return not (list.__len__(now) == len(self._items) and are_same(list.__iter__(now), self._items))

    def put_back(self) -> None:  # noqa: D102 - as in Held
        list.__setitem__(self._list, slice(None), self._items)


class HeldDeque:
    """The items of a deque."""

    __slots__ = ("_deque", "_items")

    def __init__(self, items: deque[Any]) -> None:
        self._deque, self._items = items, tuple(deque.__iter__(items))

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldDeque(self._deque)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        now = self._deque
        return not (deque.__len__(now) == len(self._items) and are_same(deque.__iter__(now), self._items))

    def put_back(self) -> None:  # noqa: D102 - as in Held
        if self.is_changed():  # another thread may read it, which must not find it empty
            deque.clear(self._deque)
            deque.extend(self._deque, self._items)


class HeldBytes:
    """The bytes of a bytearray."""

    __slots__ = ("_bytes", "_now")

    def __init__(self, now: bytearray) -> None:
        self._now, self._bytes = now, bytes(now)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldBytes(self._now)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return self._now != self._bytes

    def put_back(self) -> None:  # noqa: D102 - as in Held
        self._now[:] = self._bytes


class HeldClass:
    """The attributes of a class."""

    __slots__ = ("_kind", "_values")

    def __init__(self, kind: type) -> None:
        self._kind, self._values = kind, dict(vars(kind))

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldClass(self._kind)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        now = vars(self._kind)
        return not (len(now) == len(self._values) and are_same(now.values(), self._values.values()))

    def put_back(self) -> None:  # noqa: D102 - as in Held
        now = vars(self._kind)
        for name in [name for name in now if name not in self._values and not name.startswith("__")]:
            type.__delattr__(self._kind, name)
        for name, value in self._values.items():
            if now.get(name, MISSING) is not value and not name.startswith("__"):
                type.__setattr__(self._kind, name, value)


class HeldSet:
    """A set."""

    __slots__ = ("_members", "_set")

    def __init__(self, members: set[Any]) -> None:
        self._set, self._members = members, frozenset(members)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldSet(self._set)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return self._set != self._members

    def put_back(self) -> None:  # noqa: D102 - as in Held
        set.intersection_update(self._set, self._members)
        set.update(self._set, self._members)


class HeldArray:
    """The bits of an array."""

    __slots__ = ("_array", "_bits")

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self._bits = array, array.tobytes()

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldArray(self._array)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return self._array.tobytes() != self._bits

    def put_back(self) -> None:  # noqa: D102 - as in Held
        self._array[...] = np.frombuffer(self._bits, self._array.dtype).reshape(self._array.shape)


class HeldObjects:
    """The items of an array of Python objects."""

    __slots__ = ("_array", "_items")

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self._items = array, array.copy()

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldObjects(self._array)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return not are_same(self._array.reshape(-1).tolist(), self._items.reshape(-1).tolist())

    def put_back(self) -> None:  # noqa: D102 - as in Held
        self._array[...] = self._items


class HeldChecksum:
    """An array that is too large to be copied: whether it has changed can be told, and that is all."""

    __slots__ = ("_array", "_checksum")

    def __init__(self, array: NDArray[Any]) -> None:
        self._array, self._checksum = array, checksum(array)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldChecksum(self._array)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return checksum(self._array) != self._checksum

    def put_back(self) -> None:
        """Nothing can be done."""


def checksum(array: NDArray[Any]) -> int:
    """The CRC-32 of the bytes of an array."""
    found = 0
    for block in reductions.byte_blocks(array):
        found = zlib.crc32(block, found)
    return found


class HeldStream:
    """The state of a random generator."""

    __slots__ = ("_generator", "_state")

    def __init__(self, generator: Any) -> None:
        self._generator, self._state = generator, _state_of(generator)

    def again(self) -> Held:  # noqa: D102 - as in Held
        return HeldStream(self._generator)

    def is_changed(self) -> bool:  # noqa: D102 - as in Held
        return not _is_same_state(_state_of(self._generator), self._state)

    def put_back(self) -> None:  # noqa: D102 - as in Held
        if isinstance(self._generator, np.random.Generator):
            self._generator.bit_generator.state = self._state
        elif isinstance(self._generator, np.random.RandomState):
            self._generator.set_state(self._state)
        else:
            self._generator.setstate(self._state)


def _state_of(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return random.Random.getstate(generator)


def _is_same_state(one: Any, other: Any) -> bool:
    """Whether two states are equal: nested mappings of numbers and arrays."""
    if isinstance(one, Mapping):
        return all(_is_same_state(value, other[name]) for name, value in one.items())
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)


def held_container(container: Any) -> Held:
    """A dict, list, deque or set, or one of a subclass."""
    return next(held(container) for kind, held in CONTAINERS.items() if isinstance(container, kind))


def held_globals(namespace: dict[str, Any], names: Iterable[str]) -> HeldNames:
    """Globals that a function binds."""
    return HeldNames(
        names, lambda name: namespace.get(name, MISSING), namespace.__setitem__, lambda name: namespace.pop(name, None)
    )


def held_slots(obj: object, slots: Iterable[MemberDescriptorType]) -> HeldNames:
    """Attributes that an object holds outside its `__dict__`."""
    return HeldNames(
        slots,
        lambda slot: read_slot(obj, slot),
        lambda slot, value: slot.__set__(obj, value),
        lambda slot: slot.__delete__(obj),
    )


def read_slot(obj: object, slot: MemberDescriptorType) -> object:
    """The value of an attribute that an object holds outside its `__dict__`, or `MISSING`."""
    try:
        value: object = slot.__get__(obj, type(obj))
    except AttributeError:
        return MISSING
    return value


CONTAINERS: dict[type, Callable[[Any], Held]] = {dict: HeldDict, list: HeldList, deque: HeldDeque, set: HeldSet}
