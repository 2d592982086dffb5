"""Training steps that call `backward` themselves, made again without one."""

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class WithoutBackward(TorchFunctionMode):
    """While it is active, `tensor.backward()` does nothing in this thread.

    Attributes:
        losses: The tensors on which it was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.backward:
            self.losses.append(args[0])
            return None
        return func(*args, **(kwargs or {}))
