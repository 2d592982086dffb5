"""A user's training script, and what runs the command line beside it."""

import subprocess
from collections.abc import Callable
from typing import TypeAlias

Run: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

TRAIN = """
import sys

import numpy as np
from gradguard import gates, snapshot_rng
from gradguard.testing import LSTM, faulty, random_batch

SIZE = 3
FIRST = np.random.default_rng(0).random()


def made(network=LSTM):
    model, batch = network(3, 2, 3), random_batch(4, 2, inputs=3, outputs=3)
    return model, batch, model.loss_and_grads(batch)[1]


def right():
    print("loading")
    model, batch, grads = made()
    return model.params, grads, lambda: model.loss(batch)


def wrong():
    model, batch, grads = made(faulty("timesteps"))
    loss = lambda: model.loss(batch)
    return {"params": model.params, "grads": grads, "loss": loss, "constants": {"timesteps": 4}}


def other():
    model, batch, grads = made()
    loss = lambda: model.loss(batch)
    return {"params": model.params, "grads": grads, "loss": loss, "value": model.loss(batch) + 1}


def unclear():
    x = {"x": np.zeros(4)}
    return x, {"x": np.ones(4)}, lambda: float(np.abs(x["x"]).sum())


def everything():
    model, batch, grads = made()
    rng = np.random.default_rng(0)
    grads["b"][2:4] *= np.float32(0.5)

    def losses(params):
        return model.losses(batch, params) * (1 + 0.01 * rng.random())

    return dict(
        params=model.params,
        grads={name: grad * np.float32(1 + 0.01 * FIRST) for name, grad in grads.items()},
        loss=losses,
        reduction="mean",
        blocks={"b": gates("ifog", axis=0)},
        snapshot=snapshot_rng(rng),
    )


class Models:
    @staticmethod
    def right():
        return right()


def layers():
    params, grads, loss = right()
    return [list(params.values())], [list(grads.values())], loss


def meant():
    params, grads, loss = right()
    return {"params": params, "grads": grads | {"V": -grads["V"]}, "loss": loss, "expected": {"V": "reversal"}}


def raises():
    return broken_inside()


def broken_inside():
    raise RuntimeError("no data\\nhere")


def quits():
    raise SystemExit(0)


def loss_raises():
    params, grads, _ = right()
    calls = []

    def loss():
        calls.append(1)
        if len(calls) > 30:
            raise KeyError("batch")
        return float(params["b"].sum())

    return params, grads, loss


def loss_quits():
    params, grads, _ = right()
    return params, grads, quits


def loss_is_exit():
    params, grads, _ = right()
    return params, grads, sys.exit


def wants(model, batch):
    return right()


def nothing():
    pass


def pair():
    return [1, 2]


def misspelled():
    return {"params": {}, "gradients": {}, "loss": None}


def unknown():
    params, grads, loss = right()
    return {"params": params, "grads": grads, "loss": loss, "optimizer": None}


def shapes():
    params, grads, loss = right()
    return params, grads | {"V": grads["V"][:1]}, loss


def array():
    model, batch, grads = made()
    return model.params, grads, lambda: model.losses(batch)
"""
