"""What the processes of the distributed tests do, each a function that every rank calls."""

import contextlib
import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from gradguard import blockwise, probes
from gradguard.integrations.torch import TorchGuard
from gradguard.integrations.torch.peers import Peers
from gradguard.integrations.torch.shards import Sharding

CLASSES, BATCH = 3, 4
OPTIONS: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None, "timeout": 60}


class Network(nn.Module):
    """Batch statistics, a buffer that every forward pass changes and reads, dropout; more rows than ranks divide."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.dropout = nn.Dropout(0.3)
        self.out = nn.Linear(5, CLASSES)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.seen += 1
        return self.out(self.dropout(torch.tanh(self.norm(self.inner(x))))) * (1 + self.seen / 100)


class Small(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.out(x)


def batch(step: int, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """This rank's part of a batch; the second rank's is larger by one."""
    generator = torch.Generator().manual_seed(100 * distributed.get_rank() + step)
    size += distributed.get_rank()
    return torch.randn(size, 2, generator=generator), torch.randint(CLASSES, (size,), generator=generator)


def made(
    module: Callable[[], nn.Module], spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel
) -> nn.Module:
    """The same parameters on all ranks, and different random streams."""
    torch.manual_seed(0)
    wrapper = spread(module())
    torch.manual_seed(distributed.get_rank())
    return wrapper


def sharded(module: nn.Module) -> nn.Module:
    """Its first layer by itself, and what is left together."""
    if hasattr(module, "inner"):
        fully_shard(module.inner)
    return fully_shard(module)


def sharded_and_copied(module: nn.Module) -> nn.Module:
    """A shard of all on one axis of the ranks, the same on the other."""
    ranks = distributed.get_world_size()
    mesh = distributed.init_device_mesh("cpu", (ranks, 1), mesh_dim_names=("replicate", "shard"))
    return fully_shard(module, mesh=mesh)


def loss_of(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of one part of the batch."""
    return functional.cross_entropy(module(x), y)


def checked(
    spoil: Callable[[nn.Module], None] = lambda _module: None,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = loss_of,
    spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel,
    **options: Any,
) -> dict[str, Any]:
    """The first check of one layer, whose gradients are spoilt first; what this rank knows of it."""
    module = made(Small, spread)
    x, y = batch(0)
    calls = 0

    def evaluated() -> Tensor:
        nonlocal calls
        calls += 1
        return loss(module, x, y)

    with TorchGuard(module, **OPTIONS | options) as guard:
        loss(module, x, y).mean().backward()
        spoil(module)
        report = guard.after_backward(0, evaluated)
    assert report is not None
    plain = report.to_dict()
    del plain["overhead"]
    return {"report": plain, "text": str(report), "calls": calls}


# Each scenario below is the body of a test.


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


def summed(module: nn.Module) -> None:
    """Gradients that are sums over the ranks, not means."""
    for parameter in module.parameters():
        assert parameter.grad is not None
        parameter.grad *= distributed.get_world_size()


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
            time.sleep(2e-3)
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


def raised_by(act: Callable[[], object]) -> str:
    """The message of what it raises, with its type."""
    try:
        act()
    except Exception as error:  # which one it is, the test asks
        return f"{type(error).__name__}: {error}"
    return ""


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


def everything(folder: str) -> dict[str, Any]:
    """What two ranks that come to the end do; the last one leaves them at odds."""
    return {
        "identical": identical(),
        "checks": all_checks(folder),
        "by hand": by_hand(),
        "budgeted": budgeted(),
        "resumed": resumed(),
        "exchanges": exchanges(),
        "mistakes": mistakes() | {"out of step": out_of_step(), "made on one": made_on_one()},
    }


def ends() -> dict[str, Any]:
    """What the others know of the last of three ranks, in each way in which it goes away; it dies in the end."""
    left = {}
    for how in ("is interrupted", "hangs", "dies"):
        distributed.barrier()
        left[how] = interrupted(how)
    return left


def sharded_everything() -> dict[str, Any]:
    """What two ranks do that hold parts."""

    def fails(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            fails.calls += 1
            if fails.calls > 20 and distributed.get_rank() == 1:
                raise OSError("the disk with the batch is gone")
        return loss_of(module, x, y)

    fails.calls = 0
    kept: list[Tensor] = []

    def keeps(module: nn.Module) -> None:
        kept.extend([*module.parameters(), *(own(parameter).clone() for parameter in module.parameters())])

    return {
        "identical": identical(sharded),
        "right": checked(spread=sharded),
        "summed": checked(summed, spread=sharded),
        "copied": checked(spread=sharded_and_copied),
        "numbers": numbers(),
        "exchanges": exchanges(sharded),
        "open": raised_by(left_unreduced),
        "float64": raised_by(lambda: checked(spread=sharded, precision="float64")),
        "fails": raised_by(lambda: checked(keeps, fails, spread=sharded, timeout=3)),
        "restored": [torch.equal(own(now), before) for now, before in zip(kept[:2], kept[2:], strict=True)],
    }


def numbers() -> list[bool]:
    """Whether what is found out of a sharded array together is what it is of a whole one."""
    torch.manual_seed(0)
    module = fully_shard(nn.Linear(9, 7))
    whole = module.weight.full_tensor().detach().numpy().copy()
    part = Sharding(Peers([0, 1], 60), module.weight).part(module.weight.to_local().detach().numpy())

    def drawn(array: Any) -> list[Any]:
        rng = np.random.default_rng(0)
        return [
            [probe.index for probe in (*probes.entries(array, 20, rng), *probes.some_entries(array, 5, rng))],
            [np.asarray(direction(array, rng).vector)[part.region] for direction in (probes.aligned, probes.gaussian)],
        ]

    (indices, directions), (expected, whole_directions) = drawn(part), drawn(whole)
    return [
        bool(np.isclose(blockwise.norm(part), blockwise.norm(whole), rtol=1e-12)),
        bool(np.isclose(blockwise.typical_size(part, 1.0), blockwise.typical_size(whole, 1.0), rtol=1e-12)),
        blockwise.largest(part) == blockwise.largest(whole),
        blockwise.is_finite(part) and bool(part.any()),
        indices == expected,
        all(np.allclose(one, other, rtol=1e-6) for one, other in zip(directions, whole_directions, strict=True)),
        all(part[index] == whole[index] for index in ((0, 0), (6, 8), (3, 4))),
        part.copy().own.tobytes() == part.tobytes(),
    ]


def left_unreduced() -> None:
    """The last backward pass does not reduce its gradients, on all ranks."""
    module = made(Small, sharded)
    x, y = batch(0)
    module.set_requires_gradient_sync(False)
    with TorchGuard(module, **OPTIONS) as guard:
        loss_of(module, x, y).backward()
        guard.after_backward(0, lambda: loss_of(module, x, y))


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


def exchanges(spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel) -> dict[str, int]:
    """How often the ranks talk to each other in a check, and how often the loss is evaluated."""
    counted: list[Any] = []
    original = Peers._gathered
    Peers._gathered = lambda self, *args: (counted.append(args), original(self, *args))[1]  # type: ignore[method-assign, assign, func-returns-value]
    result = checked(spread=spread, precision="native")
    Peers._gathered = original  # type: ignore[method-assign]
    return {"exchanges": len(counted), "evaluations": result["report"]["evaluations"]}
