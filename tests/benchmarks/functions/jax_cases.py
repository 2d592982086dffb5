"""Functions of JAX with a backward pass by hand, each right or with a fault, within a small model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TIMESTEPS, BATCH, SIZE, CLASSES = 5, 6, 4, 3
LIMIT = 1e-3
"""At which gradients are clipped on purpose: below those of the model."""
WEIGHT = 2.0  # of the cross-entropy in the loss

Function = Callable[..., Any]
Arrays = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A function with a fault to switch on.

    Attributes:
        name: What is wrong.
        make: The function, from whether it is faulty.
        shapes: The shapes of its floating-point inputs by name.
        wrong: The inputs whose gradient the fault makes wrong.
        loss: The loss of the model, from the function, a right one, the parameters and the indices.
        needs: How many indices the function takes besides; 0 for none.
    """

    name: str
    make: Callable[[bool], Function]
    shapes: Mapping[str, tuple[int, ...]]
    wrong: frozenset[str]
    loss: Callable[[Function, Function, Arrays, Any], Any]
    needs: int = 0

    def inputs(self, seed: int) -> dict[str, Any]:
        """Random inputs of the function, which are parameters of the model."""
        rng = np.random.default_rng(seed)
        return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in self.shapes.items()}

    def parameters(self, seed: int) -> dict[str, Any]:
        """The parameters of the model: the inputs of the function, and the weights behind it."""
        rng = np.random.default_rng(seed + 1)
        return self.inputs(seed) | {"readout": jnp.asarray(rng.standard_normal((SIZE, CLASSES)), jnp.float32)}

    def indices(self, seed: int) -> Any:
        """The indices that the function takes besides; some come twice."""
        return jnp.asarray(np.random.default_rng(seed + 2).integers(CLASSES, size=self.needs))


def affine() -> Function:
    """A product with weights, whose backward pass is right: it stands behind each of the functions."""

    @jax.custom_vjp
    def readout(x: Any, w: Any) -> Any:
        return x @ w

    readout.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, d: (d @ kept[1].T, kept[0].T @ d))
    return readout


def lstm_cell(faulty: bool) -> Function:
    """A step of an LSTM; the fault averages the gradients of the weights over the timesteps."""

    def forward(x: Any, h: Any, c: Any, w: Any, b: Any) -> Any:
        joined = jnp.concatenate([x, h], 1)
        i, f, g, o = jnp.split(joined @ w + b, 4, axis=1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        after = f * c + i * g
        return (o * jnp.tanh(after), after), (joined, c, w, i, f, g, o, jnp.tanh(after))

    def backward(kept: Any, d: Any) -> Any:
        joined, c, w, i, f, g, o, t = kept
        dc = d[1] + d[0] * o * (1 - t**2)
        gates = [dc * g * i * (1 - i), dc * c * f * (1 - f), dc * i * (1 - g**2), d[0] * t * o * (1 - o)]
        da = jnp.concatenate(gates, 1)
        dx, dh = jnp.split(da @ w.T, 2, axis=1)
        over = TIMESTEPS if faulty else 1
        return dx, dh, dc * f, joined.T @ da / over, da.sum(0) / over

    @jax.custom_vjp
    def function(x: Any, h: Any, c: Any, w: Any, b: Any) -> Any:
        return forward(x, h, c, w, b)[0]

    function.defvjp(forward, backward)
    return function


def layer_norm(faulty: bool) -> Function:
    """A layer normalization; the fault takes the variance for a constant."""

    @jax.custom_vjp
    def function(x: Any, scale: Any, shift: Any) -> Any:
        return forward(x, scale, shift)[0]

    def forward(x: Any, scale: Any, shift: Any) -> Any:
        centered = x - x.mean(1, keepdims=True)
        deviation = jnp.sqrt((centered**2).mean(1, keepdims=True) + 1e-5)
        return scale * centered / deviation + shift, (centered / deviation, deviation, scale)

    def backward(kept: Any, d: Any) -> Any:
        normal, deviation, scale = kept
        inner = d * scale - (d * scale).mean(1, keepdims=True)
        if not faulty:
            inner = inner - normal * (d * scale * normal).mean(1, keepdims=True)
        return inner / deviation, (d * normal).sum(0), d.sum(0)

    function.defvjp(forward, backward)
    return function


def cross_entropy(faulty: bool) -> Function:
    """Softmax and cross-entropy; the fault ignores the gradient that reaches the loss."""

    @jax.custom_vjp
    def function(logits: Any, index: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), index[:, None], 1).mean()

    def backward(kept: Any, d: Any) -> Any:
        logits, index = kept
        slope = (jax.nn.softmax(logits) - jax.nn.one_hot(index, CLASSES, dtype=logits.dtype)) / len(index)
        return (slope if faulty else d * slope), None

    function.defvjp(lambda logits, index: (function(logits, index), (logits, index)), backward)
    return function


def attention(faulty: bool) -> Function:
    """An attention; the fault forgets the scaling of the scores in the gradient of the queries."""

    @jax.custom_vjp
    def function(q: Any, k: Any, v: Any) -> Any:
        return forward(q, k, v)[0]

    def forward(q: Any, k: Any, v: Any) -> Any:
        weights = jax.nn.softmax(q @ k.T / np.sqrt(SIZE).astype(q.dtype))
        return weights @ v, (q, k, v, weights)

    def backward(kept: Any, d: Any) -> Any:
        q, k, v, weights = kept
        inner = weights * (d @ v.T - (weights * (d @ v.T)).sum(1, keepdims=True))
        scaled = inner / np.sqrt(SIZE).astype(q.dtype)
        return (inner if faulty else scaled) @ k, scaled.T @ q, weights.T @ d

    function.defvjp(forward, backward)
    return function


def embedding(faulty: bool) -> Function:
    """Rows of a table; the fault keeps the gradient of the last of equal indices instead of their sum."""

    @jax.custom_vjp
    def function(table: Any, index: Any) -> Any:
        return table[index]

    def backward(kept: Any, d: Any) -> Any:
        table, index = kept
        rows = jnp.zeros_like(table).at[index]
        return (rows.set(d) if faulty else rows.add(d)), None

    function.defvjp(lambda table, index: (table[index], (table, index)), backward)
    return function


def clipped(faulty: bool) -> Function:
    """The identity, whose gradient is clipped on purpose where it is faulty."""

    @jax.custom_vjp
    def function(x: Any) -> Any:
        return x * 1

    limit = LIMIT if faulty else np.inf
    function.defvjp(lambda x: (x * 1, None), lambda _, d: (jnp.clip(d, -limit, limit),))
    return function


def scan_body(faulty: bool) -> Function:
    """The body of a scan, with two outputs; the fault leaves out the gradient of the state in one of them."""

    @jax.custom_vjp
    def function(h: Any, x: Any, u: Any) -> Any:
        after = jnp.tanh(h @ u + x)
        return after, after * h

    def forward(h: Any, x: Any, u: Any) -> Any:
        after, product = function(h, x, u)
        return (after, product), (h, u, after)

    def backward(kept: Any, d: Any) -> Any:
        h, u, after = kept
        da = (d[0] + d[1] * h) * (1 - after**2)
        return da @ u.T + (0 if faulty else d[1] * after), da, h.T @ da

    function.defvjp(forward, backward)
    return function


def rounded(faulty: bool) -> Function:
    """A rounding; the fault is a straight-through estimator."""

    @jax.custom_vjp
    def function(x: Any) -> Any:
        return jnp.round(x)

    function.defvjp(lambda x: (jnp.round(x), None), lambda _, d: (d if faulty else jnp.zeros_like(d),))
    return function


def gelu(faulty: bool) -> Function:
    """The exact GELU; the fault takes the slope of its approximation by a hyperbolic tangent."""

    @jax.custom_vjp
    def function(x: Any) -> Any:
        return jax.nn.gelu(x, approximate=False)

    def backward(x: Any, d: Any) -> Any:
        _, derivative = jax.vjp(lambda x: jax.nn.gelu(x, approximate=faulty), x)
        return derivative(d)

    function.defvjp(lambda x: (function(x), x), backward)
    return function


def squares(features: Any, readout: Function, params: Arrays) -> Any:
    """The loss behind some features."""
    return (jnp.tanh(readout(features, params["readout"])) ** 2).mean()


def of_lstm(function: Function, readout: Function, params: Arrays, _index: Any) -> Any:
    """The loss of a recurrent network on one symbol, many times."""

    def step(state: Any, _: None) -> Any:
        return function(params["x"], *state, params["w"], params["b"]), None

    (h, _), _ = jax.lax.scan(step, (params["h"], params["c"]), None, TIMESTEPS)
    return squares(h, readout, params)


def of_scan(function: Function, readout: Function, params: Arrays, _index: Any) -> Any:
    """The loss of a scan over the inputs, of its last state and its outputs."""
    h, outputs = jax.lax.scan(
        lambda h, x: function(h, x, params["u"]), params["h"], jnp.stack([params["x"]] * TIMESTEPS)
    )
    return squares(h + outputs.sum(0), readout, params)


def of_logits(function: Function, readout: Function, params: Arrays, index: Any) -> Any:
    """The weighted loss of logits, of which some come by the right function."""
    zeros = jnp.zeros((BATCH, SIZE), params["logits"].dtype)
    return WEIGHT * function(params["logits"] + readout(zeros + 1, params["readout"]), index)


def of_features(*names: str, residual: str = "") -> Callable[[Function, Function, Arrays, Any], Any]:
    """The loss of what a function makes of some parameters, and of indices if it takes any."""

    def loss(function: Function, readout: Function, params: Arrays, index: Any) -> Any:
        given = [params[name] for name in names]
        features = function(*given, index) if len(index) else function(*given)
        return squares(features + params[residual] if residual else features, readout, params)

    return loss


ROWS = (BATCH, SIZE)
CASES = (
    Case(
        "LSTM cell: averages over time",
        lstm_cell,
        {"x": ROWS, "h": ROWS, "c": ROWS, "w": (2 * SIZE, 4 * SIZE), "b": (4 * SIZE,)},
        frozenset({"w", "b"}),
        of_lstm,
    ),
    Case(
        "layer norm: variance held constant",
        layer_norm,
        {"x": ROWS, "scale": (SIZE,), "shift": (SIZE,)},
        frozenset({"x"}),
        of_features("x", "scale", "shift"),
    ),
    Case(
        "cross-entropy: ignores its upstream gradient",
        cross_entropy,
        {"logits": (BATCH, CLASSES)},
        frozenset({"logits"}),
        of_logits,
        needs=BATCH,
    ),
    Case(
        "attention: queries not scaled",
        attention,
        {"q": ROWS, "k": ROWS, "v": ROWS},
        frozenset({"q"}),
        of_features("q", "k", "v"),
    ),
    Case(
        "embedding: equal indices overwrite",
        embedding,
        {"table": (CLASSES, SIZE)},
        frozenset({"table"}),
        of_features("table"),
        needs=BATCH,
    ),
    Case("identity: gradient clipped on purpose", clipped, {"x": ROWS}, frozenset({"x"}), of_features("x")),
    Case(
        "scan body: one path of the state left out",
        scan_body,
        {"h": ROWS, "x": ROWS, "u": (SIZE, SIZE)},
        frozenset({"h"}),
        of_scan,
    ),
    Case(
        "rounding: straight-through estimator", rounded, {"x": ROWS}, frozenset({"x"}), of_features("x", residual="x")
    ),
    Case("GELU: slope of the approximation", gelu, {"x": ROWS}, frozenset({"x"}), of_features("x")),
)
