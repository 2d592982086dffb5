"""Guards and checks of a module, and what they leave alone."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_models import batches, cross_entropy

from gradguard.integrations.torch import TorchGuard
from gradguard.report.results import Report


def seeded(make: Callable[[], Any]) -> Any:
    """What it makes with the random streams at their start."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global streams are those that must be left alone
    random.seed(0)
    return make()


def guard_of(module: nn.Module, optimizer: Any = None, **options: Any) -> TorchGuard:
    """A guard that checks every step, whatever it costs."""
    return TorchGuard(module, optimizer, **{"every_n_steps": 1, "max_overhead": None} | options)


def checked(module: nn.Module, *, scale: float = 1.0, constants: Any = None, **options: Any) -> Report:
    """The first check of a module on one batch of sequences."""
    x, y = batches(1)[0]
    with guard_of(module, **options) as guard:
        (scale * cross_entropy(module(x), y)).backward()
        report = guard.after_backward(0, lambda: scale * cross_entropy(module(x), y), constants=constants)
    assert report is not None
    return report


def bugs(report: Report) -> dict[str, str]:
    """The verdicts of the wrong tensors."""
    return {name: str(tensor.verdict) for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one.to_dense(), other.to_dense())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other))
