"""What ranks do that hold whole parameters; each scenario is a function that every rank calls."""

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rank_checks import BATCH, OPTIONS, Guarded, Small, batch, checked, exchanges, loss_of, made, raised_by, summed
from rank_trainings import identical
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional

from gradguard.integrations.torch import TorchGuard
from gradguard.perturbation import displace_all


def weighted(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The share of this part in the mean over the whole batch, for gradients that are added."""
    total = 2 * BATCH + 1
    return functional.cross_entropy(module(x), y, reduction="sum") / total


def unreduced(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As many losses as this part of the batch has rows."""
    return functional.cross_entropy(module(x), y, reduction="none")


def all_checks(folder: str) -> dict[str, Any]:
    """One check of each kind."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("gradguard").addHandler(handler)
    results = {
        "right": checked(),
        "summed": checked(summed, logdir=folder),
        "its own loss": checked(value=lambda loss: loss),
        "another loss": checked(value=lambda loss: loss + distributed.get_rank()),
        "said to be summed": checked(summed, weighted, across="sum"),
        "unreduced": checked(loss=unreduced, reduction="mean", precision="native"),
    }
    return results | {"log": messages, "files": len(list(Path(folder).iterdir())) if messages else None}


def by_hand() -> dict[str, Any]:
    """Gradients that the training itself averages, told by `group`."""
    torch.manual_seed(0)
    module = Small()
    x, y = batch(0)
    with TorchGuard(module, group=distributed.group.WORLD, **OPTIONS) as guard:
        loss_of(module, x, y).backward()
        for parameter in module.parameters():
            distributed.all_reduce(parameter.grad)
            parameter.grad /= distributed.get_world_size()
        report = guard.after_backward(0, lambda: loss_of(module, x, y))
    assert report is not None
    return {"bug": report.verdict.is_bug}


def budgeted() -> list[int]:
    """The steps of the checks that a bound leaves time for, where one rank is much slower than the other."""
    module = made(Small)

    def loss() -> Tensor:
        if distributed.get_rank():
            time.sleep(1e-3)
        return loss_of(module, x, y)

    with TorchGuard(module, **OPTIONS | {"max_overhead": 0.5}) as guard:
        for step in range(30):
            x, y = batch(step)
            module.zero_grad()
            loss_of(module, x, y).backward()
            time.sleep(1e-2)
            guard.after_backward(step, loss)
    return [row.evaluations for row in guard.history]


def resumed() -> list[int]:
    """A state that the first rank saved, after as many evaluations as it takes all ranks alike."""
    module = made(Small)
    x, y = batch(0)
    loss_of(module, x, y).backward()
    with TorchGuard(module, **OPTIONS) as guard:
        guard.after_backward(0, lambda: loss_of(module, x, y))
        state = [guard.guard.state_dict() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(state)
    with TorchGuard(module, **OPTIONS | {"max_overhead": 0.9}) as guard:
        guard.guard.load_state_dict(state[0])
        for step in range(1, 4):
            guard.after_backward(step, lambda: loss_of(module, x, y))
    return [row.evaluations for row in guard.history]


def mistakes() -> dict[str, str]:
    """What each mistake that all ranks survive is told as, on this rank."""

    def accumulates_alone(module: nn.Module) -> None:
        """One rank's gradients get something that is not sent around."""
        if distributed.get_rank() == 1:
            module.module.out.weight.grad += 1e-3

    def writes_alone(module: nn.Module) -> None:
        if distributed.get_rank() == 1:
            module.module.out.bias.data += 1e-3

    def fails_on_one(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if distributed.get_rank() == 1 and not torch.is_grad_enabled():
            fails_on_one.calls += 1
            if fails_on_one.calls > 20:
                raise OSError("the disk with the batch is gone")
        return loss_of(module, x, y)

    fails_on_one.calls = 0
    rank = distributed.get_rank()
    return {
        "open": raised_by(left_open),
        "gradients": raised_by(lambda: checked(accumulates_alone)),
        "parameters": raised_by(lambda: checked(writes_alone)),
        "loss": raised_by(lambda: checked(loss=fails_on_one, precision="native")),
        "seed": raised_by(lambda: checked(seed=rank)),
        "shapes": raised_by(lambda: TorchGuard(nn.Linear(2, 3 + rank), group=distributed.group.WORLD)),
        "across": raised_by(lambda: checked(across="median")),
        "timeout": raised_by(lambda: checked(timeout=0)),
    }


def left_open() -> None:
    """The last forward pass of the step is within no_sync, on all ranks."""
    module = made(Small)
    x, y = batch(0)
    with TorchGuard(module, **OPTIONS) as guard:
        with module.no_sync():
            loss_of(module, x, y).backward()
        guard.after_backward(0, lambda: loss_of(module, x, y))


def several_at_odds() -> str:
    """All ranks move several tensors, one of them by another amount on one rank, and not the last."""
    guarded, other = Guarded(), 1e-3 * (1 + distributed.get_rank())
    with ExitStack() as moving, guarded.guard:
        tensors = {name: moving.enter_context(guarded.space.moving(name)) for name in guarded.space.arrays}
        amounts = dict.fromkeys(tensors, 1e-3)
        displace_all(guarded.moves(tensors, amounts))
        guarded.loss()
        displace_all(guarded.moves(tensors, amounts | {"norm.weight": other}))
        return raised_by(guarded.loss)


def out_of_step() -> str:
    """One rank is a step ahead."""
    module = made(Small)
    x, y = batch(0)
    loss_of(module, x, y).backward()
    guard = TorchGuard(module, **OPTIONS)
    return raised_by(lambda: guard.after_backward(distributed.get_rank(), lambda: loss_of(module, x, y)))


def made_on_one() -> str:
    """Only the first rank makes a guard."""
    module = made(Small)
    return raised_by(lambda: TorchGuard(module, **OPTIONS | {"timeout": 2})) if distributed.get_rank() == 0 else ""


class Halved(Function):
    """The identity with half of its gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        """A copy."""
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> Tensor:
        """Half of it."""
        return grads[0] / 2


class Averaged(Halved):
    """The mean over the ranks, with half of its gradient."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        """A mean for which the ranks wait for each other."""
        total = x.clone()
        distributed.all_reduce(total)
        return total / distributed.get_world_size()


class Halving(Small):
    """One layer, what is known to all ranks, and a Function that is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return Halved.apply(self.out(x)) * Averaged.apply(self.scale)


def functions() -> list[str]:
    """The causes at three checks of a training with two wrong Functions, of which one communicates.

    The second check is one more of the first step.
    """
    module, causes = made(Halving), []
    with TorchGuard(module, **OPTIONS) as guard:
        for step in range(3):
            x, y = batch(step // 2)
            if step != 1:
                module.zero_grad()
                loss_of(module, x, y).backward()
            report = guard.after_backward(step, lambda x=x, y=y: loss_of(module, x, y))
            assert report is not None
            causes.append(report.tensors["out.weight"].cause)
    return causes


def everything(folder: str) -> dict[str, Any]:
    """What two ranks that come to the end do; the last one leaves them at odds."""
    return {
        "identical": identical(),
        "checks": all_checks(folder),
        "by hand": by_hand(),
        "budgeted": budgeted(),
        "functions": functions(),
        "resumed": resumed(),
        "exchanges": exchanges(),
        "several": several_at_odds(),
        "mistakes": mistakes() | {"out of step": out_of_step(), "made on one": made_on_one()},
    }
