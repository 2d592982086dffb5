"""What a checkpoint holds of a guard: its state as plain dicts, lists, strings and numbers, and the state read back.

The last part is about pickles of a whole guard: which of the user's functions one cannot hold.
"""

import dataclasses
import enum
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Self, TypeVar, get_args, get_origin

import numpy as np

from gradguard.report import Plain, finite_or_name, to_plain
from gradguard.training.memory import MonitorState
from gradguard.training.schedule import Spent

FORMAT = 2
"""Version of the plain form; a state of another version is refused."""
MAX_VALUE_CHARACTERS = 40
"""Length to which a message cuts a wrong value."""

Value = TypeVar("Value")


# What a checkpoint holds.


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the coming checks depend on, besides the options of the guard.

    Attributes:
        shapes: The shape of each tensor.
        memory: What the checks have measured.
        rng: The generator of the directions and entries to come.
        told: The level and the subject of the last alert of each tensor.
        spent: What the checks have cost.
    """

    shapes: Mapping[str, tuple[int, ...]]
    memory: MonitorState
    rng: np.random.Generator
    told: Mapping[str, tuple[int, str]]
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        """The plain form: dicts, lists, strings and numbers."""
        return {"format": FORMAT, **to_plain(self, finite_or_name)}

    @classmethod
    def from_dict(cls, plain: object, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The state from its plain form.

        Args:
            plain: What `to_dict` returned.
            shapes: The shape of each tensor of the guard that loads the state.

        Raises:
            ValueError: `plain` is something else, or the state of other tensors; the message says where.
        """
        state = from_plain(cls, _require_format(plain), "state")
        _require_same_shapes(state.shapes, shapes)
        # In the order of the guard: a checkpoint may have sorted the names.
        tensors = {name: state.memory.tensors[name] for name in shapes if name in state.memory.tensors}
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, tensors=tensors))


def _require_format(plain: object) -> dict[str, Any]:
    """The entries of a plain state without its format.

    Raises:
        ValueError: `plain` is not a mapping, or of another format.
    """
    entries = plain if isinstance(plain, Mapping) else {}
    if entries.get("format") == FORMAT:
        return {key: value for key, value in entries.items() if key != "format"}
    actual = f"format {abbreviated(entries['format'])}" if "format" in entries else "no format"
    raise ValueError(
        f"the state has {actual}; expected what GradGuard.state_dict() gives, of format {FORMAT}; "
        "a guard without a state begins with a whole check"
    )


def _require_same_shapes(saved: Mapping[str, tuple[int, ...]], current: Mapping[str, tuple[int, ...]]) -> None:
    for name in dict.fromkeys((*saved, *current)):
        if saved.get(name) != current.get(name):
            raise ValueError(
                f"the state has {_described(name, saved)}, and the guard has {_described(name, current)}; "
                "a state belongs to the parameters it was saved with; a guard without a state begins with a whole check"
            )


def _described(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name!r} of shape {shapes[name]}" if name in shapes else f"no {name!r}"


# From plain values back to values of annotated types.


def from_plain(kind: type[Value], plain: Any, where: str) -> Value:
    """A value of some type from its plain form; every part of it is checked.

    Args:
        kind: A dataclass, or a type that the fields of one are annotated with.
        plain: What `gradguard.report.plain.to_plain` made of the value.
        where: The name of the value in a message.

    Raises:
        ValueError: `plain` is something else; the message says where.
    """
    value: Value = _reader(kind)(plain, where)
    return value


def _reader(kind: Any) -> Callable[[Any, str], Any]:
    """The function that reads the plain form of a type: its arguments are the plain form and its name in a message."""
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is types.UnionType:
        return lambda plain, where: None if plain is None else from_plain(arguments[0], plain, where)
    if origin is Mapping or origin is dict:
        return lambda plain, where: _mapping(arguments[1], plain, where)
    if origin is tuple:
        return lambda plain, where: _tuple(arguments, plain, where)
    if origin is np.dtype:
        return _dtype
    if dataclasses.is_dataclass(origin):
        return lambda plain, where: _dataclass(origin, plain, where)
    if origin is float:
        return _float
    if origin is np.random.Generator:
        return lambda plain, where: _converted(_generator, plain, where, "the state of a random generator")
    if isinstance(origin, type) and issubclass(origin, (Plain, enum.Enum)):
        convert = getattr(origin, "from_plain", origin)
        return lambda plain, where: _converted(convert, plain, where, f"a {origin.__name__}")
    return lambda plain, where: _require(origin, plain, where, f"a value of type {origin.__name__}")


def _mapping(kind: Any, plain: Any, where: str) -> dict[str, Any]:
    items = _require(Mapping, plain, where, "a dict").items()
    return {str(key): from_plain(kind, item, f"{where}[{key!r}]") for key, item in items}


def _tuple(kinds: tuple[Any, ...], plain: Any, where: str) -> tuple[Any, ...]:
    items = _require((list, tuple), plain, where, "a list")
    if kinds[-1] is ...:
        kinds = (kinds[0],) * len(items)
    if len(kinds) != len(items):
        raise ValueError(f"{where} holds {len(items)} values; expected {len(kinds)}")
    return tuple(
        from_plain(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


def _dataclass(kind: Any, plain: Any, where: str) -> Any:
    entries = _require(Mapping, plain, where, "a dict")
    names = [field.name for field in dataclasses.fields(kind)]
    if set(entries) != set(names):
        odd = next(iter(set(entries) ^ set(names)))
        raise ValueError(
            f"{where} {'has an unknown entry' if odd in entries else 'lacks the entry'} {abbreviated(odd)}: "
            "it was saved by another version of gradguard, or is something else; start without it"
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], entries[name], f"{where}[{name!r}]") for name in names})


def _float(plain: Any, where: str) -> float:
    # A string too: "nan" and "inf" are how `to_plain` writes the numbers that strict JSON lacks.
    if isinstance(plain, int | float | str) and not isinstance(plain, bool):
        return float(_converted(float, plain, where, "a number"))
    raise ValueError(f"{where} is {abbreviated(plain)}; expected a number")


def _dtype(plain: Any, where: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = _converted(np.dtype, _require(str, plain, where, "a dtype"), where, "a dtype")
    if dtype.kind != "f":
        raise ValueError(f"{where} is {abbreviated(plain)}; expected a floating-point dtype")
    return dtype


def _generator(plain: Any) -> np.random.Generator:
    generator = np.random.default_rng(0)
    generator.bit_generator.state = plain
    return generator


def _converted(convert: Callable[[Any], Any], plain: Any, where: str, expected: str) -> Any:
    try:
        return convert(plain)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{where} is {abbreviated(plain)}; expected {expected}") from error


def _require(kind: Any, plain: Any, where: str, expected: str) -> Any:
    if not isinstance(plain, kind) or (isinstance(plain, bool) and kind is not bool):
        raise ValueError(f"{where} is {abbreviated(plain)}; expected {expected}")
    return plain


def abbreviated(value: object) -> str:
    """The repr of a value, cut to `MAX_VALUE_CHARACTERS`."""
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else f"{text[:MAX_VALUE_CHARACTERS]}..."


# What a pickle of a guard cannot hold.


def require_picklable(functions: Iterable[tuple[str, object]]) -> None:
    """Refuse functions that another process cannot import, with a clearer message than that of `pickle`.

    Args:
        functions: The name of an option of the guard, and its value.

    Raises:
        TypeError: A function is a lambda, or was defined inside another function.
    """
    for option, function in functions:
        if isinstance(function, FunctionType) and not _is_importable(function):
            place = f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"
            instead = ", or give loss= with each after_backward" if option == "loss" else ""
            raise TypeError(
                f"this GradGuard cannot be pickled: its {option} is {function.__qualname__} ({place}), which another "
                f"process could not import.\nDefine it at the top level of a module, or as a method{instead}; or save "
                "guard.state_dict(), which holds no functions"
            )


def _is_importable(function: FunctionType) -> bool:
    value: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        value = getattr(value, name, None)
    return value is function
