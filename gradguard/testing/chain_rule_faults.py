# ruff: noqa: ARG001 - a fault takes the arguments of the method it replaces
"""Faults in the chain rule: one piece of the backward pass through time, the loss or the cell is wrong."""

from collections.abc import Iterable

import numpy as np

from gradguard.testing.fault import ALL, RECURRENT, Grads, replaces
from gradguard.testing.lstm import GATES, LSTM, Array, Trace, gate, softmax

# The loop over time.


@replaces("accumulate", ALL, "structure missing")
def assigned(model: LSTM, grads: Grads, part: Grads) -> None:
    """Each step assigns its gradient (=) instead of adding it (+=)."""
    grads.update(part)


@replaces("steps", ALL, "structure")
def last_step_only(model: LSTM, s: Trace) -> Iterable[int]:
    """Only the last step is propagated back."""
    return [len(s.logits) - 1]


@replaces("steps", ALL - {"Wh"}, "structure")
def first_step_dropped(model: LSTM, s: Trace) -> Iterable[int]:
    """The loop over time misses the first step."""
    return reversed(range(1, len(s.logits)))


@replaces("steps", ALL, "structure")
def last_step_dropped(model: LSTM, s: Trace) -> Iterable[int]:
    """The loop over time misses the last step."""
    return reversed(range(len(s.logits) - 1))


@replaces("carry_dh", RECURRENT, "structure")
def no_recurrent_dh(model: LSTM, da: Array) -> Array:
    """The hidden state carries no gradient back."""
    return np.zeros_like(gate(da, "i"))


@replaces("carry_dc", RECURRENT, "structure")
def no_dc_carry(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The cell state carries no gradient back."""
    return np.zeros_like(dc)


@replaces("carry_dc", RECURRENT, "structure")
def forget_gate_off_by_one(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The cell's gradient goes back through the forget gate of the step before."""
    return dc * s.f[t - 1]


@replaces("carry", RECURRENT, "structure")
def truncated(model: LSTM, s: Trace, t: int, da: Array, dc: Array) -> tuple[Array, Array]:
    """The gradient is cut every 8 steps, the loss is not."""
    carried = t % 8 != 0
    return carried * model.carry_dh(da), carried * model.carry_dc(s, t, dc)


@replaces("carry_dh", RECURRENT, "structure")
def wh_not_transposed(model: LSTM, da: Array) -> Array:
    """Wh is not transposed on the way back."""
    dh: Array = np.sum([gate(da, name) @ gate(model.params["Wh"], name) for name in GATES], axis=0)
    return dh


@replaces("recurrent_grads", {"Wh"}, "structure")
def wh_current_state(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The gradient of Wh takes the state that leaves the step."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wh": s.h[t + 1].T @ da}


@replaces("recurrent_grads", {"Wh"}, "structure")
def wrapped_state(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The first step's h[t - 1] wraps round to the last state (Python's [-1])."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wh": s.h[1:][t - 1].T @ da}


@replaces("forget_gate", {"Wx", "b"}, "structure")
def wrapped_cell(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The first step's c[t - 1] wraps round to the last cell (Python's [-1])."""
    return dc * s.c[1:][t - 1] * model.sigmoid_slope(s.f[t], gate(s.a[t], "f"))


@replaces("recurrent_grads", {"Wx"}, "structure")
def x_off_by_one(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The gradient of Wx takes the input of the step before."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wx": s.batch.x[t - 1].T @ da}


# The loss and the softmax.


@replaces("targets", ALL, "structure")
def targets_off_by_one(model: LSTM, s: Trace) -> Array:
    """Each step is compared with the target of the step after."""
    targets = LSTM.targets(model, s)
    return np.concatenate([targets[1:], targets[-1:]])


@replaces("targets", ALL, "structure")
def last_target_missing(model: LSTM, s: Trace) -> Array:
    """The last step's target is not subtracted from the softmax."""
    targets = LSTM.targets(model, s)
    targets[-1] = 0
    return targets


@replaces("dlogits", ALL, "structure")
def softmax_slope_twice(model: LSTM, s: Trace) -> Array:
    """The gradient of softmax with cross-entropy is multiplied by p (1 - p) once more."""
    p = softmax(s.logits)
    return LSTM.dlogits(model, s) * p * (1 - p)


# The cell and its gates.


@replaces("cell_slope", RECURRENT, "structure")
def no_cell_slope(model: LSTM, s: Trace, t: int) -> Array:
    """The derivative of the cell's tanh is missing."""
    return np.ones_like(s.tanh_c[t])


@replaces("cell_slope", RECURRENT, "structure")
def cell_slope_of_cell(model: LSTM, s: Trace, t: int) -> Array:
    """The derivative of the cell's tanh is 1 - c^2, not 1 - tanh(c)^2."""
    return 1 - s.c[t + 1] ** 2


@replaces("through_cell", RECURRENT, "structure")
def no_output_gate(model: LSTM, s: Trace, t: int, dh: Array) -> Array:
    """The output gate is missing between the hidden state and the cell."""
    return dh * model.cell_slope(s, t)


@replaces("sigmoid_slope", RECURRENT, "structure")
def sigmoid_slope_of_preactivation(model: LSTM, value: Array, preactivation: Array) -> Array:
    """The gates' s (1 - s) takes the value before the sigmoid."""
    return preactivation * (1 - preactivation)


@replaces("input_gate", RECURRENT, "structure")
def no_input_gate_slope(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The derivative of the input gate's sigmoid is missing."""
    return dc * s.g[t]


@replaces("candidate", RECURRENT, "structure")
def no_candidate_slope(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The derivative of the candidate's tanh is missing."""
    return dc * s.i[t]


@replaces("forget_gate", RECURRENT, "structure")
def forget_gate_sign(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The forget gate's gradient has the wrong sign."""
    return -LSTM.forget_gate(model, s, t, dc)


@replaces("through_gates", RECURRENT, "structure")
def gates_swapped(model: LSTM, s: Trace, t: int, dh: Array, dc: Array) -> Array:
    """The input gate's gradient stands in the forget gate's place, and the reverse."""
    da = LSTM.through_gates(model, s, t, dh, dc)
    return np.concatenate([gate(da, name) for name in "fiog"], axis=-1)


@replaces("finish", RECURRENT, "structure")
def half_gate(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The forget gate's gradient is halved."""
    for name in RECURRENT:
        gate(grads[name], "f")[:] *= 0.5
    return grads


@replaces("finish", RECURRENT, "structure missing")
def missing_gate(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The output gate's gradient is never written."""
    for name in RECURRENT:
        gate(grads[name], "o")[:] = 0
    return grads
