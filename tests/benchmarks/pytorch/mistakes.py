"""The mistakes that are made with PyTorch around a correct model, each with a switch that it sets in with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.pytorch.lstms import CLASSES, HIDDEN, INPUTS, Batch, loss_of

MICRO_BATCHES = 5
LAST_WINDOW = 3  # micro-batches that are left at the end of an epoch
LOSS_SCALE = 1024.0
LARGEST_NORM = 1e-2
LARGEST_ENTRY = 1e-3
WEIGHT = 2.0  # of the loss of a Function that forgets what it is handed


class Plain(nn.Module):
    """Two layers on the last step of a sequence.

    Attributes:
        wrong: Whether its mistake has set in.
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
    """A fused softmax and cross-entropy, whose gradient is made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, forgets: bool) -> Tensor:
        """The mean."""
        p = logits.softmax(1)
        ctx.save_for_backward((p - nn.functional.one_hot(y, p.shape[1])) / len(y))
        ctx.forgets = forgets
        return -p.gather(1, y[:, None]).log().mean()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Times the gradient that it is handed, or not."""
        (slope,) = ctx.saved_tensors
        return (slope if ctx.forgets else slope * grads[0]), None, None


class Detached(Plain):
    """The inner layer's output is cut off."""

    def hidden(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        h = super().hidden(x)
        return h.detach() if self.wrong else h


class Overwritten(Plain):
    """What the outer layer has saved is written over behind autograd's back."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        h = self.hidden(x[-1])
        logits = self.out(h)
        if self.wrong:
            h.data.mul_(0.5)
        return logits


class Dropping(torch.autograd.Function):
    """Dropout; wrong, its mask is drawn once more for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forgets: bool) -> Tensor:
        """Half of the numbers, times two."""
        mask = (torch.rand_like(x) < 0.5) * 2
        ctx.save_for_backward(mask)
        ctx.forgets = forgets
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Through the same mask, or another."""
        (mask,) = ctx.saved_tensors
        return grads[0] * ((torch.rand_like(grads[0]) < 0.5) * 2 if ctx.forgets else mask), None


class Dropped(Plain):
    """With dropout on the inner layer."""

    def hidden(self, x: Tensor) -> Tensor:  # noqa: D102 - as in Plain
        kept: Tensor = Dropping.apply(super().hidden(x), self.wrong)  # type: ignore[no-untyped-call]  # PyTorch's
        return kept


Loss = Callable[[nn.Module, Batch], Tensor]


def fused(module: nn.Module, batch: Batch) -> Tensor:
    """The weighted loss by the Function of one's own."""
    loss: Tensor = Fused.apply(module(batch[0]), batch[1], module.wrong)  # type: ignore[no-untyped-call]  # PyTorch's
    return WEIGHT * loss


@dataclass(frozen=True, slots=True)
class Cause:
    """A mistake.

    Attributes:
        name: For the table.
        says: What a report that names it has to say.
        model: Makes the module, whose `wrong` switches the mistakes of a forward or backward pass.
        loss: Of a micro-batch.
        micro_batches: Of a step.
        divides_by: What the loop divides each micro-batch's loss by once it is wrong; None where it stays right.
        scale: Of the gradients, once it is wrong.
        clips: What the loop does before the check, once it is wrong.
        keeps: Whether it leaves out `zero_grad`, once it is wrong.
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
        """What one step of the loop leaves in `grad`; those of the step before are still there."""
        module.wrong = wrong  # type: ignore[assignment]  # a flag, which modules hold too
        if not (self.keeps and wrong):
            module.zero_grad()
        divisor = self.divides_by if wrong and self.divides_by else len(window)
        for batch in window:
            ((self.scale if wrong else 1.0) * self.loss(module, batch) / divisor).backward()  # type: ignore[no-untyped-call]  # PyTorch's
        if wrong and self.clips is not None:
            self.clips(module)

    def whole(self, module: nn.Module, window: list[Batch]) -> Tensor:
        """The loss that the gradients are meant to be of."""
        return sum((self.loss(module, batch) for batch in window), torch.zeros(())) / len(window)

    def constants(self, window: list[Batch]) -> dict[str, float]:
        """What the loop tells the guard."""
        is_short = 1 < len(window) < MICRO_BATCHES
        known = {"accumulation": float(MICRO_BATCHES), "loss_scale": LOSS_SCALE}
        return known | ({"window": float(len(window))} if is_short else {})


def clip_norm(module: nn.Module) -> None:
    """All gradients together."""
    nn.utils.clip_grad_norm_(module.parameters(), LARGEST_NORM)


def clip_entries(module: nn.Module) -> None:
    """Each by itself."""
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
