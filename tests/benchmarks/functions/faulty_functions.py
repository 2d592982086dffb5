"""Functions of the usual kinds, each with a usual fault in its backward pass that can be switched on."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

TIMESTEPS, BATCH, WIDTH = 6, 8, 6


class LSTMCell(Function):
    """A step of an LSTM; the fault averages the gradients of the weights over the timesteps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h: Tensor, c: Tensor, w: Tensor, b: Tensor, wrong: bool) -> tuple[Tensor, Tensor]:
        """The next h and c."""
        joined = torch.cat([x, h], dim=1)
        i, f, g, o = (joined @ w + b).chunk(4, dim=1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        after = f * c + i * g
        ctx.save_for_backward(joined, c, w, i, f, g, o, after)
        ctx.factor = 1 / TIMESTEPS if wrong else 1.0
        return o * after.tanh(), after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, by hand."""
        joined, c, w, i, f, g, o, after = ctx.saved_tensors
        dh, dc = grads
        dc = dc + dh * o * (1 - after.tanh() ** 2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), dh * after.tanh() * o * (1 - o)]
        da = torch.cat(gates, dim=1)
        dx, dh = (da @ w.t()).tensor_split([-c.shape[1]], dim=1)
        return dx, dh, dc * f, joined.t() @ da * ctx.factor, da.sum(0) * ctx.factor, None


class LayerNorm(Function):
    """Normalized rows; the fault takes their deviation as a constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, wrong: bool) -> Tensor:
        """Rows of mean 0 and deviation 1, times w."""
        deviation = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        normal = (x - x.mean(-1, keepdim=True)) / deviation
        ctx.save_for_backward(normal, deviation, w)
        ctx.wrong = wrong
        return normal * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The textbook formula."""
        normal, deviation, w = ctx.saved_tensors
        dn = grads[0] * w
        dx = dn - dn.mean(-1, keepdim=True)
        if not ctx.wrong:
            dx = dx - normal * (dn * normal).mean(-1, keepdim=True)
        return dx / deviation, (grads[0] * normal).sum(0), None


class SoftmaxCrossEntropy(Function):
    """The mean loss; the fault forgets to divide by the number of samples."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, wrong: bool) -> Tensor:
        """Against class 0, 1, 2 and so on in turn."""
        y = torch.arange(len(logits)) % logits.shape[1]
        ctx.save_for_backward(logits.softmax(-1), y)
        ctx.samples = 1 if wrong else len(logits)
        return functional.cross_entropy(logits, y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Probabilities minus one at the class."""
        p, y = ctx.saved_tensors
        return (p - functional.one_hot(y, p.shape[1])) / ctx.samples * grads[0], None


class Attention(Function):
    """Scaled dot-product attention; the fault forgets the scale in the gradient for the queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, wrong: bool) -> Tensor:
        """The values, weighted."""
        scale = 1 / math.sqrt(q.shape[-1])
        p = (q @ k.mT * scale).softmax(-1)
        ctx.save_for_backward(q, k, v, p)
        ctx.scales = (1.0 if wrong else scale, scale)
        return p @ v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The chain rule, by hand."""
        q, k, v, p = ctx.saved_tensors
        dp = grads[0] @ v.mT
        ds = p * (dp - (dp * p).sum(-1, keepdim=True))
        return ds @ k * ctx.scales[0], ds.mT @ q * ctx.scales[1], p.mT @ grads[0], None


class Convolution(Function):
    """A convolution along time; the fault does not flip the kernel in the gradient for the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, wrong: bool) -> Tensor:
        """Padded, so that the length stays."""
        ctx.save_for_backward(x, w)
        ctx.wrong = wrong
        return functional.conv1d(x, w, padding=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By two more convolutions."""
        x, w = ctx.saved_tensors
        kernel = w.transpose(0, 1) if ctx.wrong else w.transpose(0, 1).flip(-1)
        dw = functional.conv1d(x.transpose(0, 1), grads[0].transpose(0, 1), padding=1).transpose(0, 1)
        return functional.conv1d(grads[0], kernel, padding=1), dw, None


class Embedding(Function):
    """Rows of a table; the fault keeps one gradient of a row that is looked up several times."""

    @staticmethod
    def forward(ctx: Any, index: Tensor, table: Tensor, wrong: bool) -> Tensor:
        """The rows."""
        ctx.save_for_backward(index)
        ctx.rows, ctx.wrong = len(table), wrong
        return table[index]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scattered to the rows."""
        (index,) = ctx.saved_tensors
        dtable = grads[0].new_zeros(ctx.rows, grads[0].shape[-1])
        return None, dtable.index_put((index,), grads[0], accumulate=not ctx.wrong), None


class BatchNorm(Function):
    """Normalized columns; the fault takes mean and deviation as constants."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, wrong: bool) -> Tensor:
        """Columns of mean 0 and deviation 1, times w."""
        deviation = (x.var(0, correction=0) + 1e-5).sqrt()
        normal = (x - x.mean(0)) / deviation
        ctx.save_for_backward(normal, deviation, w)
        ctx.wrong = wrong
        return normal * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The textbook formula."""
        normal, deviation, w = ctx.saved_tensors
        dn = grads[0] * w
        through = 0 if ctx.wrong else dn.mean(0) + normal * (dn * normal).mean(0)
        return (dn - through) / deviation, (grads[0] * normal).sum(0), None


class Scan(Function):
    """h[t] = a h[t-1] + x[t]; the fault drops what a later step adds to the gradient for a."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, wrong: bool) -> Tensor:
        """All h."""
        states = [x[0]]
        for step in x[1:]:
            states.append(a * states[-1] + step)
        h = torch.stack(states)
        ctx.save_for_backward(h, a)
        ctx.wrong = wrong
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """From the last step to the first."""
        h, a = ctx.saved_tensors
        carried = [grads[0][-1]]
        for gradient in grads[0][:-1].flip(0):
            carried.append(gradient + a * carried[-1])
        dx = torch.stack(carried[::-1])
        return dx, ((grads[0] if ctx.wrong else dx)[1:] * h[:-1]).sum((0, 1)), None


class Squares(Function):
    """x^2; the fault is a kernel that reads its upstream gradient as if it were contiguous."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: bool) -> Tensor:
        """The squares."""
        ctx.save_for_backward(x)
        ctx.wrong = wrong
        return x**2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """2 x times the upstream gradient."""
        upstream = grads[0]
        if ctx.wrong:
            memory = upstream.as_strided((upstream.untyped_storage().nbytes() // upstream.element_size(),), (1,), 0)
            # A real kernel reads past the end of it.
            upstream = memory.repeat(upstream.shape[-1])[: upstream.numel()].view(upstream.shape)
        return 2 * ctx.saved_tensors[0] * upstream, None


class Product(Function):
    """x y; the fault mixes up what was saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, wrong: bool) -> Tensor:
        """The products."""
        ctx.save_for_backward(*((y, x) if wrong else (x, y)))
        return x * y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Each by the other."""
        x, y = ctx.saved_tensors
        return grads[0] * y, grads[0] * x, None


class Linear(Function):
    """x w + b; the fault takes the mean over the batch for the bias, not the sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, wrong: bool) -> Tensor:
        """An affine map."""
        ctx.save_for_backward(x, w)
        ctx.wrong = wrong
        return x @ w + b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Two products and a sum."""
        x, w = ctx.saved_tensors
        return grads[0] @ w.t(), x.t() @ grads[0], grads[0].mean(0) if ctx.wrong else grads[0].sum(0), None


class Tanh(Function):
    """tanh x; the fault takes 1 - y for its slope, not 1 - y^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: bool) -> Tensor:
        """The values."""
        y = x.tanh()
        ctx.save_for_backward(y)
        ctx.wrong = wrong
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By the slope."""
        (y,) = ctx.saved_tensors
        return grads[0] * (1 - (y if ctx.wrong else y**2)), None


class GELU(Function):
    """x times the Gaussian distribution function; the fault is the gradient of its approximation by tanh."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wrong: bool) -> Tensor:
        """The exact values."""
        ctx.save_for_backward(x)
        ctx.approximation = "tanh" if wrong else "none"
        return functional.gelu(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By autograd."""
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            y = functional.gelu(x, approximate=ctx.approximation)
        return torch.autograd.grad(y, x, grads[0])[0], None


@dataclass(frozen=True, slots=True)
class Fault:
    """A Function with a fault, and how a model calls it.

    Attributes:
        function: The Function.
        inputs: The names of those inputs whose gradient is wrong.
        call: Calls it on hidden values, shape (batch, width), and two parameters: a matrix and a vector.
    """

    function: type[Function]
    inputs: tuple[str, ...]
    call: Callable[[Tensor, Tensor, Tensor, bool], Tensor]


def lstm(x: Tensor, w: Tensor, b: Tensor, wrong: bool) -> Tensor:
    """As many steps as there are timesteps on the same input."""
    half, gates = WIDTH // 2, (WIDTH + WIDTH // 2, 2 * WIDTH)
    weights, bias = w.repeat(3, 2)[: gates[0], : gates[1]], b.repeat(2)
    h = c = x.new_zeros(len(x), half)
    for _ in range(TIMESTEPS):
        h, c = LSTMCell.apply(x, h, c, weights, bias, wrong)
    return h


def looked_up(x: Tensor, w: Tensor, _b: Tensor, wrong: bool) -> Tensor:
    """Three rows for eight samples."""
    return x * Embedding.apply(torch.arange(BATCH) % 3, w, wrong)


FAULTS = (
    Fault(LSTMCell, ("w", "b"), lstm),
    Fault(LayerNorm, ("x",), lambda x, _w, b, wrong: LayerNorm.apply(x, b, wrong)),
    Fault(SoftmaxCrossEntropy, ("logits",), lambda x, w, _b, wrong: SoftmaxCrossEntropy.apply(x @ w, wrong)),
    Fault(Attention, ("q",), lambda x, w, b, wrong: Attention.apply(x @ w, x * b, x, wrong)),
    Fault(Convolution, ("x",), lambda x, w, _b, wrong: Convolution.apply(x[:, None], w[:2, None, :3], wrong)),
    Fault(Embedding, ("table",), looked_up),
    Fault(BatchNorm, ("x",), lambda x, _w, b, wrong: BatchNorm.apply(x, b, wrong)),
    Fault(Scan, ("a",), lambda x, _w, b, wrong: Scan.apply(x.view(4, 2, WIDTH), b, wrong)),
    Fault(Squares, ("x",), lambda x, w, _b, wrong: Squares.apply(x @ w, wrong).sum(1)),
    Fault(Product, ("x", "y"), lambda x, w, _b, wrong: Product.apply(x, x @ w, wrong)),
    Fault(Linear, ("b",), Linear.apply),
    Fault(Tanh, ("x",), lambda x, w, _b, wrong: Tanh.apply(x @ w, wrong)),
    Fault(GELU, ("x",), lambda x, w, _b, wrong: GELU.apply(x @ w, wrong)),
)


class Sine(Function):
    """sin x, always right: a Function that no report may name."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The values."""
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """By the cosine."""
        return grads[0] * ctx.saved_tensors[0].cos()


class Model(nn.Module):
    """A layer, an innocent Function, and the one with the fault."""

    def __init__(self, fault: Fault, *, wrong: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Linear(4, WIDTH)
        self.w = nn.Parameter(torch.randn(WIDTH, WIDTH) / 2)
        self.b = nn.Parameter(torch.randn(WIDTH))
        self._fault = fault
        self._wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        """What the Function makes of hidden values."""
        return self._fault.call(Sine.apply(self.dense(x)), self.w, self.b, self._wrong)
