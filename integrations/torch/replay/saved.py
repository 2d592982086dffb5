"""What an evaluation of the loss may write to: tensors, arrays, containers, objects; saved and restored in place."""

import functools
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset

from gradguard.environment import HeldArray, HeldDict, Restorable, held_container
from gradguard.perturbation import Restore

MAX_ITEMS = 1000
"""Items of a container into which a walk looks; of a longer one, which is data, only which items it has is saved."""
MAX_DEPTH = 50
"""Containers and objects within each other into which a walk looks: deeper ones are data, such as a linked list."""
MODULE_INTERNALS = frozenset(nn.Module().__dict__)
"""Attributes that every module has."""
LIBRARIES = sys.stdlib_module_names | {
    *("accelerate", "gradguard", "jax", "keras", "lightning", "numpy", "pytorch_lightning", "pytest", "_pytest"),
    *("scipy", "skorch", "sklearn", "tensorboard", "torch", "torchmetrics", "transformers"),
}
"""Top-level packages whose objects keep what they hold: threads, files, loggers, whole trainers."""
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
"""Types of values that have names for other values."""
OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, Dataset, DataLoader)
"""Types of values into which a walk does not look: code, and data."""


class HeldTensor:
    """The numbers of a tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._numbers = tensor.detach().clone()

    def is_changed(self) -> bool:
        """Whether any number or the dtype is another one."""
        tensor, numbers = self._tensor, self._numbers
        return tensor.dtype != numbers.dtype or not tensor.detach().equal(numbers)

    def put_back(self) -> None:
        """Write the numbers."""
        if self._tensor.shape == self._numbers.shape and self._tensor.dtype == self._numbers.dtype:
            self._tensor.data.copy_(self._numbers)
        else:
            self._tensor.data = self._numbers.clone()


class Walk:
    """Finds whatever can be changed in place, from some objects on: each thing once.

    Args:
        protected: Addresses of the memory of tensors that a check moves, which nothing else may write back.
        skipped: Objects into which it does not look.
        max_bytes: Memory for the numbers of tensors and arrays; those that it does not hold are not saved.
        max_items: Items of a container into which it looks.
        follow: Returns the values that a function names; without it, the walk does not look into functions.
    """

    def __init__(
        self,
        protected: Collection[int] = (),
        skipped: Iterable[object] = (),
        *,
        max_bytes: float = math.inf,
        max_items: int = MAX_ITEMS,
        follow: Callable[[object], Iterable[object]] = lambda _function: (),
    ) -> None:
        self._protected = protected
        self._bytes_left = max_bytes
        self._max_items = max_items
        self._follow = follow
        self._depth = 0
        self._seen = {id(each): each for each in skipped}  # with the objects, so that no other one takes an id

    def contents(self, value: Any) -> Iterator[Restorable]:
        """What can be changed in a value and in all that it holds."""
        if isinstance(value, OPAQUE) or id(value) in self._seen or self._depth == MAX_DEPTH:
            return
        self._seen[id(value)] = value
        self._depth += 1
        yield from self._contents(value)
        self._depth -= 1

    def _contents(self, value: Any) -> Iterator[Restorable]:
        if isinstance(value, FUNCTIONS):
            for named in self._follow(value):
                yield from self.contents(named)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, Tensor | np.ndarray):
            yield from self._numbers(value)
        elif isinstance(value, dict | list | deque | set):
            yield held_container(value)
            yield from self._each(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, tuple):
            yield from self._each(value)
        elif is_object_of_user(value):
            yield HeldDict(vars(value))
            for held in list(vars(value).values()):
                yield from self.contents(held)

    def _each(self, values: Collection[Any]) -> Iterator[Restorable]:
        if len(values) <= self._max_items:
            for value in list(values):
                yield from self.contents(value)

    def _module(self, module: nn.Module) -> Iterator[Restorable]:
        for part in module.modules():
            if part is not module and id(part) in self._seen:
                continue
            self._seen[id(part)] = part
            yield HeldDict(part.__dict__)
            yield HeldDict(part._buffers)
            attributes = [value for name, value in part.__dict__.items() if name not in MODULE_INTERNALS]
            for value in (*part._buffers.values(), *attributes):
                yield from self.contents(value)

    def _numbers(self, value: Any) -> Iterator[Restorable]:
        if isinstance(value, Tensor) and (
            not is_state_tensor(value) or value.untyped_storage().data_ptr() in self._protected
        ):
            return
        is_array = isinstance(value, np.ndarray)
        if value.nbytes <= self._bytes_left and not (is_array and not value.flags.writeable):
            self._bytes_left -= value.nbytes
            yield HeldArray(value) if is_array else HeldTensor(value)


def is_object_of_user(value: object) -> bool:
    """Whether a value has attributes of its own and is no part of a library."""
    return hasattr(value, "__dict__") and (
        isinstance(value, types.SimpleNamespace) or type(value).__module__.partition(".")[0] not in LIBRARIES
    )


def is_state_tensor(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers of its own that a forward pass may write, and that may be written back."""
    is_other = isinstance(tensor, nn.Parameter | DTensor) or tensor.grad_fn is not None or tensor.device.type == "meta"
    return not (is_other or tensor.layout is not torch.strided or _repeats(tensor))


def _repeats(tensor: Tensor) -> bool:
    """Whether several entries share memory, as `expand` makes them: PyTorch refuses to write to such a tensor."""
    return any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))


def restore_all(held: Collection[Restorable]) -> Restore:
    """What restores all of it."""

    def restore() -> None:
        for each in held:
            each.put_back()

    return restore
