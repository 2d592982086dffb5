"""Proof that the loss on float64 copies of the parameters is the same loss, computed in float64."""

import math
from collections import OrderedDict, UserDict
from collections.abc import Callable, Sequence

import numpy as np

from gradguard.arrays import reductions
from gradguard.containers import Attributes, Container
from gradguard.loss.attempts import try_twice
from gradguard.loss.objective import Objective
from gradguard.perturbation import JointDirection, Part, gaussian, groups_to_move

MIN_PROVEN = 4  # tensors that are looked at even if there is no time left
MOVES_BELOW_FLOAT32 = (2.0**-30, 2.0**-27)  # relative moves that float32 parameters round away, even if doubled
MOVES_IN_FLOAT32 = (2.0**-10, 2.0**-5, 1.0, 4.0, 16.0)  # relative moves that float32 parameters show, tried in turn
SHARED_MOVE = 2.0**-6  # relative move of all tensors, along which both precisions must change alike
CLEAR_CHANGE = 100.0  # standard deviations of the native noise that the change must have to prove anything
CLEAR_RESPONSE = 10.0  # roundings of the native loss that the response to a move must have to be compared
SAME_RESPONSE = 0.1  # relative difference of two responses that are the same, beside the rounding
SAME_LOSS = 1e-3  # relative distance of one loss in two precisions
SAME_LOSS_IN_ROUNDOFFS = 8  # the same in unit roundoffs of the coarser precision, where that is more
SAME_CHANGE = 1e-3  # relative difference of two changes, or slopes, that are the same
AGREEING = 8.0  # standard deviations of the native noise by which two changes may differ
PROPORTIONAL_MOVES = (2.0**-30, 2.0**-29, 2.0**-14)  # of which float32 rounds the first ones away
MAX_OFFSET = 2.0**-6  # relative distance of the point about which the small moves are made: the tensor may be a minimum
NOT_FOLLOWED = "the loss does not follow changes of {!r} that float32 would round away"
NOT_ALIKE = "on float64 copies the loss changes along {!r} differently from the live loss"
PLAIN_SETTERS = (dict.__setitem__, OrderedDict.__setitem__, UserDict.__setitem__, list.__setitem__)
PLAIN_GETTERS = (dict.__getitem__, UserDict.__getitem__, list.__getitem__)
BELOW_FLOAT32 = 1e-3  # of a float32 quantum: no float32 loss changes by so little


def keeps_assigned_objects(mapping: object) -> bool:
    """Whether a container is known to hold the very arrays that are assigned to it, and to give access to those.

    Others may copy them on the way in or out. It cannot be tried: a container that copies would keep the copy.
    """
    if isinstance(mapping, Container):
        return all(map(keeps_assigned_objects, mapping.holders))
    if isinstance(mapping, Attributes):
        return mapping.keeps_assigned_objects
    kind = type(mapping)
    if getattr(kind, "__setitem__", None) not in PLAIN_SETTERS:
        return False
    if getattr(kind, "__getitem__", None) not in PLAIN_GETTERS:
        return False
    if isinstance(mapping, UserDict):
        return keeps_assigned_objects(mapping.data)
    if isinstance(mapping, dict):
        return all(mapping[name] is value for name, value in mapping.items())
    return isinstance(mapping, list)


def reason_not_float64(
    float64: Objective, native: Objective, expected: float, sigma: float, unit: float, is_late: Callable[[], bool]
) -> str:
    """Why the loss on float64 copies is not proven to be the same loss in float64; "" if it is.

    The proof: it has the value of the native loss, it changes as the native loss does where all tensors are moved, and
    it changes in proportion along moves that float32 would round away. Where moves of all tensors do not prove that,
    each tensor is moved by itself.

    Args:
        float64: The loss on float64 copies.
        native: The loss on the parameters themselves.
        expected: The native loss.
        sigma: Its noise.
        unit: The unit roundoff of the arithmetic that computed the gradients.
        is_late: Whether to look at no more tensors than necessary.
    """
    reason = try_twice(lambda: _reason(float64, native, expected, sigma, unit, is_late))
    if isinstance(reason, Exception):
        return f"on float64 copies of the parameters the loss raises {type(reason).__name__}: {reason}"
    return reason


def _reason(
    float64: Objective, native: Objective, expected: float, sigma: float, unit: float, is_late: Callable[[], bool]
) -> str:
    losses = float64()
    value, largest = float64.total(losses), float(np.abs(losses).max())
    tolerance = max(SAME_LOSS, SAME_LOSS_IN_ROUNDOFFS * unit)
    if not abs(value - expected) <= tolerance * max(abs(expected), largest) + 1e-6:
        return f"on float64 copies of the parameters the loss is {value:.6g}, and {expected:.6g} on the live arrays"
    if all(_is_same_along(float64, native, group, sigma) for group in groups_to_move(float64.space.arrays)):
        return ""
    names = [name for name, array in float64.space.arrays.items() if array.size]
    for count, name in enumerate(names):
        if count >= MIN_PROVEN and is_late():
            break
        if reason := _reason_not_followed(float64, native, name, unit):
            return reason
    return ""


def reason_not_followed(float64: Objective, native: Objective, names: Sequence[str], unit: float) -> str:
    """Why the loss on float64 copies does not follow some tensors as the live loss does; "" if it does."""
    return next(filter(None, (_reason_not_followed(float64, native, name, unit) for name in names)), "")


def _is_same_along(float64: Objective, native: Objective, names: Sequence[str], sigma: float) -> bool:
    """Whether the loss changes alike in both precisions along one direction through some tensors.

    A tensor of which the copy is not read, or is rounded to float32 on the way, lacks its share of the change.
    """
    arrays = {name: float64.space.arrays[name] for name in names}
    sizes = {name: reductions.typical_size(array, 0.0) for name, array in arrays.items()}
    largest = max(sizes.values()) or 1.0
    rng = np.random.default_rng(0)
    lengths = {name: (sizes[name] or largest) * math.sqrt(array.size) for name, array in arrays.items()}
    parts = {name: Part(gaussian(array, rng), lengths[name]) for name, array in arrays.items()}
    direction = JointDirection(parts, sum(array.size for array in arrays.values()))

    def change(objective: Objective, amount: float) -> float:
        below, above = objective.evaluate_along([(direction, -amount), (direction, amount)], arrays).losses
        return objective.total(above - below)

    copied, live = change(float64, SHARED_MOVE), change(native, SHARED_MOVE)
    is_clear = abs(live) > CLEAR_CHANGE * sigma
    if not (is_clear and abs(copied - live) <= SAME_CHANGE * abs(live) + AGREEING * sigma):
        return False
    slopes = [change(float64, amount) / amount for amount in PROPORTIONAL_MOVES]
    return max(slopes) - min(slopes) <= SAME_CHANGE * abs(slopes[-1])


def _reason_not_followed(float64: Objective, native: Objective, name: str, unit: float) -> str:
    """Why the loss does not follow moves of one tensor that float32 would round away; "" if it does.

    It does if it changes in proportion to them, or by so little that a float32 loss would not change at all. If it does
    not change at all, larger moves must show that the live loss is as indifferent to the tensor. Of a tensor of zeros,
    the value of the loss does not show whether both precisions use it alike: larger moves must show that too.
    """
    value = abs(float64.total(float64()))
    quantum = float(np.spacing(np.float32(value)))
    rounding = max(4 * quantum, unit * value)
    changes = [(_change(float64, name, move), _change(float64, name, 2 * move)) for move in MOVES_BELOW_FLOAT32]
    if any(once and math.isclose(twice, 2 * once, rel_tol=1e-2) for once, twice in changes):
        is_alike = bool(float64.space.arrays[name].any()) or _responds_alike(float64, native, name, rounding)
        return "" if is_alike else NOT_ALIKE.format(name)
    if any(map(any, changes)):
        follows = any(0 < abs(change) < BELOW_FLOAT32 * quantum for pair in changes for change in pair)
    else:
        copied, live = _responses(float64, native, name)
        is_read = bool(copied) or not live
        follows = is_read and abs(copied) <= BELOW_FLOAT32 * quantum and abs(copied - live) <= rounding
    return "" if follows else NOT_FOLLOWED.format(name)


def _responds_alike(float64: Objective, native: Objective, name: str, rounding: float) -> bool:
    """Whether the first move of a tensor that shows above the rounding of the native loss changes both losses alike."""
    for move in MOVES_IN_FLOAT32:
        copied = _response(float64, name, move)
        if abs(copied) > CLEAR_RESPONSE * rounding:
            return math.isclose(copied, _response(native, name, move), rel_tol=SAME_RESPONSE, abs_tol=rounding)
    return True


def _change(objective: Objective, name: str, amount: float) -> float:
    """The change of the loss between two opposite moves of a tensor, each entry by up to a share `amount` of itself.

    They are made about a point that float32 holds, at some distance from the tensor, which may be at a minimum, or be
    zeros, about which float32 holds the smallest moves.
    """
    rng = np.random.default_rng(0)
    with objective.moving(name) as tensor:
        base = tensor.base
        offset = MAX_OFFSET * rng.uniform(0, 1, base.shape) * (base if base.any() else 1)
        point = (base + offset).astype(np.float32).astype(np.float64)
        move = np.where(np.isfinite(point), amount * point * rng.uniform(-1, 1, base.shape), 0)
        tensor.write(point + move)
        above = objective()
        tensor.write(point - move)
        return objective.total(above - objective())


def _responses(float64: Objective, native: Objective, name: str) -> tuple[float, float]:
    """The changes of the loss on float64 copies and of the live loss, for a move of a tensor that float32 shows.

    The move grows while only the live loss changes: where a normalisation removes a bias, that change is the rounding
    of float32, and a larger move shows the rounding of float64 too.
    """
    copied = live = 0.0
    for move in MOVES_IN_FLOAT32:
        copied, live = _response(float64, name, move), _response(native, name, move)
        if copied or not live:
            break
    return copied, live


def _response(objective: Objective, name: str, share: float) -> float:
    """The change of the loss when each entry of a tensor is moved by about a share of its size, zeros included."""
    rng = np.random.default_rng(0)
    before = objective()
    with objective.moving(name) as tensor:
        base = tensor.base
        size = np.abs(base) + reductions.typical_size(base, 1.0)
        tensor.write(base + share * size * rng.uniform(0.5, 1, base.shape))
        return objective.total(objective() - before)
