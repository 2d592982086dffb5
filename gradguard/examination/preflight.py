"""What must hold before a difference of the loss means anything: finite, repeatable, dependent on the parameters."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradguard.arrays import Array, is_finite, norm_of_finite, reductions
from gradguard.diagnosis import unmeasured
from gradguard.differences import RoundedValue
from gradguard.measurement import MeasurementContext, TensorUnderTest
from gradguard.perturbation import JointDirection, Part, directions, groups_to_move
from gradguard.report import TensorReport, Verdict, told_apart
from gradguard.screening import halves

# Evaluations in a row that must repeat before a doubtful report: a loss that changes at every 50th call was seen.
REPEATS = 52
REPEATS_SHARE = 0.1  # of all evaluations, that repeat the loss where all tensors agree
MAX_MULTIPLE = 256  # of losses that have nothing in common, one pair in 100 is as near to a multiple up to this
REPEATS_BEFORE = 2  # evaluations in a row that must repeat before anything is measured
REBOUND = "rebound"
IN_STEPS = "loss_in_steps"
Point = tuple[float, float]  # how far a tensor is moved, and the loss there
MOVES = (1e-3, -0.03, 1.0)  # in sizes of the tensors, by which a loss that reads them changes
RISING_MOVES = 10.0 ** np.arange(-6, 1)  # in sizes of a tensor, until the loss changes
HALVINGS = 12  # of the move, at least: the change of a loss without jumps shrinks with it, by 4096 in all
SHORT = 2.0**-18  # of a tensor's size, to which a longer move is halved, since several jumps may lie beside each other
KEPT_BY_JUMP = 1 / 64  # of the change, that remains at a jump: a move that just shows changes has few of them
BESIDE = np.array([0, 8, 16])  # widths of a jump as located, to either side of it, where the loss changes by noise only
MORE_THAN_NOISE = 8  # times that the loss jumps further than it changes there
JUMP = 1000  # roundoffs of the loss that a jump exceeds: those of its noise reached 73


def shapes_of(context: MeasurementContext, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of some tensors."""
    return {name: context.arrays[name].shape for name in names}


def unmeasurable(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of the tensors that cannot be measured: all, if the loss is not finite."""
    if not np.isfinite(context.centre).all():
        says = f"the loss is {context.loss}, so finite differences are impossible"
        cause = "the training has diverged, or the forward pass overflows: look there first"
        shapes = shapes_of(context, names)
        return unmeasured(shapes, Verdict.inconclusive, says, cause, cause_key="loss_not_finite")
    reports: dict[str, TensorReport] = {}
    for name in names:
        if not is_finite(context.gradients[name]):
            reports |= _nonfinite(name, context.gradients[name])
        elif not context.gradients[name].size:
            reports |= unmeasured(shapes_of(context, [name]), Verdict.ok, "the tensor has no entries", "")
    return reports


def _nonfinite(name: str, gradient: Array) -> dict[str, TensorReport]:
    broken = np.argwhere(~np.isfinite(gradient))
    where = [int(i) for i in broken[0]]
    count = f"{len(broken)} of {gradient.size} entries of backprop"
    says = f"{count} are nan or inf, the first at {where}, and the loss is finite"
    cause = "an overflow, a division by zero or memory never written in the backward pass"
    return unmeasured({name: gradient.shape}, Verdict.nonfinite, says, cause)


def other_loss(context: MeasurementContext) -> dict[str, TensorReport]:
    """The reports of all tensors at a check whose loss is not the one that the training computed; else none."""
    if context.training_loss is None:
        return {}
    value, loss = told_apart(context.training_loss, context.loss, 6)
    says = (
        f"the training computed a loss of {value}, and the loss of this check is {loss}; rounding does not account for "
        "the difference, so the gradient belongs to another loss and was not checked"
    )
    shapes = shapes_of(context, list(context.arrays))
    return unmeasured(shapes, Verdict.other_loss, says, _causes_of_other_loss(context))


def _causes_of_other_loss(context: MeasurementContext) -> str:
    if multiple := _multiple(context):
        return f"{multiple}: one is a sum and the other a mean, or one is scaled; pass the same loss to both"
    causes = "; ".join(
        [
            "another batch at the check (bind the batch in the loss: loss=lambda batch=batch: ...)",
            "a hidden state replaced since (use the one from before the step)",
            f"parameters updated since (call after_backward before the update{_learning_rate(context)})",
            "a new dropout mask (start the loss from the generator state before the forward pass, and pass "
            "snapshot=snapshot_rng(generator))",
            "or value= is another quantity (a running mean, or another reduction, scale or penalty)",
        ]
    )
    return f"one of these: {causes}"


def _multiple(context: MeasurementContext) -> str:
    """By which whole number the training's loss and that of the check differ, in a clause; "" if by none."""
    value, loss = context.training_loss or 0.0, context.loss
    if not (np.isfinite([value, loss]).all() and value and loss):
        return ""
    times = round(max(value / loss, loss / value))
    if not 2 <= times <= MAX_MULTIPLE:
        return ""
    factor = times if abs(value) > abs(loss) else 1 / times
    multiplied = replace(context, centre=factor * context.centre)
    if not multiplied.compared(RoundedValue.of(value)).is_usual:
        return ""
    return f"value= is {times if factor > 1 else f'1/{times}'} times the loss of the check"


def _learning_rate(context: MeasurementContext) -> str:
    """What an update by plain gradient descent would have needed to change the loss like that; "" if none would."""
    largest = [reductions.largest_magnitude(gradient) for gradient in context.gradients.values()]
    norms = [norm_of_finite(*pair) for pair in zip(context.gradients.values(), largest, strict=True)]
    square = float(np.square(norms).sum())
    fall = (context.training_loss or 0.0) - context.loss
    if not (fall > 0 and 0 < square < np.inf and np.isfinite(fall)):
        return ""
    return f"; plain gradient descent would have used a learning rate of about {fall / square:.1g}"


def with_exception_of_loss(
    context: MeasurementContext, tensors: Mapping[str, TensorReport], step: int
) -> dict[str, TensorReport]:
    """The reports of a check, with what the loss raised at moved parameters in those that cannot tell.

    Args:
        context: What was measured with.
        tensors: The reports of all tensors.
        step: The step of the check: what was measured at an earlier one had another reason.
    """
    if not context.objective.raised:
        return dict(tensors)
    says = f"the loss raised an exception at some perturbed parameters: {context.objective.raised}"
    cause = (
        "the loss is not defined everywhere near these parameters (logarithm, root, factorization, assertion); use "
        "unconstrained parameters, such as the logarithm of a variance"
    )
    return {
        name: replace(tensor, explanation=f"{tensor.explanation}; {says}", cause=cause)
        if tensor.verdict is Verdict.inconclusive and tensor.measured_at == step
        else tensor
        for name, tensor in tensors.items()
    }


def repeats_needed(context: MeasurementContext, reports: Mapping[str, TensorReport]) -> int:
    """How many evaluations must repeat before these reports are given."""
    if all(map(_is_clear, reports.values())):
        evaluations = context.objective.evaluations / context.objective.at_once
        return min(REPEATS, 1 + round(REPEATS_SHARE * evaluations))
    return REPEATS


def agrees(report: TensorReport) -> bool:
    """Whether a gradient agrees with the differences of the loss."""
    return report.verdict.is_bug is False


def _is_clear(report: TensorReport) -> bool:
    untold = report.measured_at is None and report.verdict is Verdict.inconclusive
    return untold or (agrees(report) and not report.unresolved and not report.kinks)


def nondeterministic(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of tensors at a check whose loss does not repeat."""
    says = "the loss differs between two evaluations at the same parameters, so its finite differences mean nothing"
    cause = (
        "new dropout masks, a carried state or a count of calls; pass snapshot=snapshot_rng(generator) or "
        "snapshot=snapshot_attributes(model, 'hidden'), from the state before the forward pass of the gradient"
    )
    return unmeasured(shapes_of(context, names), Verdict.nondeterministic, says, cause)


def independent(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of tensors without a gradient at a check whose loss does not change at all."""
    says = "the loss does not depend on this tensor, and its gradient is zero"
    right = [name for name in names if not context.gradients[name].any()]
    return unmeasured(shapes_of(context, right), Verdict.ok, says, "")


def detached(context: MeasurementContext, names: Sequence[str]) -> dict[str, TensorReport]:
    """The reports of tensors with a gradient at a check whose loss does not change at all."""
    says = "the loss does not change, whichever tensor is moved"
    cause = (
        "the arrays in params are not the ones that the loss reads (a copy, or rebound since), the snapshot restores "
        "the parameters themselves, or the loss returns a stored value"
    )
    wrong = [name for name in names if context.gradients[name].any()]
    return unmeasured(shapes_of(context, wrong), Verdict.inconclusive, says, cause, cause_key="loss_unchanged")


def rebound(context: MeasurementContext, names: Sequence[str], is_over: Callable[[], bool]) -> dict[str, TensorReport]:
    """The reports of those tensors that the loss no longer reads.

    Args:
        context: What to measure with.
        names: Tensors that have the bits of the last check, although their gradients are not zero.
        is_over: Whether the time is over.
    """
    groups = groups_to_move({name: context.arrays[name] for name in names})
    unread = [name for group in groups for name in _unread(context, group, is_over)]
    says = "its array has not changed since the last check, and moving it does not change the loss"
    cause = (
        "the training has rebound the parameter (W = W - lr * dW), so the loss reads another array: pass the mapping "
        "that the loss reads, or update in place (W -= lr * dW)"
    )
    return unmeasured(shapes_of(context, unread), Verdict.inconclusive, says, cause, cause_key=REBOUND)


def _unread(context: MeasurementContext, names: tuple[str, ...], is_over: Callable[[], bool]) -> Iterator[str]:
    """Those of some tensors that the loss does not read, found by halving."""
    if _is_unread(context, names):
        yield from names
    elif len(names) > 1 and not is_over():
        for half in halves(names):
            yield from _unread(context, half, is_over)


def _is_unread(context: MeasurementContext, names: Sequence[str]) -> bool:
    """Whether the loss is the same bit for bit wherever these tensors are."""
    rng = np.random.default_rng(0)
    tensors = [TensorUnderTest(context, name) for name in names]
    parts = {tensor.name: Part(directions.gaussian(tensor.gradient, rng), tensor.extent) for tensor in tensors}
    direction = JointDirection(parts, sum(tensor.gradient.size for tensor in tensors))
    moved = (context.objective.evaluate_along([(direction, amount)], context.gradients) for amount in MOVES)
    return all(np.array_equal(values.losses[0], context.centre) for values in moved)


def in_steps(context: MeasurementContext, report: TensorReport) -> TensorReport:
    """The report of a tensor of which n or g is zero; no bug where the loss moves in steps.

    A loss that is rounded as a whole jumps along every tensor; then its jumps say nothing of this one.
    """
    moving = [name for name, gradient in context.gradients.items() if gradient.any() and name != report.name]
    clearest = max(moving, key=lambda name: context.sizes[name].sensitivity, default=None)
    jump = _jump(context, report.name)
    if not jump or (clearest is not None and _jump(context, clearest)):
        return report
    return replace(
        report,
        verdict=Verdict.inconclusive,
        explanation=f"the loss changes in steps of {jump:.2g}, however short the move: {report.explanation}",
        cause=(
            "floor, round, argmax or a comparison in the forward pass has a derivative of zero or none; a gradient "
            "that differs on purpose, as of a straight-through estimator, is no bug"
        ),
        cause_key=IN_STEPS,
    )


def _jump(context: MeasurementContext, name: str) -> float:
    """The size of a jump of the loss along a tensor; 0 where it has none."""
    at = _along(context, name)
    start = (0.0, context.loss)
    end = next((point for point in map(at, RISING_MOVES) if point[1] != context.loss), start)
    low, high = _halved(at, start, end)
    jump = abs(high[1] - low[1])
    noise = _scatter(at, low[0], high[0]) if jump else 0.0
    rounding = JUMP * context.unit * max(abs(context.loss), abs(high[1]))
    smallest = max(KEPT_BY_JUMP * abs(end[1] - start[1]), MORE_THAN_NOISE * noise, rounding)
    return jump if np.isfinite(jump) and jump > smallest else 0.0


def _along(context: MeasurementContext, name: str) -> Callable[[float], Point]:
    """The loss as a function of how far a tensor is moved along a Gaussian direction, in sizes of the tensor."""
    tensor = TensorUnderTest(context, name)
    part = Part(directions.gaussian(tensor.gradient, np.random.default_rng(0)), tensor.extent)
    direction = JointDirection({name: part}, tensor.gradient.size)

    def at(amount: float) -> Point:
        values = context.objective.evaluate_along([(direction, amount)], context.gradients)
        return amount, context.objective.total(values.losses[0])

    return at


def _halved(at: Callable[[float], Point], low: Point, high: Point) -> tuple[Point, Point]:
    """The ends of a short part of a move, in which the loss changes most."""
    further = math.ceil(math.log2(max(1.0, high[0] / (SHORT * 2**HALVINGS))))
    for _ in range(HALVINGS + further if low != high else 0):
        middle = at((low[0] + high[0]) / 2)
        low, high = (low, middle) if abs(middle[1] - low[1]) > abs(high[1] - middle[1]) else (middle, high)
    return low, high


def _scatter(at: Callable[[float], Point], low: float, high: float) -> float:
    """How far the loss changes beside a part of a move, on the side where it changes less.

    Noise is on both sides. Near a jump, rounding may make further jumps, and another jump may be near on one side.
    """
    width = high - low
    sides = [[at(edge + beside)[1] for beside in width * BESIDE] for edge, width in ((low, -width), (high, width))]
    return float(np.ptp(sides, axis=1).min())
