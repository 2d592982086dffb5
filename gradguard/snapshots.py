"""State that an evaluation of the loss may disturb, and how it is put back.

A snapshot is any callable that captures some state and returns the callable that restores it.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import numpy as np

Restore = Callable[[], None]
Snapshot = Callable[[], Restore]


@runtime_checkable
class _LegacyGenerator(Protocol):
    def get_state(self) -> object: ...
    def set_state(self, state: object) -> None: ...


def snapshot_attributes(obj: object, *names: str) -> Snapshot:
    """A snapshot of some attributes of an object: a carried hidden state, running statistics, a call counter.

    Arrays are restored in place, so that every other name for them sees the same values; anything else is
    deep-copied and assigned back.

    Raises:
        AttributeError: `obj` has no attribute of that name.
        ValueError: no names were given.
    """
    if not names:
        raise ValueError("snapshot_attributes(obj, *names) was given no names; name what the loss changes")
    for name in names:
        if not hasattr(obj, name):
            raise AttributeError(f"{type(obj).__name__} has no attribute {name!r} to take a snapshot of")

    def take() -> Restore:
        held = {name: getattr(obj, name) for name in names}
        saved = copy.deepcopy(held)

        def restore() -> None:
            for name in names:
                setattr(obj, name, _restored(held[name], saved[name]))

        return restore

    return take


def _restored(held: object, saved: object) -> object:
    if isinstance(held, np.ndarray) and isinstance(saved, np.ndarray) and held.flags.writeable:
        held[...] = saved
        return held
    return copy.deepcopy(saved)


def snapshot_rng(generator: object) -> Snapshot:
    """A snapshot of a random stream: a NumPy `Generator` or `RandomState`, the `numpy.random` or `random` module.

    Raises:
        TypeError: the state of `generator` can be neither read nor set.
    """
    if isinstance(generator, np.random.Generator):
        return _state_of(lambda: generator.bit_generator.state, lambda state: _set_bit_generator(generator, state))
    if isinstance(generator, _LegacyGenerator):
        return _state_of(generator.get_state, generator.set_state)
    if hasattr(generator, "getstate") and hasattr(generator, "setstate"):
        return _state_of(generator.getstate, generator.setstate)
    raise TypeError(
        f"snapshot_rng was given a {type(generator).__name__}; expected a numpy Generator or RandomState, "
        "or the module numpy.random or random"
    )


def _set_bit_generator(generator: np.random.Generator, state: object) -> None:
    generator.bit_generator.state = state  # type: ignore[assignment]  # it is what the getter returned


def _state_of(get: Callable[[], object], put: Callable[[object], object]) -> Snapshot:
    def take() -> Restore:
        state = copy.deepcopy(get())

        def restore() -> None:
            put(state)

        return restore

    return take


def together(snapshot: Snapshot | Iterable[Snapshot] | None) -> Snapshot:
    """One snapshot that takes and restores all of the given ones.

    Raises:
        TypeError: something given is not callable.
    """
    snapshots = [] if snapshot is None else [snapshot] if callable(snapshot) else list(snapshot)
    for given in snapshots:
        if not callable(given):
            raise TypeError(
                f"snapshot holds a {type(given).__name__}; expected a callable that captures state and returns the "
                "callable that restores it, such as snapshot_attributes(model, 'hidden') or snapshot_rng(generator)"
            )

    def take() -> Restore:
        restores = [_checked(given()) for given in snapshots]

        def restore() -> None:
            for put_back in restores:
                put_back()

        return restore

    return take


def _checked(restore: object) -> Restore:
    if not callable(restore):
        raise TypeError(
            f"snapshot() returned a {type(restore).__name__}; expected the callable that restores the state it captured"
        )
    return restore
