"""The user's factory MODULE:FACTORY: importing it, calling it, and reading what it returns."""

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
OPTIONAL = ("constants", "blocks", "snapshot", "reduction", "value", "expected")
EXPECTED = f"({', '.join(REQUIRED)}), or a mapping with these keys and perhaps {', '.join(OPTIONAL)}"
LIBRARY_FOLDERS = tuple(f"{Path(module.__file__ or '').parent}{os.sep}" for module in (gradguard, np, importlib))
MAX_NAMES_IN_MESSAGE = 10  # a longer list hides the sentence before it


@dataclass(frozen=True, slots=True)
class Case:
    """The arguments of `gradguard.check` that a factory returned, not yet validated."""

    params: Any
    grads: Any
    loss: Any
    constants: Mapping[str, float] | None = None
    blocks: Any = None
    snapshot: Any = None
    reduction: str | None = None
    value: Any = None
    expected: Mapping[str, str] | None = None


@contextlib.contextmanager
def working_directory_on_path() -> Iterator[None]:
    """Search the working directory for modules too, as `python -m` does."""
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
        Failure: The import or the call fails, or the result has another form.
    """
    module_name, path = _split(target)
    factory = _find_factory(_import(module_name), path)
    _require_no_arguments(target, factory)
    try:
        result = factory()
    except (Exception, SystemExit) as error:
        raise Failure(f"{target} raised {_type_and_message(error)}", details(error)) from error
    return case(target, result)


def guarded(work: Callable[[], Result]) -> Result:
    """The result of `work`, which runs gradguard on the user's objects.

    Raises:
        Failure: The arguments do not fit, or the user's own code raised an exception.
    """
    try:
        return work()
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) or _users_frames(error.__traceback__):
            raise Failure(f"the loss, or what it needs, raised {_type_and_message(error)}", details(error)) from error
        if isinstance(error, (TypeError, ValueError)):
            raise Failure(str(error)) from error
        raise


def case(target: str, result: object) -> Case:
    """The result of a factory, a tuple or a mapping, as a case.

    Raises:
        Failure: The result has another form.
    """
    if isinstance(result, Mapping):
        return _from_mapping(target, result)
    if isinstance(result, tuple | list) and len(result) == len(REQUIRED):
        return Case(*result)
    count = f" of {len(result)}" if isinstance(result, tuple | list) else ""
    raise Failure(f"{target} returned something of type {type(result).__name__}{count}; expected {EXPECTED}")


def _from_mapping(target: str, result: Mapping[Any, Any]) -> Case:
    known = [field.name for field in fields(Case)]
    missing = [name for name in REQUIRED if name not in result]
    unknown = [repr(name) for name in result if name not in known]
    if missing or unknown:
        lacks = f"without {', '.join(missing)}" if missing else f"with {', '.join(unknown[:MAX_NAMES_IN_MESSAGE])}"
        raise Failure(f"{target} returned a mapping {lacks}; expected {EXPECTED}")
    if not isinstance(result.get("constants") or {}, Mapping):
        raise Failure(f"{target} returned constants of type {type(result['constants']).__name__}; expected a mapping")
    return Case(**{name: result[name] for name in known if name in result})


def _split(target: str) -> tuple[str, str]:
    module, colon, path = target.partition(":")
    if module.endswith(".py") or "/" in module or "\\" in module:
        raise Failure(f"expected a module as `import` names it, such as train for train.py, got {module!r}")
    if not (colon and module and path) or "" in module.split(".") or "" in path.split("."):
        raise Failure(f"expected MODULE:FACTORY, such as train:make, got {target!r}")
    return module, path


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and not _users_frames(error.__traceback__):
            more = f", and {len(sys.path) - 1} more entries of sys.path"
            raise Failure(f"there is no module {error.name!r}: looked in {sys.path[0]}{more}") from error
        raise Failure(f"importing {name!r} raised {_type_and_message(error)}", details(error)) from error


def _find_factory(module: ModuleType, path: str) -> Callable[..., object]:
    try:
        factory = functools.reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise Failure(f"{_described(module)} has no {path!r}; {_defined_functions(module, path)}") from error
    if not callable(factory):
        raise Failure(f"{path!r} in {_described(module)} is of type {type(factory).__name__}; expected a function")
    return factory


def _described(module: ModuleType) -> str:
    return f"module {module.__name__!r} ({getattr(module, '__file__', None) or 'without a file'})"


def _defined_functions(module: ModuleType, path: str) -> str:
    """A clause with the functions that the module defines, those with similar names first."""
    defined = [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    similar = difflib.get_close_matches(path, defined, n=MAX_NAMES_IN_MESSAGE)
    names = [*similar, *(name for name in defined if name not in similar)]
    return f"it defines {', '.join(names[:MAX_NAMES_IN_MESSAGE])}" if names else "it defines no function"


def _require_no_arguments(target: str, factory: Callable[..., object]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some extension types have no signature
        return
    try:
        signature.bind()
    except TypeError:
        raise Failure(f"{target} takes {signature}; expected a factory that is called with no arguments") from None


def details(error: BaseException) -> str:
    """The traceback, from the first frame of the user's own code on."""
    return "".join(traceback.format_exception(type(error), error, _users_frames(error.__traceback__)))


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and _is_library(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return trace


def _is_library(filename: str) -> bool:
    return filename.startswith((*LIBRARY_FOLDERS, "<frozen importlib"))


def _type_and_message(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
