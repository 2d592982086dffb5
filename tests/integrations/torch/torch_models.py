"""Modules that the tests of the PyTorch integration train, among them an LSTM with its backward pass by hand."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TIMESTEPS, BATCH, INPUTS, HIDDEN, CLASSES = 3, 4, 2, 2, 3


class CellFunction(torch.autograd.Function):
    """One step of an LSTM; `fault` spoils its backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, c: Tensor, w: Tensor, b: Tensor, fault: str | None
    ) -> tuple[Tensor, Tensor]:
        """The next h and c; the gates i, f, g, o on the last axis of `w` and `b`."""
        joined = torch.cat([x, h], dim=1)
        i, f, g, o = (joined @ w + b).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        after = f * c + i * g
        ctx.save_for_backward(joined, c, w, i, f, g, o, after)
        ctx.fault = fault
        return o * after.tanh(), after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, by hand."""
        dh, dc = grads
        joined, c, w, i, f, g, o, after = ctx.saved_tensors
        if ctx.fault == "forgets grad_output":
            dh = torch.ones_like(dh)
        dc = dc + dh * o * (1 - after.tanh() ** 2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * after.tanh() * o * (1 - o)]
        da = torch.cat(gates, dim=1)
        dw, db = joined.t() @ da, da.sum(0)
        factor = {"averaged": 1 / TIMESTEPS, "sign": -1.0, "one per cent": 1.01}.get(ctx.fault, 1.0)
        back = da @ w.t()
        return (
            back[:, :INPUTS],
            back[:, INPUTS:],
            dc * f,
            factor * dw,
            None if ctx.fault == "no bias" else factor * db,
            None,
        )


class HandLSTM(nn.Module):
    """A softmax layer on an LSTM that is written by hand."""

    def __init__(self, fault: str | None = None) -> None:
        super().__init__()
        self.fault = fault
        self.w = nn.Parameter(torch.randn(INPUTS + HIDDEN, 4 * HIDDEN) / 2)
        self.b = nn.Parameter(torch.randn(4 * HIDDEN) / 4)
        self.out = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step; `x` is (T, B, inputs)."""
        h = c = torch.zeros(x.shape[1], HIDDEN, dtype=self.w.dtype)
        for step in x:
            h, c = CellFunction.apply(step, h, c, self.w, self.b, self.fault)
        return self.out(h)


class Perceptron(nn.Module):
    """Two layers on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(INPUTS, 4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step; `x` is (T, B, inputs)."""
        return self.out(torch.tanh(self.inner(x[-1])))


class Everything(nn.Module):
    """Recurrence, batch statistics, dropout, a counter and a hidden state that is carried over."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, HIDDEN)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.dropout = nn.Dropout(0.4)
        self.out = nn.Linear(HIDDEN, CLASSES)
        self.calls = 0
        self.hidden: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the last step."""
        h, hidden = self.lstm(x, self.hidden)
        self.hidden = (hidden[0].detach(), hidden[1].detach())
        self.calls += 1
        return self.out(self.dropout(self.norm(h[-1])))


class Table(nn.Module):
    """An embedding with sparse gradients under a layer that shares its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3, sparse=True)
        self.decoder = nn.Linear(3, 4, bias=False)
        self.decoder.weight = self.embedding.weight
        self.out = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits by the sign of the last step."""
        return self.out(torch.tanh(self.embedding((x[-1, :, 0] > 0).long())))


def batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """Sequences and classes, always the same."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(TIMESTEPS, BATCH, INPUTS, generator=generator).to(dtype),
            torch.randint(CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(count)
    ]


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The mean, in float32 at least."""
    return functional.cross_entropy(logits if logits.dtype is torch.float64 else logits.float(), y)
