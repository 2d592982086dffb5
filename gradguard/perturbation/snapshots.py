"""Snapshots of state that an evaluation of the loss may disturb.

A snapshot is any callable that captures some state and returns the callable that restores it.
"""

import copy
import random
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

Restore = Callable[[], None]
Snapshot = Callable[[], Restore]


@runtime_checkable
class _LegacyGenerator(Protocol):
    def get_state(self) -> object: ...
    def set_state(self, state: object) -> None: ...


def snapshot_attributes(obj: object, *names: str) -> Snapshot:
    """A snapshot of some attributes of an object: a carried hidden state, running statistics, a call counter.

    Arrays, NumPy generators, lists and dicts are restored in place, so that all references to them see it; anything
    else is deep-copied and assigned back.

    Raises:
        AttributeError: `obj` has no attribute of that name.
        ValueError: no names were given.
    """
    if not names:
        raise ValueError("snapshot_attributes(obj, *names) was given no names; name what the loss changes")
    for name in names:
        if not hasattr(obj, name):
            raise AttributeError(f"{type(obj).__name__} has no attribute {name!r} to take a snapshot of")

    return _Attributes(obj, names)


# Snapshots are classes, not closures, so that a guard can be pickled.


@dataclass(frozen=True, slots=True)
class _Attributes:
    """A snapshot of the attributes of an object that have these names."""

    obj: object
    names: tuple[str, ...]

    def __call__(self) -> Restore:
        captured = {name: _capture(getattr(self.obj, name)) for name in self.names}

        def restore() -> None:
            for name, put_back in captured.items():
                setattr(self.obj, name, put_back())

        return restore


def _capture(value: object) -> Callable[[], object]:
    """A callable that restores a value, in place if it can, and returns it."""
    if isinstance(value, bool | int | float | complex | str | bytes | None | np.generic):
        return lambda: value
    if isinstance(value, np.ndarray):
        return _capture_array(value)
    if isinstance(value, np.random.Generator):
        state = copy.deepcopy(value.bit_generator.state)
        return lambda: _with_state(value, state)
    if isinstance(value, list):
        items = [_capture(item) for item in value]
        return lambda: _with_items(value, [put_back() for put_back in items])
    if isinstance(value, dict):
        entries = {key: _capture(item) for key, item in value.items()}
        return lambda: _with_entries(value, {key: put_back() for key, put_back in entries.items()})
    saved = copy.deepcopy(value)
    return lambda: copy.deepcopy(saved)


def _capture_array(array: np.ndarray[Any, Any]) -> Callable[[], object]:
    saved = array.copy()

    def put_back() -> object:
        if array.flags.writeable:
            array[...] = saved
        return array

    return put_back


def _with_state(generator: np.random.Generator, state: Any) -> np.random.Generator:
    generator.bit_generator.state = state
    return generator


def _with_items(values: list[Any], items: list[object]) -> list[Any]:
    values[:] = items
    return values


def _with_entries(mapping: dict[Any, Any], entries: dict[Any, object]) -> dict[Any, Any]:
    mapping.clear()
    mapping.update(entries)
    return mapping


def snapshot_rng(generator: object) -> Snapshot:
    """A snapshot of a random stream: a NumPy `Generator` or `RandomState`, the `numpy.random` or `random` module.

    Raises:
        TypeError: the state of `generator` can be neither read nor set.
    """
    _accessors(generator)
    return _Stream(generator)


class _Stream:
    """A snapshot of a random stream; modules are pickled by name."""

    def __init__(self, generator: object) -> None:
        self._generator = generator

    def __call__(self) -> Restore:
        get, put = _accessors(self._generator)
        state = get()
        return lambda: put(state)

    def __getstate__(self) -> tuple[bool, object]:
        if isinstance(self._generator, ModuleType):
            return True, self._generator.__name__
        return False, self._generator

    def __setstate__(self, state: tuple[bool, Any]) -> None:
        is_module, generator = state
        self._generator = import_module(generator) if is_module else generator


def _accessors(generator: Any) -> tuple[Callable[[], object], Callable[[object], None]]:
    """Functions that read and set the state of a stream; each state that is read is a copy.

    Raises:
        TypeError: the state of `generator` can be neither read nor set.
    """
    if isinstance(generator, np.random.Generator):
        return lambda: generator.bit_generator.state, lambda state: setattr(generator.bit_generator, "state", state)
    if isinstance(generator, _LegacyGenerator):
        return generator.get_state, generator.set_state
    if hasattr(generator, "getstate") and hasattr(generator, "setstate"):
        returns_copies = generator is random or isinstance(generator, random.Random)
        return generator.getstate if returns_copies else lambda: copy.deepcopy(generator.getstate()), generator.setstate
    raise TypeError(
        f"snapshot_rng was given a {type(generator).__name__}; expected a numpy Generator or RandomState, "
        "or the module numpy.random or random"
    )


@dataclass(frozen=True, slots=True)
class CombinedSnapshot:
    """One snapshot that takes and restores several.

    Attributes:
        snapshots: The snapshots, in the order in which they are taken; they are restored in reverse order.
    """

    snapshots: tuple[Snapshot, ...]

    def __call__(self) -> Restore:
        """Take all snapshots; the callable that is returned restores all of them, even if one fails."""
        restores = [_checked(take()) for take in self.snapshots]

        def restore() -> None:
            with ExitStack() as all_of_them:
                for put_back in reversed(restores):
                    all_of_them.callback(put_back)

        return restore


def combined_snapshot(snapshot: Snapshot | Iterable[Snapshot] | None) -> CombinedSnapshot:
    """One snapshot that takes and restores those that the user passed: none, one or several.

    Raises:
        TypeError: a snapshot is not callable.
    """
    is_several = isinstance(snapshot, Iterable) and not callable(snapshot)
    snapshots: list[Any] = [] if snapshot is None else list(snapshot) if is_several else [snapshot]  # type: ignore[arg-type]  # checked above
    for each in snapshots:
        if not callable(each):
            raise TypeError(
                f"snapshot is, or holds, a {type(each).__name__}; expected a callable that captures state and returns "
                "what restores it, such as snapshot_attributes(model, 'hidden') or snapshot_rng(generator)"
            )

    return CombinedSnapshot(tuple(snapshots))


def _checked(restore: object) -> Restore:
    """What a snapshot returned, if it can be called."""
    if not callable(restore):
        raise TypeError(
            f"snapshot() returned a {type(restore).__name__}; expected the callable that restores the state it captured"
        )
    return restore
