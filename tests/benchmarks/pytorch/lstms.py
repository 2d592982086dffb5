"""An LSTM in three ways: PyTorch's own, a cell in plain operations, and a cell with a handwritten backward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

INPUTS, HIDDEN, CLASSES = 5, 8, 4
Batch = tuple[Tensor, Tensor]


class Library(nn.Module):
    """`nn.LSTM`, of which only the last h is returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        """The last h; `x` is (T, B, inputs)."""
        last: Tensor = self.lstm(x)[0][-1]
        return last


class PlainCell(nn.Module):
    """A cell in plain operations, whose backward pass is autograd's."""

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.hidden = hidden
        self.w = nn.Parameter(torch.randn(INPUTS + hidden, 4 * hidden) / (INPUTS + hidden) ** 0.5)
        self.b = nn.Parameter(torch.zeros(4 * hidden))

    def forward(self, x: Tensor) -> Tensor:
        """The last h; `x` is (T, B, inputs)."""
        h = c = x.new_zeros(x.shape[1], self.hidden)
        for at in x:
            h, c = self.cell(at, h, c)
        return h

    def cell(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        i, f, g, o = (torch.cat([x, h], dim=1) @ self.w + self.b).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


class ByHand(PlainCell):
    """The same cell with a handwritten backward pass."""

    def cell(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        after: tuple[Tensor, Tensor] = Cell.apply(x, h, c, self.w, self.b)  # type: ignore[no-untyped-call]  # PyTorch's
        return after


class Cell(torch.autograd.Function):
    """One step of an LSTM, with a handwritten backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        joined = torch.cat([x, h], dim=1)
        i, f, g, o = (joined @ w + b).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        after = f * c + i * g
        ctx.save_for_backward(joined, c, w, i, f, g, o, after)
        return o * after.tanh(), after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        """The gradients of the inputs."""
        dh, dc = grads
        joined, c, w, i, f, g, o, after = ctx.saved_tensors
        dc = dc + dh * o * (1 - after.tanh() ** 2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * after.tanh() * o * (1 - o)]
        da = torch.cat(gates, dim=1)
        back = da @ w.t()
        return back[:, :INPUTS], back[:, INPUTS:], dc * f, joined.t() @ da, da.sum(0)


LSTMS: dict[str, Callable[[], nn.Module]] = {"nn.LSTM": Library, "a cell": PlainCell, "a Function": ByHand}


def classifier(lstm: str, seed: int = 0) -> nn.Sequential:
    """A dense layer on the last h of one of `LSTMS`."""
    torch.manual_seed(seed)
    return nn.Sequential(LSTMS[lstm](), nn.Linear(HIDDEN, CLASSES))


def random_batch(timesteps: int, size: int, generator: torch.Generator) -> Batch:
    """Random sequences; the target of each is which of its first `CLASSES` inputs has the largest mean."""
    x = torch.randn(timesteps, size, INPUTS, generator=generator)
    return x, x[:, :, :CLASSES].mean(0).argmax(1)


def loss_of(module: nn.Module, batch: Batch) -> Tensor:
    """The mean cross-entropy."""
    return nn.functional.cross_entropy(module(batch[0]), batch[1])
