"""What three ranks do of which one goes away."""

import contextlib
import os
import time
from typing import Any

import torch
from rank_checks import OPTIONS, Small, batch, loss_of, made, raised_by
from torch import Tensor, distributed

from gradguard.integrations.torch import TorchGuard


def interrupted(how: str) -> dict[str, Any]:
    """The last rank goes away in the middle of a probe; what the others are told, after how long, and what is left."""
    module = made(Small)
    x, y = batch(0)
    calls, last = 0, distributed.get_world_size() - 1

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        if distributed.get_rank() == last and calls == 30:
            if how == "dies":
                os._exit(1)
            if how == "hangs":
                time.sleep(5)
            raise KeyboardInterrupt
        return loss_of(module, x, y)

    guard = TorchGuard(module, **OPTIONS | {"timeout": 1.5, "precision": "native"})
    loss_of(module, x, y).backward()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    said, started = "", time.perf_counter()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            guard.after_backward(0, loss)
    except RuntimeError as error:
        said = str(error)
    seconds = time.perf_counter() - started
    after = list(module.parameters())
    again = raised_by(lambda: guard.after_backward(1, loss)) if said else ""
    whole = all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    return {"said": said, "seconds": seconds, "restored": whole, "again": again}


def interrupted_in_turn() -> dict[str, Any]:
    """What the others know of the last of three ranks, in each way in which it goes away; it dies in the end."""
    left = {}
    for how in ("is interrupted", "hangs", "dies"):
        distributed.barrier()
        left[how] = interrupted(how)
    return left
