"""The state that a loss can reach, by plain Python: what it closes over, reads of its module, and finds in there.

Nothing of the user's is called: attributes are read past properties, and containers by the methods of their plain
kinds. What lies in extension types, iterators, files and libraries is out of reach.
"""

import functools
import queue
import random
import threading
from collections import UserDict, UserList, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from gradguard.environment.held import (
    Held,
    HeldArray,
    HeldBytes,
    HeldCell,
    HeldChecksum,
    HeldClass,
    HeldDeque,
    HeldDict,
    HeldList,
    HeldObjects,
    HeldSet,
    HeldStream,
    held_globals,
    held_slots,
    read_cell,
    read_slot,
)
from gradguard.environment.names import globals_of, is_foreign, names_of_class

Place = tuple[str, ...]
"""How an object is reached from the loss: names of variables, attributes, keys."""

LEAVES = frozenset(
    {
        bool, int, float, complex, str, bytes, type(None), range, slice, type(...), type(NotImplemented), np.dtype,
        np.ufunc, BuiltinFunctionType, CodeType, np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_,
    }
)  # fmt: skip
BETWEEN_THREADS = (
    threading.Thread, type(threading.Lock()), type(threading.RLock()), threading.Condition, threading.Event,
    threading.Semaphore, queue.Queue, queue.SimpleQueue,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of the reachable state is held.

    Attributes:
        objects: Objects that are looked at, the nearest ones first.
        items: The longest container that is held.
        array_bytes: The largest array that is copied.
        own_bytes: The largest parameter or gradient that is copied once more here; of larger ones a checksum is taken.
        copied_bytes: Of all arrays that are copied.
        checked_bytes: Of all arrays of which a checksum is taken, where they are too large to be copied.
    """

    objects: int
    items: int
    array_bytes: int
    own_bytes: int
    copied_bytes: int
    checked_bytes: int = 0


@dataclass(slots=True)
class Reach:
    """A walk through the objects that are reachable from some others, the nearest ones first.

    Attributes:
        limits: How much is held.
        wanted: Places that are held whatever their size, and looked at however far they are.
        own: The identities of the parameters and gradients.
        held: What is held, with its place.
        own_places: Where the parameters and gradients were found.
    """

    limits: Limits
    wanted: Collection[Place] = ()
    own: Collection[int] = ()
    held: list[tuple[Place, Held]] = field(default_factory=list)
    own_places: set[Place] = field(default_factory=set)
    _queue: deque[tuple[Place, Any]] = field(default_factory=deque)
    _seen: set[int] = field(default_factory=set)
    _on_the_way: set[Place] = field(default_factory=set)
    _copied: int = 0
    _checked: int = 0
    _is_threaded: bool = False

    def walk(self, roots: Iterable[tuple[str, object]]) -> list[tuple[Place, Held]]:
        """Hold what is reachable from some objects; nothing is changed."""
        self._is_threaded = threading.active_count() > 1
        self._on_the_way = {place[:end] for place in self.wanted for end in range(1, len(place) + 1)}
        for name, root in roots:
            self._add((name,), root)
            if type(root).__module__.startswith("gradguard."):  # a mark on the user's loss
                self._add((name,), getattr(root, "loss", None))
        while self._queue:
            place, found = self._queue.popleft()
            if len(self._seen) <= self.limits.objects or place in self._on_the_way:
                visit = VISITS.get(type(found)) or _visit_of(found)
                visit(self, place, found)
        return self.held

    def _add(self, place: Place, found: object) -> None:
        """Queue an object that may hold state, once."""
        if type(found) not in LEAVES and id(found) not in self._seen:
            self._seen.add(id(found))
            self._queue.append((place, found))

    def _fits(self, place: Place, count: int) -> bool:
        return count <= self.limits.items or place in self._on_the_way

    def _array(self, place: Place, array: Any) -> None:
        if not array.flags.writeable or not array.size:
            return
        if array.dtype == object:
            if self._fits(place, array.size):
                self.held.append((place, HeldObjects(array)))
                self._sequence(place, array.reshape(-1).tolist())
            return
        is_own = id(array) in self.own
        if is_own:
            self.own_places.add(place)
        most = self.limits.own_bytes if is_own else self.limits.array_bytes
        fits = array.nbytes <= most and self._copied + array.nbytes <= self.limits.copied_bytes
        if fits or place in self._on_the_way:
            self._copied += array.nbytes
            self.held.append((place, HeldArray(array)))
        elif self._checked + array.nbytes <= self.limits.checked_bytes:
            self._checked += array.nbytes
            self.held.append((place, HeldChecksum(array)))

    def _dict(self, place: Place, names: dict[Any, Any]) -> None:
        if self._fits(place, dict.__len__(names)):
            self.held.append((place, HeldDict(names)))
            for name, value in dict.items(names):
                if type(value) not in LEAVES:
                    self._add((*place, name if type(name) is str else repr(name) if type(name) is int else "?"), value)

    def _list(self, place: Place, items: list[Any]) -> None:
        if self._fits(place, list.__len__(items)):
            self.held.append((place, HeldList(items)))
            self._sequence(place, list.__iter__(items))

    def _deque(self, place: Place, items: deque[Any]) -> None:
        if self._fits(place, deque.__len__(items)):
            self.held.append((place, HeldDeque(items)))
            self._sequence(place, deque.__iter__(items))

    def _tuple(self, place: Place, items: tuple[Any, ...]) -> None:
        self._sequence(place, tuple.__iter__(items))

    def _sequence(self, place: Place, items: Iterable[Any]) -> None:
        for index, value in enumerate(items):
            if type(value) not in LEAVES:
                self._add((*place, str(index)), value)

    def _set(self, place: Place, members: set[Any]) -> None:
        if self._fits(place, set.__len__(members)):
            self.held.append((place, HeldSet(members)))

    def _bytes(self, place: Place, now: bytearray) -> None:
        if self._fits(place, len(now)):
            self.held.append((place, HeldBytes(now)))

    def _stream(self, place: Place, generator: Any) -> None:
        self.held.append((place, HeldStream(generator)))

    def _cell_contents(self, place: Place, function: FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if id(cell) not in self._seen:
                self._seen.add(id(cell))
                self.held.append(((*place, name), HeldCell(cell)))
                self._add((*place, name), read_cell(cell))

    def _function(self, place: Place, function: FunctionType) -> None:
        if is_foreign(function.__module__):
            return
        if function.__closure__:
            self._cell_contents(place, function)
        if function.__defaults__:
            self._sequence((*place, "defaults"), function.__defaults__)
        if function.__kwdefaults__:
            self._dict((*place, "defaults"), function.__kwdefaults__)
        self._dict(place, vars(function))
        read, bound = globals_of(function.__code__)
        namespace = function.__globals__
        if bound:
            self.held.append(((*place, "globals"), held_globals(namespace, bound)))
        for name in read:
            value = namespace.get(name)
            if type(value) not in LEAVES:
                self._add((name,), value)

    def _method(self, place: Place, method: MethodType) -> None:
        self._add(place, method.__self__)
        self._add((*place, method.__func__.__name__), method.__func__)

    def _partial(self, place: Place, partial: functools.partial[Any]) -> None:
        self._add((*place, "func"), partial.func)
        self._sequence((*place, "args"), partial.args)
        self._dict((*place, "keywords"), partial.keywords)

    def _module(self, place: Place, module: ModuleType) -> None:
        if not is_foreign(module.__name__):
            self.held.append((place, HeldDict(vars(module))))

    def _class(self, place: Place, kind: type) -> None:
        names = names_of_class(kind)
        for base in names.classes:
            if base is kind or id(base) not in self._seen:
                self._seen.add(id(base))
                self.held.append((place, HeldClass(base)))
                for name, value in vars(base).items():
                    if not (isinstance(value, FunctionType) or name.startswith("__")):
                        self._add((*place, name), value)
        for function in names.functions:
            self._add((*place, function.__name__), function)

    def _instance(self, place: Place, obj: object) -> None:
        kind = type(obj)
        if not is_foreign(kind.__module__):
            self._attributes(place, obj)

    def _attributes(self, place: Place, obj: object) -> None:
        kind = type(obj)
        try:
            names = object.__getattribute__(obj, "__dict__")
        except AttributeError:
            names = None
        if type(names) is dict:
            if self._is_threaded and any(isinstance(value, BETWEEN_THREADS) for value in names.values()):
                return  # another thread may write to it meanwhile, and nobody could tell whose change it is
            self._dict(place, names)
        slots = names_of_class(kind).slots
        if slots:
            self.held.append((place, held_slots(obj, slots)))
            for slot in slots:
                self._add((*place, slot.__name__), read_slot(obj, slot))
        self._add((*place, kind.__name__), kind)


Visit = Callable[[Reach, Place, Any], None]
HOLDERS: dict[type, Visit] = {
    np.ndarray: Reach._array,
    dict: Reach._dict,
    list: Reach._list,
    tuple: Reach._tuple,
    deque: Reach._deque,
    set: Reach._set,
    bytearray: Reach._bytes,
    np.random.Generator: Reach._stream,
    np.random.RandomState: Reach._stream,
    random.Random: Reach._stream,
    SimpleNamespace: Reach._attributes,
    UserDict: Reach._attributes,
    UserList: Reach._attributes,
}
VISITS: dict[type, Visit] = HOLDERS | {
    FunctionType: Reach._function,
    MethodType: Reach._method,
    ModuleType: Reach._module,
    functools.partial: Reach._partial,
    type: Reach._class,
}


def _visit_of(found: object) -> Visit:
    """How an object of some other type is visited."""
    for kind, visit in VISITS.items():
        if isinstance(found, kind):
            return _both(visit)
    return Reach._instance


@functools.cache
def _both(visit: Visit) -> Visit:
    """A visit of a container of a subclass, whose instances have attributes too."""

    def visit_both(reach: Reach, place: Place, found: Any) -> None:
        visit(reach, place, found)
        reach._instance(place, found)

    return visit_both
