"""What one rank evaluates alone, while the others do something else."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode

COLLECTIVES = ("c10d", "_c10d_functional", "_c10d_functional_autograd")
"""Namespaces of the operations that wait for other ranks."""


class _Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's
    """Refuses to communicate: the other ranks would not answer."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in COLLECTIVES:
            raise RuntimeError("it communicates with other processes, and each of them checks its own calls alone")
        return func(*args, **(kwargs or {}))


def alone() -> AbstractContextManager[object]:
    """Context of an evaluation that raises instead of waiting for other ranks, where there are any."""
    return _Alone() if distributed.is_available() and distributed.is_initialized() else nullcontext()  # type: ignore[no-untyped-call]
