"""What ranks do that hold a part of each parameter."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from rank_checks import (
    OPTIONS,
    Guarded,
    Small,
    batch,
    checked,
    exchanges,
    loss_of,
    made,
    raised_by,
    sharded,
    sharded_and_copied,
    summed,
)
from rank_trainings import identical, own
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from gradguard.arrays import reductions
from gradguard.integrations.torch import TorchGuard
from gradguard.integrations.torch.distributed.exchange import RankExchange
from gradguard.integrations.torch.distributed.shards import Sharding
from gradguard.perturbation import displace_all
from gradguard.perturbation.directions import aligned, gaussian, random_entries, stratified_entries


def numbers() -> list[bool]:
    """Whether what is found out of a sharded array together is what it is of a whole one."""
    torch.manual_seed(0)
    module = fully_shard(nn.Linear(9, 7))
    whole = module.weight.full_tensor().detach().numpy().copy()
    part = Sharding(RankExchange([0, 1], 60), module.weight).part(module.weight.to_local().detach().numpy())

    def drawn(array: Any) -> list[Any]:
        rng = np.random.default_rng(0)
        return [
            [probe.index for probe in (*stratified_entries(array, 20, rng), *random_entries(array, 5, rng))],
            [np.asarray(direction(array, rng).vector)[part.region] for direction in (aligned, gaussian)],
        ]

    (indices, part_vectors), (expected, whole_vectors) = drawn(part), drawn(whole)
    return [
        bool(np.isclose(reductions.norm_of_finite(part), reductions.norm_of_finite(whole), rtol=1e-12)),
        bool(np.isclose(reductions.typical_size(part, 1.0), reductions.typical_size(whole, 1.0), rtol=1e-12)),
        reductions.largest_magnitude(part) == reductions.largest_magnitude(whole),
        reductions.is_finite(part) and bool(part.any()),
        indices == expected,
        all(np.allclose(one, other, rtol=1e-6) for one, other in zip(part_vectors, whole_vectors, strict=True)),
        all(part[index] == whole[index] for index in ((0, 0), (6, 8), (3, 4))),
        part.copy().local.tobytes() == part.tobytes(),
    ]


def several(spread: Callable[[nn.Module], nn.Module]) -> dict[str, Any]:
    """All tensors move at once: the products of their displacements, as one message sums them and as the whole says."""
    guarded, sent = Guarded(spread), []
    parameters = dict(guarded.module.named_parameters())
    gather, reduce = RankExchange._gather_rows, distributed.all_reduce
    before = {name: whole(parameter) for name, parameter in parameters.items()}
    with guarded.guard, ExitStack() as moving:
        tensors = {name: moving.enter_context(guarded.space.moving(name)) for name in guarded.space.arrays}
        amounts = {name: 0.01 * i for i, name in enumerate(tensors, 1)}
        RankExchange._gather_rows = lambda self, *args: (sent.append("row"), gather(self, *args))[1]  # type: ignore[method-assign, assign, func-returns-value]
        distributed.all_reduce = lambda *args, **options: (sent.append("sum"), reduce(*args, **options))[1]
        products = displace_all(guarded.moves(tensors, amounts))
        RankExchange._gather_rows, distributed.all_reduce = gather, reduce  # type: ignore[method-assign]
        moved = {name: whole(parameter) - before[name] for name, parameter in parameters.items()}
        loss = guarded.loss()
        vectors = {name: move.vector for name, move in zip(tensors, guarded.moves(tensors, amounts), strict=True)}
    slopes = {name: whole(parameter.grad) for name, parameter in parameters.items()}
    expected = [[np.vdot(moved[name], vectors[name]), np.vdot(moved[name], slopes[name])] for name in tensors]
    return {
        "products": bool(np.allclose(products, expected, rtol=1e-9)) and len(products) == len(parameters),
        "restored": all((whole(parameter) == before[name]).all() for name, parameter in parameters.items()),
        "sent": sent,
        "moved the loss": not np.array_equal(loss, guarded.loss()),
    }


def whole(tensor: Any) -> np.ndarray[Any, Any]:
    """All of a tensor, in float64."""
    values = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return values.detach().double().numpy().copy()


def left_unreduced() -> None:
    """The last backward pass does not reduce its gradients, on all ranks."""
    module = made(Small, sharded)
    x, y = batch(0)
    module.set_requires_gradient_sync(False)
    with TorchGuard(module, **OPTIONS) as guard:
        loss_of(module, x, y).backward()
        guard.after_backward(0, lambda: loss_of(module, x, y))


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
        "several": [several(sharded), several(sharded_and_copied)],
        "exchanges": exchanges(sharded),
        "open": raised_by(left_unreduced),
        "float64": raised_by(lambda: checked(spread=sharded, precision="float64")),
        "fails": raised_by(lambda: checked(keeps, fails, spread=sharded, timeout=3)),
        "restored": [torch.equal(own(now), before) for now, before in zip(kept[:2], kept[2:], strict=True)],
    }
