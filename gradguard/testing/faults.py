# ruff: noqa: ARG001 - a fault takes the arguments of the method it replaces
"""The mistakes that hand-written recurrent networks have, each in one function that replaces one piece of `LSTM`.

>>> model = faulty("timesteps")(seed=0)
>>> loss, grads = model.loss_and_grads(random_batch())

Every fault shows in the first gradient already, and leaves every tensor that it does not name correct to the last bit.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from gradguard.report.verdict import Verdict
from gradguard.testing.lstm import GATES, LSTM, Array, Batch, Trace, gate, random_batch, softmax

Grads = dict[str, Array]
Piece = TypeVar("Piece", bound=Callable[..., Any])

RECURRENT = frozenset({"Wx", "Wh", "b"})
"""The tensors of the LSTM itself."""
ALL = RECURRENT | {"V", "c"}
"""Those, and the tensors of the softmax layer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake in a backward pass, and what a check should make of it.

    Attributes:
        name: What it is called.
        description: What the code does wrong, in a line.
        tensors: The tensors whose gradient it makes wrong.
        expected: The verdicts that are right for those tensors.
        replaces: The method of `LSTM` that it replaces.
        piece: The method it puts there.
        constant: The constant of the training that the ratio n / g shows, or its inverse; None where there is none.
    """

    name: str
    description: str
    tensors: frozenset[str]
    expected: frozenset[Verdict]
    replaces: str
    piece: Callable[..., Any]
    constant: str | None = None


_FAULTS: dict[str, Fault] = {}

FAULTS: Mapping[str, Fault] = MappingProxyType(_FAULTS)
"""All faults by name."""


def faulty(name: str, model: type[LSTM] = LSTM) -> type[LSTM]:
    """The model's class with one piece of its backward pass replaced.

    Args:
        name: One of `FAULTS`.
        model: `LSTM`, or a subclass of it.

    Raises:
        ValueError: There is no such fault.
    """
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    fault = FAULTS[name]
    return type(f"{model.__name__}[{name}]", (model,), {fault.replaces: fault.piece, "__doc__": fault.description})


def _fault(
    replaces: str, tensors: Iterable[str], expected: str, constant: str | None = None
) -> Callable[[Piece], Piece]:
    """Registers the function below it under its own name, with its docstring for a description."""
    verdicts = frozenset(map(Verdict, expected.split()))

    def register(piece: Piece) -> Piece:
        name, description = piece.__name__.replace("_", "-"), str(piece.__doc__).rstrip(".")
        _FAULTS[name] = Fault(name, description, frozenset(tensors), verdicts, replaces, piece, constant)
        return piece

    return register


# Normalisation: the loss is a mean over timesteps and batch, and the gradient is of something else.


@_fault("finish", RECURRENT, "scale", "timesteps")
def timesteps(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The LSTM's gradients are averaged over the timesteps once more."""
    return grads | {name: grads[name] / len(s.logits) for name in RECURRENT}


@_fault("finish", ALL, "scale", "batch")
def batch_twice(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are averaged over the batch once more."""
    return {name: grad / s.batch.y.shape[1] for name, grad in grads.items()}


@_fault("finish", ALL, "scale", "batch")
def sum_over_batch(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are summed over the batch, the loss is a mean."""
    return {name: grad * s.batch.y.shape[1] for name, grad in grads.items()}


@_fault("finish", ALL, "scale", "timesteps")
def sum_over_timesteps(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are summed over the timesteps, the loss is a mean."""
    return {name: grad * len(s.logits) for name, grad in grads.items()}


@_fault("finish", ALL, "scale")
def factor_two(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are of twice the loss."""
    return {name: grad * 2 for name, grad in grads.items()}


@_fault("finish", ALL, "sign")
def negated(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients point uphill: all are negated."""
    return {name: -grad for name, grad in grads.items()}


@_fault("finish", {"V"}, "sign")
def negated_dense(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of the softmax layer's weights is negated."""
    return grads | {"V": -grads["V"]}


@_fault("finish", {"Wh"}, "scale")
def wh_5_percent(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 5 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.05}


@_fault("finish", {"Wh"}, "scale")
def wh_1_percent(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 1 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.01}


@_fault("finish", {"Wh"}, "scale")
def wh_1_permille(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradient of Wh is 0.1 % too large."""
    return grads | {"Wh": grads["Wh"] * 1.001}


# The loop over time.


@_fault("accumulate", ALL, "structure missing")
def assigned(model: LSTM, grads: Grads, share: Grads) -> None:
    """Each step assigns its gradient (=) instead of adding it (+=)."""
    grads.update(share)


@_fault("steps", ALL, "structure")
def last_step_only(model: LSTM, s: Trace) -> Iterable[int]:
    """Only the last step is propagated back."""
    return [len(s.logits) - 1]


@_fault("steps", ALL - {"Wh"}, "structure")
def first_step_dropped(model: LSTM, s: Trace) -> Iterable[int]:
    """The loop over time misses the first step."""
    return reversed(range(1, len(s.logits)))


@_fault("steps", ALL, "structure")
def last_step_dropped(model: LSTM, s: Trace) -> Iterable[int]:
    """The loop over time misses the last step."""
    return reversed(range(len(s.logits) - 1))


@_fault("carry_dh", RECURRENT, "structure")
def no_recurrent_dh(model: LSTM, da: Array) -> Array:
    """The hidden state carries no gradient back."""
    return np.zeros_like(gate(da, "i"))


@_fault("carry_dc", RECURRENT, "structure")
def no_dc_carry(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The cell state carries no gradient back."""
    return np.zeros_like(dc)


@_fault("carry_dc", RECURRENT, "structure")
def forget_gate_off_by_one(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The cell's gradient goes back through the forget gate of the step before."""
    return dc * s.f[t - 1]


@_fault("carry", RECURRENT, "structure")
def truncated(model: LSTM, s: Trace, t: int, da: Array, dc: Array) -> tuple[Array, Array]:
    """The gradient is cut every 8 steps, the loss is not."""
    kept = t % 8 != 0
    return kept * model.carry_dh(da), kept * model.carry_dc(s, t, dc)


@_fault("carry_dh", RECURRENT, "structure")
def wh_not_transposed(model: LSTM, da: Array) -> Array:
    """Wh is not transposed on the way back."""
    dh: Array = np.sum([gate(da, name) @ gate(model.params["Wh"], name) for name in GATES], axis=0)
    return dh


@_fault("recurrent_grads", {"Wh"}, "structure")
def wh_current_state(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The gradient of Wh takes the state that leaves the step."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wh": s.h[t + 1].T @ da}


@_fault("recurrent_grads", {"Wh"}, "structure")
def wrapped_state(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The first step's h[t - 1] wraps round to the last state (Python's [-1])."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wh": s.h[1:][t - 1].T @ da}


@_fault("forget_gate", {"Wx", "b"}, "structure")
def wrapped_cell(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The first step's c[t - 1] wraps round to the last cell (Python's [-1])."""
    return dc * s.c[1:][t - 1] * model.sigmoid_slope(s.f[t], gate(s.a[t], "f"))


@_fault("recurrent_grads", {"Wx"}, "structure")
def x_off_by_one(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The gradient of Wx takes the input of the step before."""
    return LSTM.recurrent_grads(model, s, t, da) | {"Wx": s.batch.x[t - 1].T @ da}


# The loss and the softmax.


@_fault("targets", ALL, "structure")
def targets_off_by_one(model: LSTM, s: Trace) -> Array:
    """Each step is compared with the target of the step after."""
    targets = LSTM.targets(model, s)
    return np.concatenate([targets[1:], targets[-1:]])


@_fault("targets", ALL, "structure")
def last_target_missing(model: LSTM, s: Trace) -> Array:
    """The last step's target is not subtracted from the softmax."""
    targets = LSTM.targets(model, s)
    targets[-1] = 0
    return targets


@_fault("dlogits", ALL, "structure")
def softmax_slope_twice(model: LSTM, s: Trace) -> Array:
    """The gradient of softmax with cross-entropy is multiplied by p (1 - p) once more."""
    p = softmax(s.logits)
    return LSTM.dlogits(model, s) * p * (1 - p)


# The cell and its gates.


@_fault("cell_slope", RECURRENT, "structure")
def no_cell_slope(model: LSTM, s: Trace, t: int) -> Array:
    """The derivative of the cell's tanh is missing."""
    return np.ones_like(s.tanh_c[t])


@_fault("cell_slope", RECURRENT, "structure")
def cell_slope_of_cell(model: LSTM, s: Trace, t: int) -> Array:
    """The derivative of the cell's tanh is 1 - c^2, not 1 - tanh(c)^2."""
    return 1 - s.c[t + 1] ** 2


@_fault("through_cell", RECURRENT, "structure")
def no_output_gate(model: LSTM, s: Trace, t: int, dh: Array) -> Array:
    """The output gate is missing between the hidden state and the cell."""
    return dh * model.cell_slope(s, t)


@_fault("sigmoid_slope", RECURRENT, "structure")
def sigmoid_slope_of_preactivation(model: LSTM, value: Array, preactivation: Array) -> Array:
    """The gates' s (1 - s) takes the value before the sigmoid."""
    return preactivation * (1 - preactivation)


@_fault("input_gate", RECURRENT, "structure")
def no_input_gate_slope(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The derivative of the input gate's sigmoid is missing."""
    return dc * s.g[t]


@_fault("candidate", RECURRENT, "structure")
def no_candidate_slope(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The derivative of the candidate's tanh is missing."""
    return dc * s.i[t]


@_fault("forget_gate", RECURRENT, "structure")
def forget_gate_sign(model: LSTM, s: Trace, t: int, dc: Array) -> Array:
    """The forget gate's gradient has the wrong sign."""
    return -LSTM.forget_gate(model, s, t, dc)


@_fault("through_gates", RECURRENT, "structure")
def gates_swapped(model: LSTM, s: Trace, t: int, dh: Array, dc: Array) -> Array:
    """The input gate's gradient stands in the forget gate's place, and the reverse."""
    da = LSTM.through_gates(model, s, t, dh, dc)
    return np.concatenate([gate(da, name) for name in "fiog"], axis=-1)


@_fault("finish", RECURRENT, "structure")
def half_gate(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The forget gate's gradient is halved."""
    for name in RECURRENT:
        gate(grads[name], "f")[:] *= 0.5
    return grads


@_fault("finish", RECURRENT, "structure missing")
def missing_gate(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The output gate's gradient is never written."""
    for name in RECURRENT:
        gate(grads[name], "o")[:] = 0
    return grads


# Single tensors and entries.


@_fault("finish", {"b"}, "missing")
def missing_bias(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The bias has no gradient."""
    return grads | {"b": np.zeros_like(grads["b"])}


@_fault("finish", {"Wh"}, "missing")
def missing_wh(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Wh has no gradient."""
    return grads | {"Wh": np.zeros_like(grads["Wh"])}


@_fault("finish", {"Wh"}, "structure")
def entry_doubled(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The largest entry of Wh's gradient is doubled."""
    grads["Wh"].flat[np.abs(grads["Wh"]).argmax()] *= 2
    return grads


@_fault("finish", {"Wh"}, "structure")
def rows_swapped(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The first two rows of Wh's gradient are swapped."""
    grads["Wh"][:2] = grads["Wh"][1::-1].copy()
    return grads


@_fault("recurrent_grads", {"Wx"}, "structure spurious")
def padding_row(model: LSTM, s: Trace, t: int, da: Array) -> Grads:
    """The last input symbol's row gets the gradient of every step."""
    x = s.batch.x[t].copy()
    x[:, -1] = 1
    return LSTM.recurrent_grads(model, s, t, da) | {"Wx": x.T @ da}


# Between backward and the optimizer.


@_fault("finish", ALL, "clipped scale")
def clipped_by_norm(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are clipped to a norm of 0.05 before the check sees them."""
    norm = np.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
    return {name: grad * float(min(1, 0.05 / norm)) for name, grad in grads.items()}


@_fault("finish", ALL, "clipped structure")
def clipped_by_value(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Each gradient is clipped to +-0.005 before the check sees it."""
    return {name: np.clip(grad, -0.005, 0.005) for name, grad in grads.items()}


@_fault("finish", {"Wx", "Wh", "V"}, "structure")
def weight_decay(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """Weight decay of 0.01 is in the gradient of the weights and not in the loss."""
    return grads | {name: grads[name] + 0.01 * model.params[name] for name in ("Wx", "Wh", "V")}


@_fault("finish", ALL, "structure")
def stale(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients are those of the previous batch."""
    previous = _kept(model, s.batch)
    vars(model)["kept"] = grads
    return previous


@_fault("finish", ALL, "structure")
def accumulated(model: LSTM, s: Trace, grads: Grads) -> Grads:
    """The gradients of the batches before were not zeroed and are still in the sum."""
    kept = _kept(model, s.batch)
    vars(model)["kept"] = {name: kept[name] + grad for name, grad in grads.items()}
    return dict(vars(model)["kept"])


def _kept(model: LSTM, batch: Batch) -> Grads:
    """The gradients the model kept; at its first batch those of a random one, so that the fault shows at once."""
    kept: Grads | None = vars(model).get("kept")
    return _before(model, batch) if kept is None else kept


def _before(model: LSTM, batch: Batch) -> Grads:
    correct = LSTM()
    correct.params = model.params
    inputs, outputs = len(model.params["Wx"]), len(model.params["c"])
    timesteps, size = batch.y.shape
    before = random_batch(timesteps, size, inputs=inputs, outputs=outputs, seed=1, dtype=batch.x.dtype)
    return correct.loss_and_grads(before)[1]
