"""Whether the loss on float64 copies of the parameters is the same loss, in float64."""

import math
from collections import OrderedDict, UserDict
from collections.abc import Callable

import numpy as np

from gradguard.arrays import reductions
from gradguard.loss.attempts import attempted
from gradguard.loss.objective import Objective

PROVEN = 4  # tensors at least that float64 is proven for
UNSEEN_BY_FLOAT32 = (2.0**-30, 2.0**-27)  # relative moves that float32 parameters round away, also twice as far
SEEN_BY_FLOAT32 = (2.0**-10, 2.0**-5, 1.0, 4.0, 16.0)
ASIDE = 2.0**-6
FINER = 1e-3  # of a float32 quantum, which no float32 loss can change by


def swaps(mapping: object) -> bool:
    """Whether a mapping is known to hold the very arrays assigned to it: others may copy, and are not tried."""
    known = (dict.__setitem__, OrderedDict.__setitem__, UserDict.__setitem__)
    return getattr(type(mapping), "__setitem__", None) in known


def why_not_exact(
    shadow: Objective, native: Objective, expected: float, same: float, is_late: Callable[[], bool]
) -> str:
    """Why the loss on float64 copies is not the same loss in float64; "" when it is proven to be.

    Proof: it has the native loss's value up to a share `same`, and along moves too small for float32 it changes in
    proportion.
    """
    refusal = attempted(lambda: _refusal(shadow, native, expected, same, is_late))
    if isinstance(refusal, Exception):
        return f"on float64 copies of the parameters the loss raises {type(refusal).__name__}: {refusal}"
    return refusal


def _refusal(shadow: Objective, native: Objective, expected: float, same: float, is_late: Callable[[], bool]) -> str:
    losses = shadow()
    value, largest = shadow.total(losses), float(np.abs(losses).max())
    if not abs(value - expected) <= same * max(abs(expected), largest) + 1e-6:
        return f"on float64 copies of the parameters the loss is {value:.6g}, and {expected:.6g} on the live ones"
    names = [name for name, array in shadow.space.arrays.items() if array.size]
    for count, name in enumerate(names):
        if count >= PROVEN and is_late():
            break
        if not _is_proportional(shadow, native, name):
            return f"the loss does not follow moves of {name!r} that float32 would round away"
    return ""


def _is_proportional(shadow: Objective, native: Objective, name: str) -> bool:
    """Whether the loss follows moves of one tensor that float32 would round away.

    It changes in proportion to them, or by so little that a float32 loss would not have changed. Where it does not
    change at all, larger moves must show it to be as indifferent to the live tensor. A tensor of zeros proves nothing
    else: float32 holds the smallest moves of it.
    """
    quantum = float(np.spacing(np.float32(abs(shadow.total(shadow())))))
    changes = [(_change(shadow, name, move), _change(shadow, name, 2 * move)) for move in UNSEEN_BY_FLOAT32]
    if any(once and math.isclose(twice, 2 * once, rel_tol=1e-2) for once, twice in changes):
        return True
    if any(map(any, changes)):
        return any(0 < abs(change) < FINER * quantum for pair in changes for change in pair)
    seen, live = _responses(shadow, native, name)
    rounds = shadow.space.arrays[name].any() and abs(seen) > FINER * quantum
    is_read = bool(seen) or not live
    return is_read and not rounds and math.isclose(seen, live, rel_tol=0.1, abs_tol=4 * quantum)


def _change(objective: Objective, name: str, amount: float) -> float:
    """The change of the loss between two opposite moves of a tensor, each entry by up to a share `amount` of itself.

    They are about a point that float32 holds, some way from where the tensor is: that may be a minimum.
    """
    rng = np.random.default_rng(0)
    with objective.moving(name) as place:
        base = place.base
        point = (base * rng.uniform(1, 1 + ASIDE, base.shape)).astype(np.float32).astype(np.float64)
        offset = np.where(np.isfinite(point), amount * point * rng.uniform(-1, 1, base.shape), 0)
        place.write(point + offset)
        above = objective()
        place.write(point - offset)
        return objective.total(above - objective())


def _responses(shadow: Objective, native: Objective, name: str) -> tuple[float, float]:
    """The changes of the loss on float64 copies and of the live one when a tensor is moved as far as float32 can see.

    It is moved further where only the live one changes: of a bias that a normalisation takes away again, that is the
    rounding of float32, and that of float64 shows sooner or later.
    """
    seen = live = 0.0
    for share in SEEN_BY_FLOAT32:
        seen, live = _response(shadow, name, share), _response(native, name, share)
        if seen or not live:
            break
    return seen, live


def _response(objective: Objective, name: str, share: float) -> float:
    """The change of the loss when each entry of a tensor is moved by about a share of itself, from 0 too."""
    rng = np.random.default_rng(0)
    before = objective()
    with objective.moving(name) as place:
        base = place.base
        place.write(
            base + share * (np.abs(base) + reductions.typical_size(base, 1.0)) * rng.uniform(0.5, 1, base.shape)
        )
        return objective.total(objective() - before)
