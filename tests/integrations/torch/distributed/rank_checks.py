"""What every rank of the distributed tests trains, and one check of it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from gradguard.integrations.torch import TorchGuard
from gradguard.integrations.torch.distributed.exchange import RankExchange
from gradguard.perturbation import Move, PerturbedTensor

CLASSES, BATCH = 3, 4
OPTIONS: dict[str, Any] = {"every_n_steps": 1, "max_overhead": None, "timeout": 60}
RIGHT = {"ok", "float_precision", "inconclusive"}


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


def summed(module: nn.Module) -> None:
    """Gradients that are sums over the ranks, not means."""
    for parameter in module.parameters():
        assert parameter.grad is not None
        parameter.grad *= distributed.get_world_size()


def checked(
    spoil: Callable[[nn.Module], None] = lambda _module: None,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor] = loss_of,
    spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel,
    value: Callable[[Tensor], object] = lambda _loss: None,
    **options: Any,
) -> dict[str, Any]:
    """The first check of one layer, whose gradients are spoilt first; what this rank knows of it.

    The loss that the training computed is handed over as `value` makes it.
    """
    module = made(Small, spread)
    x, y = batch(0)
    calls = 0

    def evaluated() -> Tensor:
        nonlocal calls
        calls += 1
        return loss(module, x, y)

    with TorchGuard(module, **OPTIONS | options) as guard:
        trained = loss(module, x, y).mean()
        trained.backward()
        spoil(module)
        report = guard.after_backward(0, evaluated, value=value(trained))
    assert report is not None
    plain = report.to_dict()
    del plain["overhead"]
    return {"report": plain, "text": str(report), "calls": calls}


class Guarded:
    """A network with a guard after one backward pass, its parameters as a check moves them, and its loss."""

    def __init__(self, spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel) -> None:
        self.module = made(Network, spread)
        x, y = batch(0)
        loss_of(self.module, x, y).backward()
        self.guard = TorchGuard(self.module, **OPTIONS)
        self.loss = self.guard._replayed(lambda: loss_of(self.module, x, y))
        self.space = self.guard._params.native()
        self.gradients = self.guard._params.gradients()

    def moves(self, tensors: dict[str, PerturbedTensor], amounts: dict[str, float]) -> Iterator[Move]:
        """Of each tensor along a vector that all ranks draw alike."""
        rng = np.random.default_rng(0)
        for name, tensor in tensors.items():
            vector = rng.normal(size=self.space.arrays[name].shape)
            yield Move(tensor, vector, amounts[name], self.gradients[name])


def exchanges(spread: Callable[[nn.Module], nn.Module] = DistributedDataParallel) -> dict[str, int]:
    """How often the ranks talk to each other in a check, and how often the loss is evaluated."""
    counted: list[Any] = []
    original = RankExchange._gather_rows
    RankExchange._gather_rows = lambda self, *args: (counted.append(args), original(self, *args))[1]  # type: ignore[method-assign, assign, func-returns-value]
    result = checked(spread=spread, precision="native")
    RankExchange._gather_rows = original  # type: ignore[method-assign]
    return {"exchanges": len(counted), "evaluations": result["report"]["evaluations"]}


def raised_by(act: Callable[[], object]) -> str:
    """The message of what it raises, with its type."""
    try:
        act()
    except Exception as error:  # which one it is, the test asks
        return f"{type(error).__name__}: {error}"
    return ""
