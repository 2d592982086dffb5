"""What a training leaves on a rank, with a guard and without."""

import contextlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rank_checks import OPTIONS, Network, batch, loss_of, made
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from gradguard.integrations.torch import TorchGuard


def left_by_training(spread: Callable[[nn.Module], nn.Module], *, guarded: bool) -> tuple[list[Any], list[Any]]:
    """All that three steps leave behind, and the guard's history."""
    module = made(Network, spread)
    np.random.seed(distributed.get_rank())  # noqa: NPY002 - the global streams are those that must be left alone
    random.seed(distributed.get_rank())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    guard = TorchGuard(module, optimizer, **OPTIONS) if guarded else None
    for step in range(3):
        (x0, y0), (x, y) = batch(step), batch(step + 50)
        optimizer.zero_grad()
        with module.no_sync() if spread is DistributedDataParallel else contextlib.nullcontext():
            (loss_of(module, x0, y0) / 2).backward()
        (loss_of(module, x, y) / 2).backward()
        if guard is not None and step != 1:
            guard.after_backward(step, lambda a=(x0, y0), b=(x, y): (loss_of(module, *a) + loss_of(module, *b)) / 2)
        optimizer.step()
    left = [*module.state_dict().values(), *(p.grad for p in module.parameters())]
    left += [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
    left += [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64)), random.getstate()]  # noqa: NPY002
    left += [getattr(module, "require_forward_param_sync", None), [part.training for part in module.modules()]]
    rows = [] if guard is None else list(guard.history)
    return [own(value).clone() if isinstance(value, Tensor) else value for value in left], rows


def own(tensor: Tensor) -> Tensor:
    """What of it this rank holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def identical(spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel) -> dict[str, Any]:
    """Whether a training is, bit for bit, the same with a guard and without."""
    without, _ = left_by_training(spread, guarded=False)
    under_guard, history = left_by_training(spread, guarded=True)
    pairs = zip(without, under_guard, strict=True)
    same = [torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs]
    return {"same": same, "history": [(row.step, str(row.verdict)) for row in history]}
