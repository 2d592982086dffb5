"""A training of a real LSTM with a guard beside it, and what may be wrong with its gradients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradguard import GradGuard, Report
from gradguard.testing import LSTM, Batch, random_batch

Params = dict[str, NDArray[Any]]
Break = Callable[[int, Params], Params]

TIMESTEPS = 5
WATCHED = ("Wh", "b", "V")


class StopError(Exception):
    """Something goes wrong inside the loss."""


def batch_of(seed: int, timesteps: int = TIMESTEPS) -> Batch:
    """A small batch."""
    return random_batch(timesteps, 4, inputs=3, outputs=3, seed=seed)


def right(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """Nothing is broken."""
    return grads


def averaged(step: int, grads: Params) -> Params:  # noqa: ARG001 - a `Break`
    """The bug of the question."""
    return {name: grad / np.float32(TIMESTEPS) if name in ("Wh", "b") else grad for name, grad in grads.items()}


def sgd(params: Params, grads: Params, rate: float = 0.1) -> None:
    """One step of the optimizer, in place."""
    for name, grad in grads.items():
        params[name] -= np.float32(rate) * grad


@dataclass
class Training:
    """A training of a real LSTM, a guard beside it, and what came of both."""

    model: LSTM = field(default_factory=lambda: LSTM(3, 2, 3))
    batch: Batch = field(default_factory=lambda: batch_of(0))
    reports: list[Report | None] = field(default_factory=list)

    def loss(self) -> Any:
        """On the batch of the step."""
        return self.model.loss(self.batch)

    def loss_at(self, params: Params) -> Any:
        """The same at other parameters."""
        return self.model.loss(self.batch, self.model.params | params)

    @property
    def watched(self) -> Params:
        """Some of the tensors: three are cheaper to check than all five."""
        return {name: self.model.params[name] for name in WATCHED}

    def grads(self) -> Params:
        """Of the watched tensors."""
        _, grads = self.model.loss_and_grads(self.batch)
        return {name: grads[name] for name in WATCHED}

    def run(self, guard: GradGuard, steps: range, broken: Break = right) -> list[Report]:
        """Train with a guard; the reports of the checks that were made."""
        for step in steps:
            self.batch = batch_of(step)
            grads = broken(step, self.grads())
            self.reports.append(guard.after_backward(step, grads))
            sgd(self.model.params, grads)
        return [report for report in self.reports if report is not None]


def guard_of(training: Training, **options: Any) -> GradGuard:
    """A guard that checks at every step, whatever it costs: live arrays in native precision, copies in float64."""
    options = {"every_n_steps": 1, "max_overhead": None, "precision": "native"} | options
    loss = training.loss if options["precision"] == "native" else training.loss_at
    return GradGuard(training.watched, loss, **options)
