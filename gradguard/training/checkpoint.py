"""What a guard hands to a checkpoint, and takes back from it."""

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

from gradguard.report.plain import Plain, to_plain
from gradguard.training.monitor import MonitorState
from gradguard.training.schedule import Spent

FORMAT = 2
Kind = TypeVar("Kind")
SHOWN = 40  # characters of a wrong value in a message


@dataclass(frozen=True, slots=True)
class State:
    """Everything that the checks to come depend on, besides the options of the guard.

    Attributes:
        shapes: Of the tensors it is about.
        memory: What was found of them.
        rng: The stream of the probes.
        told: What was alerted, by tensor.
        spent: What checks have cost.
    """

    shapes: Mapping[str, tuple[int, ...]]
    memory: MonitorState
    rng: np.random.Generator
    told: Mapping[str, tuple[int, str]]
    spent: Spent

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return {"format": FORMAT, **to_plain(self)}

    @classmethod
    def from_dict(cls, plain: object, shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """The state again.

        Args:
            plain: What `to_dict` gave.
            shapes: Those of the guard that takes it.

        Raises:
            ValueError: It is something else, or of other tensors; the message says where.
        """
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            known = plain if isinstance(plain, Mapping) else {}
            given = f"format {shown(known['format'])}" if "format" in known else "no format"
            raise ValueError(
                f"the state has {given}; expected what GradGuard.state_dict() gives, of format {FORMAT}; "
                "a guard without it begins with a deep check"
            )
        state = from_plain(cls, {key: value for key, value in plain.items() if key != "format"}, "state")
        for name in dict.fromkeys((*state.shapes, *shapes)):
            if state.shapes.get(name) != shapes.get(name):
                raise ValueError(
                    f"the state has {_of(name, state.shapes)}, and the guard has {_of(name, shapes)}; "
                    "a state belongs to the parameters it was saved with; a guard without it begins with a deep check"
                )
        # A checkpoint may have sorted the names.
        tensors = {name: state.memory.tensors[name] for name in shapes if name in state.memory.tensors}
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, tensors=tensors))


def _of(name: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{name!r} of shape {shapes[name]}" if name in shapes else f"no {name!r}"


def from_plain(kind: type[Kind], plain: Any, where: str) -> Kind:
    """A value of this type from its plain form, checked all through.

    Args:
        kind: A dataclass or a type that its fields are annotated with.
        plain: What `to_plain` made of it.
        where: What to call it in a message.

    Raises:
        ValueError: It is something else; the message says where.
    """
    value: Kind = _reader(kind)(plain, where)
    return value


def _reader(kind: Any) -> Callable[[Any, str], Any]:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is types.UnionType:
        return lambda plain, where: None if plain is None else from_plain(arguments[0], plain, where)
    if origin is Mapping or origin is dict:
        return lambda plain, where: {
            str(key): from_plain(arguments[1], item, f"{where}[{key!r}]")
            for key, item in _require(Mapping, plain, where, "a dict").items()
        }
    if origin is tuple:
        return lambda plain, where: _tuple(arguments, plain, where)
    if origin is np.dtype:
        return _dtype
    if dataclasses.is_dataclass(origin):
        return lambda plain, where: _dataclass(origin, plain, where)
    if origin is float:
        return _float
    if origin is np.random.Generator:
        return lambda plain, where: _made(_generator, plain, where, "the state of a random generator")
    if isinstance(origin, type) and issubclass(origin, (Plain, enum.Enum)):
        return lambda plain, where: _made(getattr(origin, "from_plain", origin), plain, where, f"a {origin.__name__}")
    return lambda plain, where: _require(origin, plain, where, f"a value of type {origin.__name__}")


def _dataclass(kind: Any, plain: Any, where: str) -> Any:
    given = _require(Mapping, plain, where, "a dict")
    names = [field.name for field in dataclasses.fields(kind)]
    if set(given) != set(names):
        odd = next(iter(set(given) ^ set(names)))
        raise ValueError(
            f"{where} {'has an unknown entry' if odd in given else 'lacks the entry'} {shown(odd)}: "
            "it was saved by another version of gradguard, or is something else; begin without it"
        )
    hints = typing.get_type_hints(kind)
    return kind(**{name: from_plain(hints[name], given[name], f"{where}[{name!r}]") for name in names})


def _tuple(arguments: tuple[Any, ...], plain: Any, where: str) -> tuple[Any, ...]:
    items = _require((list, tuple), plain, where, "a list")
    kinds = [arguments[0]] * len(items) if arguments[-1] is ... else list(arguments)
    if len(kinds) != len(items):
        raise ValueError(f"{where} holds {len(items)} values; expected {len(kinds)}")
    return tuple(
        from_plain(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items, strict=True))
    )


def _float(plain: Any, where: str) -> float:
    if isinstance(plain, int | float | str) and not isinstance(plain, bool):
        return float(_made(float, plain, where, "a number"))
    raise ValueError(f"{where} is {shown(plain)}; expected a number")


def _dtype(plain: Any, where: str) -> np.dtype[Any]:
    dtype: np.dtype[Any] = _made(np.dtype, _require(str, plain, where, "a dtype"), where, "a dtype")
    if dtype.kind != "f":
        raise ValueError(f"{where} is {shown(plain)}; expected a floating-point dtype")
    return dtype


def _generator(plain: Any) -> np.random.Generator:
    generator = np.random.default_rng(0)
    generator.bit_generator.state = plain
    return generator


def _made(make: Callable[[Any], Any], plain: Any, where: str, expected: str) -> Any:
    try:
        return make(plain)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"{where} is {shown(plain)}; expected {expected}") from error


def _require(kind: Any, plain: Any, where: str, expected: str) -> Any:
    if not isinstance(plain, kind) or (isinstance(plain, bool) and kind is not bool):
        raise ValueError(f"{where} is {shown(plain)}; expected {expected}")
    return plain


def shown(plain: object) -> str:
    """What something looks like, in few enough characters for a message."""
    text = repr(plain)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def require_named(functions: Iterable[tuple[str, object]]) -> None:
    """Refuse functions that a pickle cannot name, before it says less clearly that it cannot.

    Args:
        functions: What the guard was given, each behind the name of its option.

    Raises:
        TypeError: One is a lambda, or was defined inside another function.
    """
    for option, function in functions:
        if isinstance(function, FunctionType) and not _is_named(function):
            place = f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"
            instead = ", or give loss= with each after_backward" if option == "loss" else ""
            raise TypeError(
                f"this GradGuard cannot be pickled: its {option} is {function.__qualname__} ({place}), which another "
                f"process could not import; define it at the top level of a module, or as a method{instead}; "
                "guard.state_dict() holds what the checks have found, and no functions"
            )


def _is_named(function: FunctionType) -> bool:
    found: object = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function
