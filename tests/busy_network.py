"""A network with a backward pass by hand whose forward pass does all that a forward pass may do besides its result."""

import random
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TIMESTEPS, INPUTS, HIDDEN, CLASSES, BATCH = 5, 3, 4, 3, 6
WRONG = {"cell.weight", "cell.bias"}
"""The tensors whose gradients a faulty network divides by the number of timesteps."""
TENSORS = {*WRONG, "norm.weight", "norm.bias", "out.weight", "out.bias"}
OPTIONS: dict[str, Any] = {"max_overhead": None, "constants": {"timesteps": TIMESTEPS}}


class Affine(torch.autograd.Function):
    """x @ w + b, whose gradients of w and b are divided by `divisor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, divisor: int) -> Tensor:
        """The sum."""
        ctx.save_for_backward(x, w)
        ctx.divisor = divisor
        return x @ w + b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, by hand."""
        (d,) = grads
        x, w = ctx.saved_tensors
        return d @ w.t(), x.t() @ d / ctx.divisor, d.sum(0) / ctx.divisor, None


class Cell(nn.Module):
    """A tanh recurrence."""

    def __init__(self, *, faulty: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(INPUTS + HIDDEN, HIDDEN) / 2)
        self.bias = nn.Parameter(torch.zeros(HIDDEN))
        self.divisor = TIMESTEPS if faulty else 1

    def forward(self, x: Tensor) -> Tensor:
        """The last hidden state; `x` is (batch, timesteps, inputs)."""
        h = torch.zeros(len(x), HIDDEN, dtype=x.dtype)
        for t in range(TIMESTEPS):
            h = torch.tanh(Affine.apply(torch.cat([x[:, t], h], 1), self.weight, self.bias, self.divisor))
        return h


@dataclass
class Meter:
    """What users write to average something."""

    total: float = 0.0
    values: list[Tensor] = field(default_factory=list)


class Network(nn.Module):
    """A classifier; a busy one draws, counts, keeps outputs, and moves an average of the weights, which it reads."""

    def __init__(self, *, faulty: bool = False, busy: bool = False) -> None:
        super().__init__()
        self.cell, self.norm, self.out = Cell(faulty=faulty), nn.BatchNorm1d(HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.busy = busy
        if busy:
            self.dropout = nn.Dropout(0.3)
            self.average = nn.Parameter(self.cell.weight.detach().clone(), requires_grad=False)
            self.outputs: list[Tensor] = []
            self.latest: deque[Tensor] = deque(maxlen=3)
            self.counts, self.meter = Counter({"calls": 0}), Meter()
            self.sums = {"logits": torch.zeros(CLASSES)}

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if not self.busy:
            return self.out(self.norm(self.cell(x)))
        x = x + 0.1 * torch.randn_like(x) + 0.1 * np.random.rand() + 0.1 * random.random()  # noqa: NPY002, S311
        h = self.dropout(self.norm(self.cell(x))) + self.average.mean()
        logits = self.out(h)
        with torch.no_grad():
            self.average.lerp_(self.cell.weight, 0.1)
            self.sums["logits"] += logits.sum(0).float()
        self.outputs.append(logits.detach())
        self.latest.append(logits.detach().mean())
        self.meter.values.append(h.detach())
        self.meter.total += 1
        self.counts["calls"] += 1
        return logits


def seed() -> None:
    """Start all random streams."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global streams are those that must be left alone
    random.seed(0)


def samples(count: int) -> tuple[Tensor, Tensor]:
    """Sequences and classes, always the same."""
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(count, TIMESTEPS, INPUTS, generator=generator),
        torch.randint(CLASSES, (count,), generator=generator),
    )


def left_on(network: nn.Module) -> list[Any]:
    """All that a training leaves on a network, and in the random streams."""
    attributes = ("outputs", "latest", "counts", "meter", "sums")
    left = [network.state_dict(), sorted(vars(network)), [part.training for part in network.modules()]]
    left += [getattr(network, name, None) for name in attributes]
    return [*left, torch.get_rng_state(), random.getstate(), np.random.get_state()[1]]  # noqa: NPY002


def same(one: Any, other: Any) -> bool:
    """Bit for bit, in all that nested containers hold."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, Meter):
        return same(vars(one), vars(other))
    if isinstance(one, Collection) and not isinstance(one, str | np.ndarray):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(np.array_equal(one, other))


def bugs(row: Any) -> set[str]:
    """The wrong tensors of a check."""
    return {name for name, verdict in row.verdicts.items() if verdict.is_bug}


def names_the_factor(report: Any, prefix: str = "") -> bool:
    """Whether each wrong tensor is said to be off by the number of timesteps, and no other one to be wrong.

    Args:
        report: The report.
        prefix: What the names of all tensors begin with.
    """
    wrong = {name: tensor for name, tensor in report.tensors.items() if tensor.verdict.is_bug}
    return wrong.keys() == {prefix + name for name in WRONG} and all(
        tensor.verdict == "scale" and "timesteps" in f"{tensor.explanation} {tensor.cause}" for tensor in wrong.values()
    )


def comparison(left: Sequence[list[Any]], guard: Any) -> dict[str, Any]:
    """What a process of several has found, for `torchrun.leave`.

    Args:
        left: What the training leaves without a guard, and what it leaves with it.
        guard: The guard, or the callback.
    """
    return {
        "same": [same(*pair) for pair in zip(*left, strict=True)],
        "rows": [[row.step, sorted(bugs(row))] for row in guard.history],
        "said": str(guard.report),
    }
