"""A deep check of a module, and whether it measured exact derivatives."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_models import batches, cross_entropy

from gradguard import Report, TensorReport, check
from gradguard.integrations.torch import TorchGuard


def checked(module: nn.Module, *, wrong: float = 1.0, loss: Callable[[Tensor, Tensor], Any] = cross_entropy) -> Report:
    """A deep check of a module, its gradients multiplied by `wrong`, however long that takes."""
    x, y = batches(1)[0]
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        loss(module(x), y).backward()
        for parameter in module.parameters():
            parameter.grad = wrong * parameter.grad if parameter.grad is not None else None
        evaluated = guard._replayed(lambda: loss(module(x), y))
        return check(guard._params, guard._params.gradients(), evaluated, entries=8)


def truth(module: nn.Module) -> dict[str, Tensor]:
    """The gradients of a module of PyTorch's own operations, in float64."""
    x, y = batches(1, torch.float64)[0]
    twin = module.double()
    twin.zero_grad()
    cross_entropy(twin(x), y).backward()
    return {name: parameter.grad for name, parameter in twin.named_parameters()}


def is_exact(tensor: TensorReport, right: Tensor) -> bool:
    """Whether its derivatives have no error to speak of: differences have ten times that, and more."""
    tiny = 1e-12 * float(right.abs().max())
    return all(entry.error < tiny and abs(entry.numeric - float(right[entry.index])) < tiny for entry in tensor.worst)
