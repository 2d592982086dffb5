"""Trainings of Keras on one backend, which is chosen once a process; what they leave is printed as JSON."""

import hashlib
import json
import random
import sys
from typing import Any

import keras
import numpy as np
from keras import layers

from gradguard.integrations.keras import GradGuardCallback

FACTOR, BATCH, BATCHES = 5, 8, 12
OPTIONS: dict[str, Any] = {"max_overhead": None, "constants": {"timesteps": FACTOR}}


def product_of(divisor: int) -> Any:
    """X @ w, with a backward pass by hand whose gradient of w is divided."""
    if keras.backend.backend() == "jax":
        import jax

        product = jax.custom_vjp(lambda x, w: x @ w)
        product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, d: (d @ kept[1].T, kept[0].T @ d / divisor))
        return product
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any, w: Any) -> Any:
            ctx.save_for_backward(x, w)
            return x @ w

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            x, w = ctx.saved_tensors
            return grads[0] @ w.t(), x.t() @ grads[0] / divisor

    return Product.apply


class Hand(layers.Layer):
    """A product by hand, which counts its calls and keeps their means."""

    def __init__(self, divisor: int, **options: Any) -> None:
        super().__init__(**options)
        self.product, self.calls, self.means = product_of(divisor), 0, []

    def build(self, shape: Any) -> None:
        """The weights."""
        self.w = self.add_weight(shape=(shape[-1], 6), name="w")

    def call(self, x: Any) -> Any:
        """The product."""
        if keras.backend.backend() == "torch" and str(x.device) != "meta":  # not where Keras infers shapes
            self.calls += 1
            self.means.append(keras.ops.mean(x))
        return keras.ops.tanh(self.product(x, self.w.value))


def model_of(*, faulty: bool, busy: bool) -> Any:
    """A busy one draws, normalizes by batch statistics, penalizes, clips, and updates once in three batches."""
    hand = Hand(FACTOR if faulty else 1, name="hand")
    before, after = [layers.GaussianNoise(0.1)] * busy, [layers.BatchNormalization(), layers.Dropout(0.3)] * busy
    out = layers.Dense(3, kernel_regularizer="l2" if busy else None, name="out")
    model = keras.Sequential([keras.Input((4,)), *before, hand, *after, out])
    accumulated = {"clipnorm": 0.1, "gradient_accumulation_steps": 3} if busy else {}
    optimizer = keras.optimizers.Adam(1e-2, **accumulated)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def trained(*, faulty: bool, busy: bool, probe: bool, every: int | None) -> dict[str, Any]:
    """What two epochs leave behind, and what the callback tells."""
    keras.utils.set_random_seed(0)
    r = np.random.default_rng(0)
    x, y = r.standard_normal((BATCH * BATCHES, 4)).astype("f4"), r.integers(3, size=BATCH * BATCHES)
    model = model_of(faulty=faulty, busy=busy)
    given = {"probe": (x[:BATCH], y[:BATCH])} if probe else {}
    callbacks = [GradGuardCallback(every_n_steps=every, **given, **OPTIONS)] if every else []
    history = model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=callbacks).history
    hand = model.get_layer("hand")
    variables = [*model.variables, *model.optimizer.variables]
    values = [digest(keras.ops.convert_to_numpy(variable)) for variable in variables]
    streams = [digest(np.random.get_state()[1]), digest(np.array(random.getstate()[1]))]  # noqa: NPY002
    names = [sorted(vars(each)) for each in (model, model.optimizer)]
    left = [values, history, streams, hand.calls, [float(mean) for mean in hand.means], names]
    return {"left": left, **(told_by(callbacks[0]) if callbacks else {})}


def digest(array: Any) -> str:
    """Of all bits."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def told_by(callback: GradGuardCallback) -> dict[str, Any]:
    """Its checks."""
    rows = [
        [row.step, str(row.verdict), sorted(name for name, verdict in row.verdicts.items() if verdict.is_bug)]
        for row in callback.history
    ]
    return {"rows": rows, "names": sorted(callback.report.tensors), "said": str(callback.report)}


def main() -> None:
    """All trainings that the tests ask for."""
    probes = [True] if keras.backend.backend() == "jax" else [True, False]
    found = {}
    for probe in probes:
        wrong = trained(faulty=True, busy=False, probe=probe, every=100)
        pair = [trained(faulty=False, busy=True, probe=probe, every=every) for every in (None, 7)]
        found[f"probe: {probe}"] = {"wrong": wrong, "plain": pair[0], "guarded": pair[1]}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
