"""A training that is stopped and resumed, and the ways that its guard's state is carried."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard import GradGuard, gates
from gradguard.testing import LSTM, Batch, random_batch

Params = dict[str, NDArray[Any]]

WATCHED = ("Wh", "V")
TIMESTEPS = 5


class Training:
    """A float32 LSTM whose recurrent gradients are wrong from step 3 to 7, and a bit too large from step 9 on."""

    def __init__(self, precision: str = "native") -> None:
        self.model = LSTM(3, 2, 3)
        self.precision = precision
        self.batch = self.batch_of(0)

    def batch_of(self, step: int) -> Batch:
        """The batch of a step."""
        return random_batch(TIMESTEPS, 4, inputs=3, outputs=3, seed=step)

    def loss(self) -> Any:
        """On the batch of the step."""
        return self.model.loss(self.batch)

    def loss_at(self, params: Params) -> Any:
        """The same at other parameters."""
        return self.model.loss(self.batch, self.model.params | params)

    def guard(self, **options: Any) -> GradGuard:
        """A guard that checks at every step, whatever it costs."""
        options = {"every_n_steps": 1, "max_overhead": None, "precision": self.precision, "seed": 4} | options
        params = {name: self.model.params[name] for name in WATCHED}
        constants, blocks = {"timesteps": TIMESTEPS, "batch": 4}, {"Wh": gates("ifog", axis=1)}
        loss = self.loss if self.precision == "native" else self.loss_at
        return GradGuard(params, loss, constants=constants, blocks=blocks, **options)

    def run(self, guard: GradGuard, steps: range) -> list[dict[str, Any]]:
        """Train with a guard; what its reports say, but for the time it took."""
        reports = []
        for step in steps:
            self.batch = self.batch_of(step)
            _, grads = self.model.loss_and_grads(self.batch)
            given = {name: grads[name] for name in WATCHED}
            if 3 <= step < 7:
                given["Wh"] = given["Wh"] / np.float32(TIMESTEPS)
            if step >= 9:
                given["V"] = given["V"] * np.float32(1.02)
            report = guard.after_backward(step, given)
            assert report is not None
            reports.append(report.to_dict() | {"seconds": None, "overhead": None})
            for name, grad in grads.items():
                self.model.params[name] -= np.float32(0.1) * grad
        return reports


def changed(state: Any, path: str, value: object) -> Any:
    """The state with one entry replaced, or left out."""
    state = copy.deepcopy(state)
    *way, last = path.split("/")
    place = state
    for key in way:
        place = place[int(key) if isinstance(place, list) else key]
    if value is KeyError:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return state


def by_json(value: Any) -> Any:
    """There and back, in strict JSON that has sorted the names."""
    return json.loads(json.dumps(value, allow_nan=False, sort_keys=True))


def by_pickle(value: Any) -> Any:
    """There and back."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


def event_files(logdir: Path) -> list[Path]:
    """In the order TensorBoard reads them."""
    return sorted(logdir.glob("events*"))
