"""A deep check of a module, exact derivatives of it, and whether derivatives are exact."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_models import batches, cross_entropy

from gradguard import Report, TensorReport, check
from gradguard.integrations.torch import TorchGuard
from gradguard.perturbation import Rollback

TANGENT = 2.0**-60
"""Length of a move in forward mode: no value changes by as much."""


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


def exact_gradients(
    module: nn.Module, *, loss: Callable[..., Any] = cross_entropy, reduction: str | None = None
) -> Mapping[str, Any] | None:
    """The gradients of a module by one reverse pass, after a step of training; afterwards all is as it was."""
    x, y = batches(1, next(module.parameters()).dtype)[0]
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        losses = loss(module(x), y)
        (losses.mean() if reduction == "mean" else losses.sum()).backward()
        guard._state.learn_changing()
        state, evaluated = Rollback({}, guard.guard._snapshot), guard._replayed(lambda: loss(module(x), y))

        def differentiate() -> Mapping[str, Any] | None:
            evaluated()
            state.restore()
            return guard._params.exact_gradients(evaluated, reduction)

        return state.run(differentiate)


def by_forward_mode(module: nn.Module, *, loss: Callable[..., Any] = cross_entropy) -> dict[str, Any]:
    """The same, entry by entry in forward mode."""
    x, y = batches(1, next(module.parameters()).dtype)[0]
    found = {}
    with TorchGuard(module, every_n_steps=1, max_overhead=None) as guard:
        loss(module(x), y).backward()
        guard._state.learn_changing()
        state, evaluated = Rollback({}, guard.guard._snapshot), guard._replayed(lambda: loss(module(x), y))
        evaluated()
        space = guard._params.tangents()
        for name, array in space.arrays.items():
            found[name] = np.empty(array.shape)
            with space.moving(name) as tensor:
                for index in np.ndindex(array.shape):
                    tensor.displace_entry(index, TANGENT)
                    state.restore()
                    with space.installed():
                        found[name][index] = evaluated() / TANGENT
                    tensor.restore(index)
        state.run(lambda: None)
    return found


def is_same(found: Mapping[str, Any] | None, right: Mapping[str, Any]) -> bool:
    """Whether gradients agree to the last digits of float64."""
    assert found is not None
    assert set(found) == set(right)
    return all(
        found[name].dtype == np.float64
        and np.abs(found[name] - np.asarray(right[name])).max() <= 1e-12 * np.abs(np.asarray(right[name])).max()
        for name in right
    )
