"""Which names a function or a class uses outside itself: globals that its code reads and binds."""

import dis
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType, MemberDescriptorType
from typing import Any
from weakref import WeakKeyDictionary

# Their functions and classes hold no state of a training, or a state that they look after themselves.
FOREIGN = sys.stdlib_module_names | {
    "autograd",
    "gradguard",
    "jax",
    "jaxlib",
    "matplotlib",
    "numpy",
    "scipy",
    "tensorflow",
    "torch",
}
OURS_TO_SHOW = "gradguard.testing"  # models that stand for the user's


@lru_cache(maxsize=4096)
def is_foreign(module: object) -> bool:
    """Whether what a module defines is not the user's.

    Args:
        module: The `__module__` of a function or a class: a name, None, or whatever stands there in a compiled class.
    """
    if module is not None and not isinstance(module, str):
        return True
    name = module or ""
    return name.partition(".")[0] in FOREIGN and not name.startswith(OURS_TO_SHOW)


@lru_cache(maxsize=4096)
def globals_of(code: CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of globals that some code reads, and of those that it binds; functions within it included."""
    read, bound = set[str](), set[str]()
    for part in _parts(code):
        for instruction in dis.get_instructions(part):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                read.add(instruction.argval)
            elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
                bound.add(instruction.argval)
    return tuple(sorted(read)), tuple(sorted(bound))


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)


@dataclass(frozen=True, slots=True)
class ClassNames:
    """What the methods of a class use outside themselves.

    Attributes:
        classes: The class and its bases, as far as they are the user's.
        slots: Descriptors of the attributes that instances hold outside their `__dict__`.
        functions: Its functions, each of which may reach something of its own.
    """

    classes: tuple[type, ...]
    slots: tuple[MemberDescriptorType, ...]
    functions: tuple[FunctionType, ...]


_known: WeakKeyDictionary[type, ClassNames] = WeakKeyDictionary()


def names_of_class(kind: type) -> ClassNames:
    """What a class uses, found once for each class."""
    found = _known.get(kind)
    if found is None:
        found = _known[kind] = _names_of_class(kind)
    return found


def _names_of_class(kind: type) -> ClassNames:
    classes = tuple(base for base in kind.__mro__ if not is_foreign(base.__module__))
    members = [member for base in classes for member in vars(base).values()]
    functions = {id(function): function for member in members for function in _functions_in(member)}
    slots = tuple(member for member in members if isinstance(member, MemberDescriptorType))
    # Of functions that use the same globals and nothing else, one is enough.
    different = {_uses(function): function for function in functions.values()}
    return ClassNames(classes, slots, tuple(different.values()))


def _functions_in(member: Any) -> Iterator[FunctionType]:
    """The functions that a member of a class calls."""
    inner = [member, *(getattr(member, name, None) for name in ("__func__", "fget", "fset", "func", "__wrapped__"))]
    yield from (function for function in inner if isinstance(function, FunctionType))


def _uses(function: FunctionType) -> object:
    names = globals_of(function.__code__)
    if function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function):
        return id(function)
    return names
