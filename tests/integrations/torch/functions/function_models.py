"""Small Functions of many kinds, and a module that calls one on a parameter and its input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch_checks import guard_of, seeded

from gradguard import Report
from gradguard.functions.culprits import function_sentence
from gradguard.integrations.torch.functions.check import FunctionChecks


class Scaled(Function):
    """x w, and a gradient for w that is half of the right one where `fault` says so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, fault: bool = True) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, w)
        ctx.fault = fault
        return x * w

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that are needed."""
        x, w = ctx.saved_tensors
        dx = grads[0] * w if ctx.needs_input_grad[0] else None
        return dx, (grads[0] * x).sum(0) * (0.5 if ctx.fault else 1.0), None


class Newer(Function):
    """x w with its context set up apart, and half a gradient for w."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        """The product."""
        return x * w

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - as PyTorch calls it
        """Save the inputs."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Half of it."""
        x, w = ctx.saved_tensors
        return grads[0] * w, (grads[0] * x).sum(0) / 2


class InPlace(Function):
    """x w, written to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The product in place."""
        ctx.save_for_backward(x.clone(), w)
        ctx.mark_dirty(x)
        return x.mul_(w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Half of it."""
        x, w = ctx.saved_tensors
        return grads[0] * w, (grads[0] * x).sum(0) / 2


class Several(Function):
    """x w, the sign of x, and x + w; the gradient for w forgets the last one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, str]:
        """Two differentiable outputs, one that is not, and a text."""
        ctx.save_for_backward(x, w)
        sign = x.sign()
        ctx.mark_non_differentiable(sign)
        return x * w, sign, x + w, "text"

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Without grads[2] for w."""
        x, w = ctx.saved_tensors
        return grads[0] * w + grads[2], (grads[0] * x).sum(0)


class Noisy(Function):
    """x w under a mask that it draws itself; half a gradient for w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The masked product."""
        mask = (torch.rand(x.shape) > 0.3).to(x.dtype)
        ctx.save_for_backward(x, w, mask)
        return x * w * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Half of it."""
        x, w, mask = ctx.saved_tensors
        return grads[0] * w * mask, (grads[0] * x * mask).sum(0) / 2


class Outer(Function):
    """x w, whose backward pass differentiates `Scaled`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        """The product."""
        ctx.save_for_backward(x, w)
        return Scaled.apply(x, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By autograd."""
        x, w = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            product = Scaled.apply(x, w)
        return torch.autograd.grad(product, (x, w), grads[0])


class Square(Function):
    """x^2 by a kernel that takes the memory of its tensors as contiguous: `of` says in which pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, of: str) -> Tensor:
        """The squares."""
        ctx.save_for_backward(x)
        ctx.of = of
        return (as_contiguous(x) if of == "forward" else x) ** 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """2 x times the upstream gradient."""
        x = ctx.saved_tensors[0]
        return 2 * x * (as_contiguous(grads[0]) if ctx.of == "backward" else grads[0]), None


def as_contiguous(tensor: Tensor) -> Tensor:
    """What a kernel reads that ignores strides."""
    strides = torch.empty(tensor.shape).stride()
    flat = tensor.as_strided((tensor.untyped_storage().size() // tensor.element_size(),), (1,), 0)
    flat = flat.repeat(-(-tensor.numel() // flat.numel()))  # a real kernel reads past the end
    return flat.as_strided(tensor.shape, strides, 0)


BOUND = Scaled.apply
"""As many modules bind it, before any guard is there."""


class Layer(nn.Module):
    """A hidden layer, what `call` makes of its values and a parameter, and the sum of squares of that."""

    def __init__(self, call: Callable[[Tensor, Tensor], Any], steps: int = 1) -> None:
        super().__init__()
        self.dense = nn.Linear(3, 4)
        self.w = nn.Parameter(torch.randn(4))
        self.call = call
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """The values."""
        x = torch.tanh(self.dense(x))
        for _ in range(self.steps):
            x = self.call(x, self.w)
        return x


def loss_of(module: nn.Module) -> Callable[[], Tensor]:
    """A loss of a module on an input of three features, always the same."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    return lambda: (module(x) ** 2).sum()


def report_of(call: Callable[[Tensor, Tensor], Any]) -> Report:
    """The first check of a training whose module makes a call."""
    module = seeded(lambda: Layer(call))
    loss = loss_of(module)
    with guard_of(module) as guard:
        loss().backward()
        report = guard.after_backward(0, loss)
    assert report is not None
    return report


def sentence_of(call: Callable[[Tensor, Tensor], Any], *, steps: int = 1) -> str:
    """What the cause of a wrong tensor says of the Functions that a call makes, without a check of the model."""
    loss = loss_of(seeded(lambda: Layer(call, steps)))
    return function_sentence(FunctionChecks().check(lambda recorder: recorder.record(loss)))
