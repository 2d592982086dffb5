# ruff: noqa: N803 - weights have the names that the LSTM gives them
"""The LSTM of `gradguard.testing` as three functions with a backward function each: a step, a dense layer, the loss.

A fault of that LSTM replaces one of its methods, which the backward functions here call. So most faults move with it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from recorder import Recorder

from gradguard.report import Thresholds
from gradguard.testing import LSTM, Batch
from gradguard.testing.lstm import Array, Trace, cross_entropy, gate, sigmoid

FUNCTIONS = ("step", "dense", "loss")
OUTSIDE = {
    "assigned": "in the sum over timesteps",
    "last-step-only": "in the loop over timesteps",
    "first-step-dropped": "in the loop over timesteps",
    "last-step-dropped": "in the loop over timesteps",
    "timesteps": "in the average after the loop",
    "sum-over-timesteps": "in the sum after the loop",
    "stale": "between two training steps",
    "accumulated": "between two training steps",
}
"""The faults that lie in no function, and where they are."""
Gradients = Mapping[str, Array]


class SteppedLSTM:
    """An LSTM whose forward and backward pass call functions at each timestep.

    Args:
        model: The LSTM, whose methods may be faulty.
        batch: The batch.

    Attributes:
        differing: The function and the input of each gradient that differed from the right one, in order.
    """

    def __init__(self, model: LSTM, batch: Batch) -> None:
        self.model, self.right, self.batch = model, LSTM(), batch
        self.differing = Recorder()
        steps, size = batch.y.shape
        zeros = np.zeros((size, len(model.params["Wh"])), model.params["Wh"].dtype)

        def each(count: int) -> list[Array]:
            return [zeros] * count

        logits = np.zeros((steps, size, len(model.params["c"])), zeros.dtype)
        self.trace = Trace(
            Batch(list(batch.x), batch.y),  # type: ignore[arg-type]  # a list, of which one entry can be replaced
            *(each(steps) for _ in range(5)),
            each(steps + 1),
            each(steps),
            each(steps + 1),
            logits,
        )

    def step_forward(
        self,
        x: Array,
        h_prev: Array,
        c_prev: Array,
        Wx: Array,
        Wh: Array,
        b: Array,
        t: Any,
    ) -> tuple[Array, Array, Any]:
        """One step, which is kept in the trace."""
        s, t = self.trace, int(t)
        s.batch.x[t], s.h[t], s.c[t] = x, h_prev, c_prev
        s.a[t] = x @ Wx + h_prev @ Wh + b
        opened = sigmoid(s.a[t])
        s.i[t], s.f[t], s.o[t] = (gate(opened, name) for name in "ifo")
        s.g[t] = np.tanh(gate(s.a[t], "g"))
        s.c[t + 1] = s.f[t] * c_prev + s.i[t] * s.g[t]
        s.tanh_c[t] = np.tanh(s.c[t + 1])
        s.h[t + 1] = s.o[t] * s.tanh_c[t]
        return s.h[t + 1], s.c[t + 1], (t, {"Wx": Wx, "Wh": Wh, "b": b})

    def step_backward(self, dh: Array, dc: Array, cache: Any) -> tuple[Array, ...]:
        """Its gradients."""
        t, weights = cache

        def gradients(model: LSTM) -> Gradients:
            s = self.trace
            dc_total = model.through_cell(s, t, dh) + dc
            da = model.through_gates(s, t, dh, dc_total)
            own = self._finished(model, model.recurrent_grads(s, t, da))
            dh_prev, dc_prev = model.carry(s, t, da, dc_total)
            return {"x": da @ weights["Wx"].T, "h_prev": dh_prev, "c_prev": dc_prev} | own

        return self._of_both("step", gradients, weights)

    def dense_forward(self, h: Array, V: Array, c: Array, t: Any) -> tuple[Array, Any]:
        """The logits of one step."""
        self.trace.h[int(t) + 1] = h
        return h @ V + c, (int(t), {"V": V, "c": c})

    def dense_backward(self, dlogits: Array, cache: Any) -> tuple[Array, ...]:
        """Its gradients."""
        t, weights = cache

        def gradients(model: LSTM) -> Gradients:
            own = self._finished(model, model.dense_grads(self.trace, t, dlogits))
            return {"h": dlogits @ weights["V"].T} | own

        return self._of_both("dense", gradients, weights)

    def loss_forward(self, logits: Array) -> tuple[Any, Trace]:
        """The mean cross-entropy over timesteps and batch."""
        s = replace(self.trace, logits=logits)
        return cross_entropy(s).mean(), s

    def loss_backward(self, dloss: Any, s: Trace) -> tuple[Array, ...]:
        """Its gradient."""
        return self._of_both("loss", lambda model: {"logits": dloss * model.dlogits(s)}, {})

    def backpropagate(self) -> None:
        """One forward and backward pass, without an update."""
        params, steps = self.model.params, len(self.batch.x)
        h, c = self.trace.h[0], self.trace.c[0]
        caches, logits = [], []
        for t in range(steps):
            h, c, cache = self.step_forward(self.batch.x[t], h, c, params["Wx"], params["Wh"], params["b"], t)
            each, dense_cache = self.dense_forward(h, params["V"], params["c"], t)
            caches.append((cache, dense_cache))
            logits.append(each)
        _, trace = self.loss_forward(np.stack(logits))
        (dlogits,) = self.loss_backward(np.ones((), h.dtype)[()], trace)
        dh, dc = np.zeros_like(h), np.zeros_like(c)
        for t in reversed(range(steps)):
            of_logits, *_ = self.dense_backward(dlogits[t], caches[t][1])
            _, dh, dc, *_ = self.step_backward(of_logits + dh, dc, caches[t][0])

    def _finished(self, model: LSTM, grads: dict[str, Array]) -> Gradients:
        """The gradients of some weights as the end of the backward pass of the model leaves them."""
        others = {name: np.zeros_like(weights) for name, weights in model.params.items() if name not in grads}
        finished = model.finish(self.trace, others | grads)
        return {name: finished[name] for name in grads}

    def _of_both(self, function: str, gradients: Any, weights: Gradients) -> tuple[Array, ...]:
        """The gradients of the model; which of them differ from the right ones is recorded."""
        self.model.params = self.right.params = self.model.params | weights
        given, right = gradients(self.model), gradients(self.right)
        for name, gradient in given.items():
            distance = np.linalg.norm(gradient - right[name])
            if distance > Thresholds().relevant * (np.linalg.norm(gradient) + np.linalg.norm(right[name])):
                self.differing.append((function, name))
        return tuple(given.values())
