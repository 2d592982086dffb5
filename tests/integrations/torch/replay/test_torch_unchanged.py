"""Law 1: training is never changed."""

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402 - torch may not be there
from torch_checks import guard_of, same, seeded  # noqa: E402
from torch_models import Everything, Perceptron, Table, batches, cross_entropy  # noqa: E402


def in_autocast(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """As one writes it for mixed precision."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return cross_entropy(module(x), y)


def plain(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Nothing else around it."""
    return cross_entropy(module(x), y)


def left_by_training(
    make: Callable[[], nn.Module], loss: Callable[..., Tensor], *, guarded: bool, hooked: bool = False, **options: Any
) -> tuple[list[Any], list[Any]]:
    """All that two steps over two micro-batches each leave behind, bit for bit; and the history of the guard."""
    module = seeded(make)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    window: list[tuple[Tensor, Tensor]] = []

    def whole() -> Tensor:
        return sum((loss(module, *batch) for batch in window), torch.zeros(())) / len(window)

    guard = guard_of(module, optimizer, loss=whole, **options) if guarded else None
    if guard is not None and hooked:
        guard.hook()
    grads = []
    for step in range(2):
        optimizer.zero_grad()
        window[:] = batches(4)[2 * step : 2 * step + 2]
        for batch in window:
            scaler.scale(loss(module, *batch) / 2).backward()
        scaler.unscale_(optimizer)
        if guard is not None and not hooked:
            guard.after_backward(step)
        grads += [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        scaler.step(optimizer)
        scaler.update()
    left = [*module.state_dict().values(), *module.parameters(), *grads, *optimizer.state_dict()["state"].values()]
    left += [getattr(module, name, None) for name in ("calls", "hidden")]
    left += [torch.get_rng_state(), random.getstate(), np.random.get_state()[1], [m.training for m in module.modules()]]  # noqa: NPY002
    return left, [] if guard is None else list(guard.history)


@pytest.mark.parametrize(
    ("make", "loss", "options"),
    [
        (Everything, plain, {"precision": "auto"}),
        (Everything, plain, {"precision": "native", "hooked": True}),
        (Perceptron, in_autocast, {"precision": "auto"}),
        (Perceptron, in_autocast, {"precision": "native"}),
        (Table, plain, {"precision": "auto", "hooked": True}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_training_is_bit_for_bit_the_same_under_guard(
    make: Callable[[], nn.Module], loss: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    """Weights, gradients, momenta, buffers, hidden state, counters and all random streams; and nothing is wrong."""
    without, _ = left_by_training(make, loss, guarded=False)
    under_guard, history = left_by_training(make, loss, guarded=True, **options)
    assert [same(one, other) for one, other in zip(without, under_guard, strict=True)] == [True] * len(without)
    assert [row.step for row in history] == [0, 1]
    assert not any(row.verdict.is_bug for row in history)
    assert {row.verdict for row in history} <= {"ok", "float_precision", "inconclusive"}


def test_a_loss_that_raises_in_the_middle_leaves_everything_as_it_was() -> None:
    """Parameters, buffers, hidden state and streams."""
    module = seeded(Everything)
    x, y = batches(1)[0]
    calls = []

    def loss() -> Tensor:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return cross_entropy(module(x), y)

    with guard_of(module) as guard:
        cross_entropy(module(x), y).backward()
        before = copy.deepcopy([module.state_dict(), module.hidden, module.calls, torch.get_rng_state()])
        objects = [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
        with pytest.raises(KeyboardInterrupt):
            guard.after_backward(0, loss)
    assert same(before, [module.state_dict(), module.hidden, module.calls, torch.get_rng_state()])
    assert objects == [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
    assert module.training


def test_a_graph_that_is_kept_for_another_backward_stays_valid() -> None:
    """Autograd does not see the parameters move."""
    module = seeded(Perceptron)
    x, y = batches(1)[0]
    with guard_of(module, precision="native") as guard:
        loss = cross_entropy(module(x), y)
        loss.backward(retain_graph=True)
        guard.after_backward(0, lambda: cross_entropy(module(x), y))
        loss.backward()
