# ruff: noqa: ARG001 - a fault takes the arguments of the method it replaces
"""Faults of scale: the loss is a mean over timesteps and batch, and the gradient is that of a multiple of it."""

from gradguard.testing.fault import ALL, RECURRENT, Grads, replaces
from gradguard.testing.lstm import LSTM, Trace


@replaces("finish", RECURRENT, "scale", "timesteps")
def timesteps(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The LSTM's gradients are averaged over the timesteps once more."""
    return grads | {name: grads[name] / len(s.logits) for name in RECURRENT}


@replaces("finish", ALL, "scale", "batch")
def batch_twice(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are averaged over the batch once more."""
    return {name: grad / s.batch.y.shape[1] for name, grad in grads.items()}


@replaces("finish", ALL, "scale", "batch")
def sum_over_batch(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are summed over the batch, the loss is a mean."""
    return {name: grad * s.batch.y.shape[1] for name, grad in grads.items()}


@replaces("finish", ALL, "scale", "timesteps")
def sum_over_timesteps(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are summed over the timesteps, the loss is a mean."""
    return {name: grad * len(s.logits) for name, grad in grads.items()}


@replaces("finish", ALL, "scale")
def factor_two(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are of twice the loss."""
    return {name: grad * 2 for name, grad in grads.items()}


@replaces("finish", ALL, "sign")
def negated(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients point uphill: all are negated."""
    return {name: -grad for name, grad in grads.items()}


@replaces("finish", {"V"}, "sign")
def negated_dense(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of the softmax layer's weights is negated."""
    return grads | {"V": -grads["V"]}


@replaces("finish", {"Wh"}, "scale")
def wh_5_percent(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 5 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.05}


@replaces("finish", {"Wh"}, "scale")
def wh_1_percent(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 1 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.01}


@replaces("finish", {"Wh"}, "scale")
def wh_1_permille(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 0.1 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.001}
