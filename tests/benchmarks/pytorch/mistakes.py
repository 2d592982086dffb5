"""The usual PyTorch mistakes, each as a training loop that makes it from some step on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pytorch.lstms import CLASSES, HIDDEN, INPUTS, Batch, loss_of

MICRO_BATCHES = 5
LAST_WINDOW = 3  # micro-batches in the last, shorter window of an epoch
LOSS_SCALE = 1024.0
LARGEST_NORM = 1e-2
LARGEST_ENTRY = 1e-3
WEIGHT = 2.0  # of the loss whose Function ignores grad_output


class Plain(nn.Module):
    """Two layers on the last step of a sequence.

    Attributes:
        wrong: Whether its mistake is made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(INPUTS, HIDDEN), nn.Linear(HIDDEN, CLASSES)
        self.wrong = False

    def forward(self, x: Tensor) -> Tensor:
        """Logits; `x` is (T, B, inputs)."""
        return self.out(self.hidden(x[-1]))

    def hidden(self, x: Tensor) -> Tensor:
        """The inner layer."""
        return torch.tanh(self.inner(x))


class Fused(torch.autograd.Function):
    """A fused softmax and cross-entropy that computes its gradient in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, forgets: bool) -> Tensor:
        """The mean cross-entropy."""
        p = logits.softmax(1)
        ctx.save_for_backward((p - nn.functional.one_hot(y, p.shape[1])) / len(y))
        ctx.forgets = forgets
        return -p.gather(1, y[:, None]).log().mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """The saved gradient, times `grad_output` unless the Function ignores it."""
        (slope,) = ctx.saved_tensors
        return (slope if ctx.forgets else slope * grads[0]), None, None


class Detached(Plain):
    """The output of the inner layer is detached."""

    def hidden(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        h = super().hidden(x)
        return h.detach() if self.wrong else h


class Overwritten(Plain):
    """A tensor that the outer layer saved is overwritten without autograd noticing."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        h = self.hidden(x[-1])
        logits = self.out(h)
        if self.wrong:
            h.data.mul_(0.5)
        return logits


class Dropping(torch.autograd.Function):
    """Dropout; the wrong variant draws another mask for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forgets: bool) -> Tensor:
        """Keep a random half of the numbers, times two."""
        mask = (torch.rand_like(x) < 0.5) * 2
        ctx.save_for_backward(mask)
        ctx.forgets = forgets
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Through the same mask, or another one."""
        (mask,) = ctx.saved_tensors
        return grads[0] * ((torch.rand_like(grads[0]) < 0.5) * 2 if ctx.forgets else mask), None


class Dropped(Plain):
    """With dropout on the inner layer."""

    def hidden(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        kept: Tensor = Dropping.apply(super().hidden(x), self.wrong)  # type: ignore[no-untyped-call]  # PyTorch's
        return kept


Loss = Callable[[nn.Module, Batch], Tensor]


def fused(module: nn.Module, batch: Batch) -> Tensor:
    """The weighted loss, by the custom Function."""
    loss: Tensor = Fused.apply(module(batch[0]), batch[1], module.wrong)  # type: ignore[no-untyped-call]  # PyTorch's
    return WEIGHT * loss


@dataclass(frozen=True, slots=True)
class Cause:
    """A mistake in a training loop or in a module.

    Attributes:
        name: For the table.
        says: The text that a report with the right cause contains.
        model: Makes the module; its `wrong` switches a mistake in the forward or backward pass.
        loss: Of a micro-batch.
        micro_batches: Of a step.
        divides_by: The wrong divisor of the loss of each micro-batch; None for the right one.
        scale: Of the wrong gradients.
        clips: Clips the gradients before the check.
        keeps: Whether the wrong loop leaves out `zero_grad`.
    """

    name: str
    says: str
    model: Callable[[], nn.Module] = Plain
    loss: Loss = loss_of
    micro_batches: int = 1
    divides_by: int | None = None
    scale: float = 1.0
    clips: Callable[[nn.Module], object] | None = None
    keeps: bool = False

    def gradients(self, module: nn.Module, window: list[Batch], *, wrong: bool) -> None:
        """Run the backward passes of one step, on top of the gradients of the step before."""
        module.wrong = wrong  # type: ignore[assignment]  # a flag, which modules hold too
        if not (self.keeps and wrong):
            module.zero_grad()
        divisor = self.divides_by if wrong and self.divides_by else len(window)
        for batch in window:
            ((self.scale if wrong else 1.0) * self.loss(module, batch) / divisor).backward()  # type: ignore[no-untyped-call]  # PyTorch's
        if wrong and self.clips is not None:
            self.clips(module)

    def whole(self, module: nn.Module, window: list[Batch]) -> Tensor:
        """The loss whose gradients the step should compute."""
        return sum((self.loss(module, batch) for batch in window), torch.zeros(())) / len(window)

    def constants(self, window: list[Batch]) -> dict[str, float]:
        """The constants that the loop passes to the guard."""
        is_short = 1 < len(window) < MICRO_BATCHES
        known = {"accumulation": float(MICRO_BATCHES), "loss_scale": LOSS_SCALE}
        return known | ({"window": float(len(window))} if is_short else {})


def clip_norm(module: nn.Module) -> None:
    """Clip the norm of all gradients."""
    nn.utils.clip_grad_norm_(module.parameters(), LARGEST_NORM)


def clip_entries(module: nn.Module) -> None:
    """Clip each entry."""
    nn.utils.clip_grad_value_(module.parameters(), LARGEST_ENTRY)


CAUSES = (
    Cause("gradients still scaled", "1/`loss_scale`", scale=LOSS_SCALE),
    Cause("accumulated, not divided", "1/`accumulation`", micro_batches=MICRO_BATCHES, divides_by=1),
    Cause("divided twice", "`accumulation`", micro_batches=MICRO_BATCHES, divides_by=MICRO_BATCHES**2),
    Cause("short last window", "`accumulation`/`window`", micro_batches=LAST_WINDOW, divides_by=MICRO_BATCHES),
    Cause("clipped by norm", "clip", clips=clip_norm),
    Cause("clipped by value", "clip", clips=clip_entries),
    Cause("forgets grad_output", "lost a factor of 2", loss=fused),
    Cause("detached branch", "something detaches it", model=Detached),
    Cause("no zero_grad", "no single factor explains it", keeps=True),
    Cause("overwritten saved tensor", "no single factor explains it", model=Overwritten),
    Cause("mask not saved", "no single factor explains it", model=Dropped),
)
