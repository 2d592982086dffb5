"""The kinds of fault: what each makes of the gradients or of the loss, and what a report that names it says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.causes.architectures import Architecture, Data, Params, gradient_of
from benchmarks.causes.tape import Slips

LOSS_SCALE, LEARNING_RATE, KEEP, DECAY, TOKENS = 65536.0, 0.05, 0.7, 0.02, 23.0
CONSTANTS = {"lr": LEARNING_RATE, "keep": KEEP, "loss_scale": LOSS_SCALE, "counted": TOKENS}


@dataclass(frozen=True, slots=True)
class Situation:
    """What a fault is made in: a network with its parameters, and the batch."""

    net: Architecture
    params: Params
    data: Data
    seed: int

    @property
    def right(self) -> Params:
        """The right gradient."""
        return gradient_of(self.net, self.params, self.data)

    def with_slips(self, slips: Slips) -> Params:
        """The gradient of a backward pass with slips."""
        return gradient_of(self.net, self.params, self.data, slips)

    def of_batch(self, seed: int) -> Params:
        """The right gradient of another batch."""
        return gradient_of(self.net, self.params, self.net.batch(seed))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        name: For the table.
        made: The gradients that are handed over.
        keys: Identifiers of causes that name it, by their beginnings.
        words: Any of these in a report names it, too.
        penalty: Half of it times the sum of the squared weights is in the loss.
        unit: What the loss is multiplied by.
    """

    name: str
    made: Callable[[Situation], Params]
    keys: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    penalty: float = 0.0
    unit: float = 1.0


def _times(grads: Params, factor: float, names: tuple[str, ...] = ()) -> Params:
    chosen = names or tuple(grads)
    return grads | {name: (factor * grads[name]).astype(grads[name].dtype) for name in chosen}


def _plus(grads: Params, others: Mapping[str, np.ndarray], factor: float) -> Params:
    return {name: (value + factor * others[name]).astype(value.dtype) for name, value in grads.items()}


def _weights(params: Params) -> Params:
    return {name: value if value.ndim > 1 else np.zeros_like(value) for name, value in params.items()}


def _transposed(at: Situation) -> Params:
    name = at.net.square
    return at.right | {name: at.right[name].T.copy()}


def _permuted(at: Situation) -> Params:
    name, parts = at.net.fused
    blocks = np.split(at.right[name], parts, axis=1)
    order = np.random.default_rng(at.seed).permutation(parts)
    if (order == np.arange(parts)).all():
        order = order[::-1]
    return at.right | {name: np.concatenate([blocks[k] for k in order], axis=1)}


def _swapped(at: Situation) -> Params:
    one, other = at.net.alike
    return at.right | {one: at.right[other], other: at.right[one]}


def _norm(grads: Params) -> float:
    return float(np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in grads.values())))


def _clipped_norm(at: Situation) -> Params:
    return _times(at.right, float(f"{0.3 * _norm(at.right):.1g}") / _norm(at.right))


def _clipped_while_scaled(at: Situation) -> Params:
    return _times(at.right, 1 / (LOSS_SCALE * _norm(at.right)))


def _clipped(at: Situation, count: int) -> Params:
    """The largest entries of a tensor are clipped at a round number between two of them; `count` at least."""
    grads = at.right
    for name, grad in grads.items():
        sizes = np.sort(np.abs(grad), axis=None)[::-1]
        for place in range(count, min(count + 3, sizes.size)):
            limit = float(f"{(sizes[place - 1] + sizes[place]) / 2:.2g}")
            if place > count > 1 or sizes[count] < limit < sizes[count - 1]:
                return grads | {name: np.clip(grad, -limit, limit).astype(grad.dtype)}
    raise ValueError(f"no tensor of {at.net.name} has a round number between its largest entries")


def _momentum(at: Situation) -> Params:
    buffer = _times(at.right, 0.0)
    for seed in (5, 6, 7):
        buffer = _plus(at.of_batch(seed), buffer, 0.9)
    return _plus(at.right, buffer, 0.9)


def _last_only(at: Situation) -> Params:
    return gradient_of(at.net, at.params, at.data, last=True)


OTHER = ("no gradient of this loss", "another batch", "another loss")
KINDS = (
    Kind("weight decay in the gradient", lambda at: _plus(at.right, _weights(at.params), DECAY), ("weight_decay",)),
    Kind("weight decay in the loss", lambda at: at.right, ("weight_decay",), penalty=DECAY),
    Kind(
        "weight decay with the wrong sign",
        lambda at: _plus(at.right, _weights(at.params), -DECAY),
        ("weight_decay",),
        penalty=DECAY,
    ),
    Kind(
        "L1 in the gradient",
        lambda at: _plus(at.right, {n: np.sign(v) for n, v in _weights(at.params).items()}, DECAY),
        ("l1_penalty",),
    ),
    Kind("transposed", _transposed, ("transposed",)),
    Kind("gates or heads permuted", _permuted, ("permuted",)),
    Kind("two tensors swapped", _swapped, ("of_another_tensor",)),
    Kind("bits against nats", lambda at: at.right, ("loss_in_log2",), unit=1 / np.log(2)),
    Kind(
        "mean over one fewer",
        lambda at: _times(at.right, at.net.constants["batch"] / (at.net.constants["batch"] - 1)),
        ("divided_by:batch-1/batch",),
    ),
    Kind(
        "dropout not scaled in the backward pass",
        lambda at: _times(at.right, KEEP, at.net.below),
        ("not_divided_by:keep",),
    ),
    Kind(
        "batch x something / counted",
        lambda at: _times(at.right, TOKENS / at.net.constants["batch"]),
        ("divided_by:batch/counted",),
    ),
    Kind("learning rate applied", lambda at: _times(at.right, LEARNING_RATE), ("multiplied_by:lr",)),
    Kind("left scaled by 65536", lambda at: _times(at.right, LOSS_SCALE), ("not_divided_by:loss_scale",)),
    Kind("one entry clipped", lambda at: _clipped(at, 1), ("clipped_by_value",)),
    Kind("a few entries clipped", lambda at: _clipped(at, 4), ("clipped_by_value",)),
    Kind("clipped by norm", _clipped_norm, ("clipped_by_norm",)),
    Kind("clipped while scaled", _clipped_while_scaled, ("clipped_by_norm",)),
    Kind("added to the last gradient", lambda at: _plus(at.right, at.of_batch(9), 1.0), words=OTHER),
    Kind("momentum buffer", _momentum, words=OTHER),
    Kind("only the last target's loss", _last_only, words=(*OTHER, "last step")),
    Kind("derivative of the loss", lambda at: at.with_slips(Slips(wrong_loss_slope=True)), words=("the loss itself",)),
    Kind("slope of the activation", lambda at: at.with_slips(Slips(wrong_slope=True)), words=("slope", "activation")),
    Kind(
        "outer product formed wrongly",
        lambda at: at.with_slips(Slips(wrong_rows=True)),
        words=("outer product", "biases agree"),
    ),
    Kind("= in place of +=", lambda at: at.with_slips(Slips(overwritten=at.net.repeated)), ("overwritten",), ("`+=`",)),
    Kind(
        "a path cut (truncation, statistics, keys)",
        lambda at: at.with_slips(Slips(cut=True)),
        words=("carry through time", "truncat", "enters", "detaches"),
    ),
)
