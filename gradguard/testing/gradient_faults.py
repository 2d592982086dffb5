# ruff: noqa: ARG001 - a fault takes the arguments of the method it replaces
"""Faults in a finished gradient: a tensor or entry is wrong, or something happens before the optimizer."""

import numpy as np

from gradguard.testing.fault import ALL, Grads, replaces
from gradguard.testing.lstm import LSTM, Array, Batch, Trace, random_batch

# Single tensors and entries.


@replaces("finish", {"b"}, "missing")
def missing_bias(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The bias has no gradient."""
    return grads | {"b": np.zeros_like(grads["b"])}


@replaces("finish", {"Wh"}, "missing")
def missing_wh(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Wh has no gradient."""
    return grads | {"Wh": np.zeros_like(grads["Wh"])}


@replaces("finish", {"Wh"}, "structure")
def entry_doubled(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The largest entry of Wh's gradient is doubled."""
    grads["Wh"].flat[np.abs(grads["Wh"]).argmax()] *= 2
    return grads


@replaces("finish", {"Wh"}, "structure")
def rows_swapped(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The first two rows of Wh's gradient are swapped."""
    grads["Wh"][:2] = grads["Wh"][1::-1].copy()
    return grads


@replaces("recurrent_grads", {"Wx"}, "structure spurious")
def padding_row(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The last input symbol's row gets the gradient of every step."""
    x = s.batch.x[t].copy()
    x[:, -1] = 1
    return LSTM.recurrent_grads(model, s, t, da) | {"Wx": x.T @ da}


# Between the backward pass and the optimizer.


@replaces("finish", ALL, "clipped scale")
def clipped_by_norm(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are clipped to a norm of 0.05 before the check sees them."""
    norm = np.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
    return {name: grad * float(min(1, 0.05 / norm)) for name, grad in grads.items()}


@replaces("finish", ALL, "clipped structure")
def clipped_by_value(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Each gradient is clipped to +-0.005 before the check sees it."""
    return {name: np.clip(grad, -0.005, 0.005) for name, grad in grads.items()}


@replaces("finish", {"Wx", "Wh", "V"}, "structure")
def weight_decay(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Weight decay of 0.01 is in the gradient of the weights and not in the loss."""
    return grads | {name: grads[name] + 0.01 * model.params[name] for name in ("Wx", "Wh", "V")}


@replaces("finish", ALL, "structure")
def stale(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are those of the previous batch."""
    previous = _previous_grads(model, s.batch)
    vars(model)["previous_grads"] = grads
    return previous


@replaces("finish", ALL, "structure")
def accumulated(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients of the batches before were not zeroed and are still in the sum."""
    previous = _previous_grads(model, s.batch)
    vars(model)["previous_grads"] = {name: previous[name] + grad for name, grad in grads.items()}
    return dict(vars(model)["previous_grads"])


def _previous_grads(model: LSTM, batch: Batch) -> Grads:
    """The gradients of the batch before; before the first batch, those of a random one, so that the fault shows."""
    previous: Grads | None = vars(model).get("previous_grads")
    return _grads_of_random_batch(model, batch) if previous is None else previous


def _grads_of_random_batch(model: LSTM, like: Batch) -> Grads:
    correct = LSTM()
    correct.params = model.params
    inputs, outputs = len(model.params["Wx"]), len(model.params["c"])
    timesteps, size = like.y.shape
    batch = random_batch(timesteps, size, inputs=inputs, outputs=outputs, seed=1, dtype=like.x.dtype)
    return correct.loss_and_grads(batch)[1]
