"""The user's loss as a function of moved parameters: evaluated, checked, counted, and undone."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from traceback import format_exception_only
from typing import Any, TypeVar

import numpy as np

from gradguard.arrays import Array, Float64
from gradguard.environment import user_settings
from gradguard.loss.attempts import try_twice
from gradguard.loss.batching import JointStack, StackFactory
from gradguard.loss.signature import Loss, Reduction, losses_of, numbers_of, takes_parameters
from gradguard.perturbation import (
    Copies,
    CopyFactory,
    JointDirection,
    PerturbedTensor,
    Probe,
    Restore,
    Space,
    UndoLog,
)

MAX_CHARACTERS = 300  # of an exception of the loss that a report quotes
Values = TypeVar("Values")


@dataclass(frozen=True, slots=True)
class LossRequest:
    """Points at which the loss is wanted: P points along each of K directions of one tensor.

    Attributes:
        name: The tensor that is moved.
        probes: K directions.
        amounts: How far the points lie along each direction, shape (K, P).
        gradient: The gradient of the tensor.
    """

    name: str
    probes: Sequence[Probe]
    amounts: Float64
    gradient: Array

    @property
    def points(self) -> Iterator[tuple["LossRequest", Probe, float]]:
        """The points one by one, direction after direction: this request, the direction and the amount."""
        for probe, amounts in zip(self.probes, self.amounts, strict=True):
            for amount in amounts:
                yield self, probe, amount


@dataclass(frozen=True, slots=True)
class LossValues:
    """The losses at the points of a request, and what `Probe.displace` returned for each point.

    Attributes:
        losses: Unreduced, shape (K, P, m).
        displacements: The length of the realised displacement along the direction, shape (K, P).
        predicted: The change of the loss that the gradient predicts for it, shape (K, P).
    """

    losses: Float64
    displacements: Float64
    predicted: Float64


@dataclass(frozen=True, slots=True)
class JointValues:
    """The losses at P points along directions through T tensors, and how far the tensors were moved.

    Attributes:
        losses: Unreduced, shape (P, m).
        displacements: The realised displacement of each point along its direction, shape (P,).
        predicted: The change of the loss that the gradient of each tensor predicts for its move, shape (P, T).
    """

    losses: Float64
    displacements: Float64
    predicted: Float64


class Objective:
    """The loss in one space: its unreduced values in float64, and how to sum them.

    Args:
        loss: `loss()` or `loss(params)`. A call of it that raised is not repeated if it has an attribute
            `is_repeatable` that is False.
        space: Where the tensors are moved.
        reduction: Which scalar the gradient is of, if the loss returns an array.
        restore: Puts back the state that an evaluation may disturb; called before each evaluation.
        undo_log: Records every move and swap for as long as it is open; a log of its own unless given.
        on_evaluations: Called with the number of points of each call of the loss.

    Attributes:
        space: As given.
        copy_factory: Makes the copies for one call of the loss.
        tries_copies: Whether the space makes the copies: then nobody marked the loss as batched, and a call with
            several copies may fail.
        at_once: How many points one call of the loss takes.
        pads: Whether a call takes only a few fixed numbers of points, since the loss is compiled anew for each number.
        dtype: The dtype of the last loss.
        evaluations: Points evaluated so far.
        raised: What the loss raised at the last moved point at which it did; "" where it never did.
    """

    def __init__(
        self,
        loss: Loss,
        space: Space,
        reduction: Reduction | None,
        restore: Restore,
        undo_log: UndoLog | None = None,
        on_evaluations: Callable[[int], object] = int,
    ) -> None:
        self.space = space
        self.copy_factory: CopyFactory = space if isinstance(space, CopyFactory) else StackFactory(space)
        self.tries_copies = self.copy_factory is space
        self.at_once = 1
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        self.evaluations = 0
        self.raised = ""
        self._size = 0  # of the unreduced losses; 0 before the first evaluation
        self._loss = loss
        self._is_repeatable = getattr(loss, "is_repeatable", True)
        self._takes_parameters = takes_parameters(loss)
        self._reduction = reduction
        self._restore = restore
        self._undo_log = UndoLog() if undo_log is None else undo_log
        self._on_evaluations = on_evaluations
        self._weight = 1.0

    @property
    def pads(self) -> bool:  # noqa: D102 - as above
        return isinstance(self.copy_factory, StackFactory) and self.copy_factory.pads

    @pads.setter
    def pads(self, pads: bool) -> None:
        if isinstance(self.copy_factory, StackFactory):
            self.copy_factory = replace(self.copy_factory, pads=pads)

    def __call__(self) -> Float64:
        """The losses at the present point, flat, shape (m,); m = 1 for a scalar loss.

        A loss that raises twice in a row at moved parameters is not defined there, and its value is nan.

        Raises:
            TypeError: the loss returned something that is no number and no array of numbers.
            ValueError: it returned an array and no `reduction` was given.
        """
        self._restore()
        if not (self._undo_log.is_open and self._size and self._is_repeatable):
            return self._evaluate_once()
        losses = try_twice(self._evaluate_once, self._restore)
        if isinstance(losses, Exception):
            self.raised = "".join(format_exception_only(losses)).strip()[:MAX_CHARACTERS]
            return np.full(self._size, np.nan)
        return losses

    def _evaluate_once(self) -> Float64:
        self.evaluations += 1
        self._on_evaluations(1)
        settings = user_settings(moved=self._undo_log.is_open)
        with self._undo_log.recorded(self.space.installed()), settings:
            # The loss may rebind the entries of the mapping that it is called with: it gets one of its own.
            result = self._loss(dict(self.space.arrays)) if self._takes_parameters else self._loss()
        values = losses_of(result, self._reduction)
        self.dtype = values.dtype
        self._size = values.size
        self._weight = 1 / values.size if self._reduction == "mean" else 1.0
        return values.astype(np.float64).reshape(-1)

    def moving(self, name: str) -> AbstractContextManager[PerturbedTensor]:
        """The tensor to move, for the time of a `with`; afterwards it is as it was, whatever ends the `with`."""
        return self._undo_log.recorded(self.space.moving(name))

    def evaluate_along(
        self, points: Sequence[tuple[JointDirection, float]], gradients: Mapping[str, Array]
    ) -> JointValues:
        """The losses at some points, each at an amount along a direction through the same tensors.

        Afterwards the tensors are as they were.
        """
        factory = self.copy_factory
        if self.at_once > 1 and isinstance(factory, StackFactory):
            return self._batched(
                lambda: self._stacked_along(factory, points, gradients),
                lambda: self._along_one_by_one(points, gradients),
            )
        return self._along_one_by_one(points, gradients)

    def evaluate(self, requests: Sequence[LossRequest]) -> list[LossValues]:
        """The losses at all points of some requests; afterwards the tensors are as they were."""

        def one_by_one() -> list[LossValues]:
            return [self._one_by_one(request) for request in requests]

        return self._batched(lambda: self._in_batches(requests), one_by_one) if self.at_once > 1 else one_by_one()

    def _batched(self, in_batches: Callable[[], Values], one_by_one: Callable[[], Values]) -> Values:
        """The losses in few calls; one by one where such a call raises: the loss may do so at one of the points."""
        values = try_twice(in_batches)
        if not isinstance(values, Exception):
            return values
        before, self.raised = self.raised, ""
        separate = one_by_one()
        if not self.raised:  # the copies are at fault, at the first points at which the loss does not take them
            if not self.tries_copies:
                raise values
            self.raised, self.at_once = before, 1
        return separate

    def _stacked_along(
        self, factory: StackFactory, points: Sequence[tuple[JointDirection, float]], gradients: Mapping[str, Array]
    ) -> JointValues:
        losses: list[Float64] = []
        moves: list[tuple[float, Float64]] = []
        for start in range(0, len(points), self.at_once):
            some = points[start : start + self.at_once]
            stack = factory.joint_copies(list(points[0][0].parts), len(some))
            for (direction, amount), tensors in zip(some, stack.tensors, strict=True):
                moves.append(direction.displace(tensors, amount, gradients))
            losses.extend(self.evaluate_copies(stack))
        return _joint_values(losses, moves)

    def _along_one_by_one(
        self, points: Sequence[tuple[JointDirection, float]], gradients: Mapping[str, Array]
    ) -> JointValues:
        losses: list[Float64] = []
        moves: list[tuple[float, Float64]] = []
        with ExitStack() as moved:
            live = {name: moved.enter_context(self.moving(name)) for name in points[0][0].parts}
            for direction, along in groupby(points, key=itemgetter(0)):
                through = direction.through(live, gradients)
                for _, amount in along:
                    moves.append(through.displace(amount))
                    losses.append(self())
                direction.release()
        return _joint_values(losses, moves)

    def _one_by_one(self, request: LossRequest) -> LossValues:
        losses, moves = [], np.empty((*request.amounts.shape, 2))
        with self.moving(request.name) as tensor:
            for probe, amounts, row in zip(request.probes, request.amounts, moves, strict=True):
                for point, amount in enumerate(amounts):
                    row[point] = probe.displace(tensor, amount, request.gradient)
                    losses.append(self())
                probe.reset(tensor)
                probe.release()
        return LossValues(np.array(losses).reshape(*request.amounts.shape, -1), moves[..., 0], moves[..., 1])

    def _in_batches(self, requests: Sequence[LossRequest]) -> list[LossValues]:
        """In as few calls as possible: one call takes points of several tensors, each moved in a copy of its own."""
        points = [point for request in requests for point in request.points]
        losses, moves = [], np.empty((len(points), 2))
        for start in range(0, len(points), self.at_once):
            batch = points[start : start + self.at_once]
            copies = self.copy_factory.copies([request.name for request, _, _ in batch])
            for row, tensor, (request, probe, amount) in zip(moves[start:], copies.tensors, batch, strict=False):
                row[:] = probe.displace(tensor, amount, request.gradient)
            for _, probe, _ in batch:
                probe.release()
            losses.append(self.evaluate_copies(copies))
        return _values_of_each(requests, np.concatenate(losses), moves)

    def evaluate_copies(self, copies: Copies | JointStack) -> Float64:
        """The losses of K copies of the parameters, shape (K, m), in one call.

        Raises:
            TypeError: the loss returned something that is no array of numbers.
            ValueError: the array is not of K losses, or of K times the unreduced losses.
        """
        self._restore()
        count, rows = len(copies.tensors), copies.rows
        self.evaluations += count
        self._on_evaluations(count)
        with self._undo_log.recorded(copies.installed()), user_settings(moved=True):
            values = numbers_of(self._loss(copies.arrays))
        if values.ndim == 0 or len(values) != rows or (self._reduction is None and values.size != rows):
            expected = f"({rows},), a loss" if self._reduction is None else f"({rows}, ...), the unreduced losses"
            raise ValueError(
                f"the batched loss was handed {rows} copies of the parameters on a leading axis, and returned an "
                f"array of shape {values.shape}; expected {expected} of each copy"
            )
        return values[:count].astype(np.float64).reshape(count, -1)

    def total(self, values: Float64) -> float:
        """The scalar that the gradient is of, from unreduced losses or their differences, summed in float64."""
        return float(values.sum()) * self._weight

    def totals(self, values: Float64) -> Float64:
        """`total` for many points, shape (..., m) to (...)."""
        totals: Float64 = values.sum(axis=-1) * self._weight
        return totals

    def spread(self, deviations: Float64) -> float:
        """The standard deviation of `total` where each unreduced loss has its own, independent one, shape (m,)."""
        return float(np.sqrt((deviations**2).sum())) * self._weight


def _joint_values(losses: Sequence[Float64], moves: Sequence[tuple[float, Float64]]) -> JointValues:
    displacements, predicted = zip(*moves, strict=True)
    return JointValues(np.array(losses), np.array(displacements), np.array(predicted))


def _values_of_each(requests: Sequence[LossRequest], losses: Float64, moves: Float64) -> list[LossValues]:
    """The values of each request.

    Args:
        requests: The requests, N points together.
        losses: At all points in order, shape (N, m).
        moves: Displacement and predicted change of each point, shape (N, 2).
    """
    shapes = [request.amounts.shape for request in requests]
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    each = zip(shapes, np.split(losses, ends), np.split(moves, ends), strict=True)
    return [
        LossValues(values.reshape(*shape, -1), moved[:, 0].reshape(shape), moved[:, 1].reshape(shape))
        for shape, values, moved in each
    ]
