"""The user's factory: found, called, and what it returned understood."""

import contextlib
import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import numpy as np

import gradguard
from gradguard.cli.output import Failure

Result = TypeVar("Result")

REQUIRED = ("params", "grads", "loss")
OPTIONAL = ("constants", "blocks", "snapshot", "reduction")
EXPECTED = f"({', '.join(REQUIRED)}), or a mapping with these keys and perhaps {', '.join(OPTIONAL)}"
OURS = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (gradguard, np, importlib))
NAMED = 10  # names at most in a message


@dataclass(frozen=True, slots=True)
class Case:
    """What a factory made: the arguments of `gradguard.check`, as they are."""

    params: Any
    grads: Any
    loss: Any
    constants: Mapping[str, float] | None = None
    blocks: Any = None
    snapshot: Any = None
    reduction: str | None = None


@contextlib.contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Import from the working directory too, as `python -m` does."""
    before = list(sys.path)
    if not sys.flags.safe_path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def make(target: str) -> Case:
    """Import MODULE, call its FACTORY, and read what it returned.

    Raises:
        Failure: One of these is not possible.
    """
    module_name, path = _split(target)
    factory = _attribute(_imported(module_name), path)
    _require_no_arguments(target, factory)
    try:
        made = factory()
    except (Exception, SystemExit) as error:
        raise Failure(f"{target} raised {_named(error)}", details(error)) from error
    return case(target, made)


def guarded(work: Callable[[], Result]) -> Result:
    """The result of some work of gradguard on the user's objects.

    Raises:
        Failure: Its arguments do not fit, or the user's own code raised.
    """
    try:
        return work()
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) or _users(error.__traceback__):
            raise Failure(f"the loss, or what it needs, raised {_named(error)}", details(error)) from error
        if isinstance(error, (TypeError, ValueError)):
            raise Failure(str(error)) from error
        raise


def case(target: str, made: object) -> Case:
    """What a factory returned, under its names.

    Raises:
        Failure: It returned something else than expected.
    """
    if isinstance(made, Mapping):
        return _from_mapping(target, made)
    if isinstance(made, tuple | list) and len(made) == len(REQUIRED):
        return Case(*made)
    count = f" of {len(made)}" if isinstance(made, tuple | list) else ""
    raise Failure(f"{target} returned something of type {type(made).__name__}{count}; expected {EXPECTED}")


def _from_mapping(target: str, made: Mapping[Any, Any]) -> Case:
    known = [field.name for field in fields(Case)]
    missing = [name for name in REQUIRED if name not in made]
    unknown = [repr(name) for name in made if name not in known]
    if missing or unknown:
        lacks = f"without {', '.join(missing)}" if missing else f"with {', '.join(unknown[:NAMED])}"
        raise Failure(f"{target} returned a mapping {lacks}; expected {EXPECTED}")
    if not isinstance(made.get("constants") or {}, Mapping):
        raise Failure(f"{target} returned constants of type {type(made['constants']).__name__}; expected a mapping")
    return Case(**{name: made[name] for name in known if name in made})


def _split(target: str) -> tuple[str, str]:
    module, colon, path = target.partition(":")
    if module.endswith(".py") or "/" in module or "\\" in module:
        raise Failure(f"expected a module as `import` names it, such as train for train.py, got {module!r}")
    if not (colon and module and path) or "" in module.split(".") or "" in path.split("."):
        raise Failure(f"expected MODULE:FACTORY, such as train:make, got {target!r}")
    return module, path


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and not _users(error.__traceback__):
            more = f", and {len(sys.path) - 1} more places of sys.path"
            raise Failure(f"there is no module {error.name!r}: looked in {sys.path[0]}{more}") from error
        raise Failure(f"importing {name!r} raised {_named(error)}", details(error)) from error


def _attribute(module: ModuleType, path: str) -> Callable[..., object]:
    try:
        found = functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise Failure(f"{_place(module)} has no {path!r}; {_near(module, path)}") from error
    if not callable(found):
        raise Failure(f"{path!r} in {_place(module)} is of type {type(found).__name__}; expected a function")
    return found


def _place(module: ModuleType) -> str:
    return f"module {module.__name__!r} ({getattr(module, '__file__', None) or 'without a file'})"


def _near(module: ModuleType, path: str) -> str:
    """The functions that the module defines, those with similar names first."""
    own = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    similar = difflib.get_close_matches(path, own, n=NAMED)
    names = [*similar, *(name for name in own if name not in similar)]
    return f"it defines {', '.join(names[:NAMED])}" if names else "it defines no function"


def _require_no_arguments(target: str, factory: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some extension types have none
        return
    try:
        signature.bind()
    except TypeError:
        raise Failure(f"{target} takes {signature}; expected a factory that is called with no arguments") from None


def details(error: BaseException) -> str:
    """The traceback, from the first line of the user's own code on."""
    return "".join(traceback.format_exception(type(error), error, _users(error.__traceback__)))


def _users(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_ours(filename: str) -> bool:
    return filename.startswith((*OURS, "<frozen importlib"))


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
