"""The user's loss as a function of where the parameters stand: evaluated, checked, counted, its state put back."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradguard.arrays.types import Array, Float64
from gradguard.loss.attempts import attempted
from gradguard.loss.batching import Stacks
from gradguard.loss.signature import Loss, Reduction, losses_of, numbers_of, takes_parameters
from gradguard.perturbation.directions import Probe
from gradguard.perturbation.journal import UndoLog
from gradguard.perturbation.protocols import Copies, CopyFactory, PerturbedTensor, Space
from gradguard.perturbation.snapshots import Restore


@dataclass(frozen=True, slots=True)
class LossRequest:
    """Points at which the loss is wanted: some way along each of some probes of one tensor.

    Attributes:
        name: The tensor that is moved.
        probes: K directions.
        amounts: How far along each, shape (K, P).
        gradient: Of the tensor.
    """

    name: str
    probes: Sequence[Probe]
    amounts: Float64
    gradient: Array

    @property
    def points(self) -> Iterator[tuple["LossRequest", Probe, float]]:
        """The points one by one."""
        for probe, along in zip(self.probes, self.amounts, strict=True):
            for amount in along:
                yield self, probe, amount


@dataclass(frozen=True, slots=True)
class LossValues:
    """The losses there, and what `Probe.shift` says of each point.

    Attributes:
        losses: Unreduced, shape (K, P, m).
        along: The length of the realised displacement along the probe, (K, P).
        against: The change of the loss that the gradient predicts for it, (K, P).
    """

    losses: Float64
    along: Float64
    against: Float64

    @classmethod
    def joined(cls, answers: Sequence["LossValues"]) -> "LossValues":
        """The answers to several questions as one, probe after probe."""
        each = [(answer.losses, answer.along, answer.against) for answer in answers]
        return cls(*map(np.concatenate, zip(*each, strict=True)))


class Objective:
    """The loss where `space` stands: the unreduced losses in float64, and how to sum them.

    Args:
        loss: `loss()` or `loss(params)`.
        space: Where the tensors are moved.
        reduction: Which scalar the gradient is of, when the loss returns an array.
        restore: Puts back the state that an evaluation may disturb; called before each one.
        undo_log: Records every move and swap for as long as it is open; a log of its own unless given.

    Attributes:
        at_once: How many points one call of a batched loss takes.
        copying: Makes the copies that one call of the loss takes.
        tries_copies: Whether the space copies its own tensors: nobody marked the loss as batched, and a call with
            several copies may fail.
    """

    def __init__(
        self,
        loss: Loss,
        space: Space,
        reduction: Reduction | None,
        restore: Restore,
        undo_log: UndoLog | None = None,
    ) -> None:
        self.space = space
        self.copying: CopyFactory = space if isinstance(space, CopyFactory) else Stacks(space)
        self.tries_copies = self.copying is space
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.evaluations = 0
        self.at_once = 1
        self._loss = loss
        self._takes_parameters = takes_parameters(loss)
        self._reduction = reduction
        self._restore = restore
        self._undo_log = UndoLog() if undo_log is None else undo_log
        self._weight = 1.0

    def __call__(self) -> Float64:
        """The losses at the present point, flat, shape (m,); m = 1 for a scalar loss.

        Raises:
            TypeError: the loss returned something that is no number and no array of numbers.
            ValueError: it returned an array and no `reduction` was given.
        """
        self._restore()
        self.evaluations += 1
        with self._undo_log.recorded(self.space.installed()):
            # The loss may rebind the entries of the mapping it is handed: it gets one of its own.
            result = self._loss(dict(self.space.arrays)) if self._takes_parameters else self._loss()
        values = losses_of(result, self._reduction)
        self.dtype = values.dtype
        self._weight = 1 / values.size if self._reduction == "mean" else 1.0
        return values.astype(np.float64).reshape(-1)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """A tensor to move for the time of a `with`; afterwards it has its old values, bit for bit."""
        return self._undo_log.recorded(self.space.moving(name))

    def evaluate(self, requests: Sequence[LossRequest]) -> list[LossValues]:
        """The losses at all the points that are asked for; afterwards the tensors are as they were."""
        if self.at_once > 1 and not self.tries_copies:
            return self._together(requests)
        if self.at_once > 1:  # this may be the first point at which the loss does not take copies
            together = attempted(lambda: self._together(requests))
            if not isinstance(together, Exception):
                return together
            self.at_once = 1
        return [self._one_by_one(request) for request in requests]

    def _one_by_one(self, request: LossRequest) -> LossValues:
        losses, told = [], np.empty((*request.amounts.shape, 2))
        with self.moving(request.name) as place:
            for probe, along, row in zip(request.probes, request.amounts, told, strict=True):
                for point, amount in enumerate(along):
                    row[point] = probe.displace(place, amount, request.gradient)
                    losses.append(self())
                probe.reset(place)
                probe.release()
        return LossValues(np.array(losses).reshape(*request.amounts.shape, -1), told[..., 0], told[..., 1])

    def _together(self, requests: Sequence[LossRequest]) -> list[LossValues]:
        """In as few calls as there may be: a call takes points of several tensors, each moved in copies of its own."""
        points = [point for request in requests for point in request.points]
        losses, told = [], np.empty((len(points), 2))
        for start in range(0, len(points), self.at_once):
            some = points[start : start + self.at_once]
            stack = self.copying.copies([request.name for request, _, _ in some])
            for row, place, (request, probe, amount) in zip(told[start:], stack.tensors, some, strict=False):
                row[:] = probe.displace(place, amount, request.gradient)
            for _, probe, _ in some:
                probe.release()
            losses.append(self.of_stack(stack))
        return _parted(requests, np.concatenate(losses), told)

    def of_stack(self, stack: Copies) -> Float64:
        """The losses of each copy, shape (K, m), in one call.

        Raises:
            TypeError: the loss returned something that is no array of numbers.
            ValueError: the array is not of K losses, or of K times the unreduced losses.
        """
        self._restore()
        count = len(stack.tensors)
        self.evaluations += count
        with self._undo_log.recorded(stack.installed()):
            values = numbers_of(self._loss(stack.arrays))
        if values.ndim == 0 or len(values) != count or (self._reduction is None and values.size != count):
            expected = f"({count},), a loss" if self._reduction is None else f"({count}, ...), the unreduced losses"
            raise ValueError(
                f"the batched loss was handed {count} copies of the parameters on a leading axis, and returned an "
                f"array of shape {values.shape}; expected {expected} of each copy"
            )
        return values.astype(np.float64).reshape(count, -1)

    def total(self, values: Float64) -> float:
        """The scalar of unreduced losses (or of their differences), summed in float64."""
        return float(values.sum()) * self._weight

    def totals(self, values: Float64) -> Float64:
        """The same for many points, shape (..., m) to (...)."""
        summed: Float64 = values.sum(axis=-1) * self._weight
        return summed

    def spread(self, deviations: Float64) -> float:
        """The standard deviation of `total` where each unreduced loss has its own, independent one."""
        return float(np.sqrt((deviations**2).sum())) * self._weight


def _parted(requests: Sequence[LossRequest], losses: Float64, told: Float64) -> list[LossValues]:
    """The answer to each of some questions, of all points in order: losses (points, m) and what is told of them."""
    shapes = [request.amounts.shape for request in requests]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    each = zip(shapes, np.split(losses, ends), np.split(told, ends), strict=True)
    return [
        LossValues(found.reshape(*shape, -1), moved[:, 0].reshape(shape), moved[:, 1].reshape(shape))
        for shape, found, moved in each
    ]
