"""One check's bench: the loss, the tensors and their gradients, proven fit to be measured."""

import math
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from gradguard import blockwise
from gradguard.attempts import attempted
from gradguard.batched import Batched
from gradguard.differences import FourPoint, measuring
from gradguard.loss import Loss, Objective, Reduction, takes_parameters
from gradguard.noise import Noise, listening, unit_roundoff
from gradguard.parameters import (
    Array,
    Copied,
    Copying,
    Float64,
    Imaginary,
    InPlace,
    Movable,
    Shadow,
    Space,
    typical_size_among,
)
from gradguard.probes import Probe
from gradguard.rounding import BACKPROP_ROUNDING, SATURATED_ROUNDING, SHARPEST, Rounding
from gradguard.side_by_side import Search, alone, side_by_side
from gradguard.stacked import proven_at_once, still_at_once, tried_at_once
from gradguard.steps import Steps
from gradguard.undisturbed import Held, HeldCopying, Undisturbed

Precision = Literal["native", "float64", "auto"]
START = {"native": 1e-3, "float64": 1e-4}  # the first step, in typical sizes of the tensor
LONGEST = 4.0  # the last step, in typical sizes: a network is saturated long before
ROUNDOFFS_OF_A_STEP = 64  # in the shortest one
FLOAT32_UNIT = 2.0**-24
LARGEST_ROUNDOFF = 1e-3
PROVEN = 4  # tensors at least that float64 is proven for
LISTENED = 4  # tensors along which the native noise is measured
UNSEEN_BY_FLOAT32 = (2.0**-30, 2.0**-27)  # relative moves that float32 parameters round away, also twice as far
SEEN_BY_FLOAT32 = (2.0**-10, 2.0**-5, 1.0, 4.0, 16.0)
ASIDE = 2.0**-6
SAME = 1e-3  # relative distance between one loss in two precisions
SAME_IN_ROUNDOFFS = 8  # of the coarser one, where that is more
FINER = 1e-3  # of a float32 quantum, which no float32 loss can change by
COMPLEX_STEP = 1e-20  # in typical sizes of a tensor: its square is nothing beside 1
TANGENT = 2.0**-60  # in typical sizes: a derivative is in proportion to it, and zeros are moved to one side by it


def require_precision(precision: str) -> Precision:
    """The precision, if it is one.

    Raises:
        ValueError: it is not; the message lists the valid ones.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; expected 'native', 'float64' or 'auto'")
    return precision  # type: ignore[return-value]  # just compared with the literal's values


@dataclass(frozen=True, slots=True)
class Size:
    """How large a tensor and its gradient are.

    Attributes:
        typical: The root mean square of the tensor; 0 for zeros.
        largest: The largest |g|.
        norm: ||g||.
    """

    typical: float
    largest: float
    norm: float

    @classmethod
    def of(cls, array: Array, gradient: Array) -> "Size":
        """The sizes of one tensor."""
        largest = blockwise.largest(gradient)
        return cls(blockwise.typical_size(array, 0.0), largest, blockwise.norm(gradient, largest))

    @property
    def passing(self) -> float:
        """How much of the loss passes through the tensor: what is rounded on its way to the gradient."""
        return self.largest * (self.typical or 1.0)


@dataclass(frozen=True, slots=True)
class Proven:
    """What the first check has found out of the loss, and what later ones take over.

    Attributes:
        precision: The one that takes.
        unit: The unit roundoff of what the gradients are computed with.
        noise: sigma of the loss in native precision.
        sizes: Of each tensor, when last looked at.
        at_once: How many points one call of the loss takes.
    """

    precision: str
    unit: float
    noise: float
    sizes: Mapping[str, Size]
    at_once: int = 1


@dataclass(frozen=True, slots=True)
class Derivative:
    """The exact derivative of a loss that carries tangents along.

    Attributes:
        objective: It stands in for the loss; what is moved are tangents of the tensors.
        step: How far they are, in typical sizes.
    """

    objective: Objective
    step: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What a check measures with.

    Attributes:
        objective: The loss in the precision chosen.
        arrays: The tensors as the user has them.
        gradients: Their gradients.
        sizes: Of all tensors, those that this check is about as they are now.
        centre: The unreduced losses at the unperturbed parameters.
        unit: The unit roundoff of what the gradients were computed with.
        noise: sigma of the loss in native precision; 0 where it did not move.
        derivative: Makes the derivative of the loss, of which one call takes so many points too; None where it has no
            exact one. Only where float64 was proven.
    """

    objective: Objective
    arrays: Mapping[str, Array]
    gradients: Mapping[str, Array]
    sizes: Mapping[str, Size]
    centre: Float64
    unit: float
    noise: float = 0.0
    derivative: Callable[[int], Derivative | None] | None = None

    @property
    def loss(self) -> float:
        """The loss at the unperturbed parameters."""
        return self.objective.total(self.centre)

    @property
    def roundoff(self) -> float:
        """The relative rounding of a backward pass: a unit roundoff, or the loss's own noise where that is larger.

        A loss that is the small difference of large numbers has a gradient that is, too.
        """
        relative = self.noise / abs(self.loss) if self.loss else LARGEST_ROUNDOFF
        return min(max(self.unit, relative), LARGEST_ROUNDOFF)

    def measure(self, name: str, probes: Sequence[Probe], steps: Float64) -> FourPoint:
        """Four-point differences of one tensor along some probes."""
        return alone(self.objective, self.measuring(name, probes, steps))

    def measuring(self, name: str, probes: Sequence[Probe], steps: Float64) -> Search[FourPoint]:
        """The same as a part of a search."""
        return measuring(self.objective, name, self.gradients[name], probes, steps, self.centre)

    def rounding_of_entry(self, name: str) -> Rounding:
        """Backprop's own rounding error of one entry: some roundoffs of the largest, and what cancels."""
        return self._rounding(name, self.sizes[name].largest)

    def rounding_of_direction(self, name: str) -> Rounding:
        """Backprop's own rounding error along a unit vector: some roundoffs of the norm, and what cancels."""
        return self._rounding(name, self.sizes[name].norm)

    def _rounding(self, name: str, derivative: float) -> Rounding:
        """The rounding of the gradient as it is, and what is left of large contributions to it that cancel.

        What passes through the layers is rounded at the size it has there, in units of this tensor; near a minimum it
        cancels. It is no rounder than the loss that it makes up, unless that loss is near 0 and hides its noise. Large
        parameters saturate units, and the slopes of these cancel the more. In float64, where differences have no noise
        to speak of, what the loss's own rounding in native precision leaves comes on top.
        """
        typical = self.sizes[name].typical or 1.0
        passing = max(size.passing for size in self.sizes.values())
        sharp = min(max(1.0, typical), SHARPEST)
        saturated = min(SATURATED_ROUNDING * sharp**2 * self.unit, BACKPROP_ROUNDING * LARGEST_ROUNDOFF)
        relative = math.hypot(BACKPROP_ROUNDING * self.roundoff, saturated)
        left = self.roundoff * passing
        if self.roundoff < LARGEST_ROUNDOFF:
            left = max(self.unit * passing, min(left, self.noise))
        is_native = self.objective.space.precision == "native"
        forward = 0.0 if is_native else max(self.noise, min(self.unit, FLOAT32_UNIT) * abs(self.loss))
        own = math.hypot(relative * derivative, BACKPROP_ROUNDING * left / typical)
        return Rounding.of(own, forward / typical)

    def steps_of_entries(self, name: str) -> Steps:
        """The steps to take along an entry: at first a thousandth of the typical one, at last some times that."""
        return self._steps(name, 1.0)

    def steps_of_directions(self, name: str) -> Steps:
        """The steps to take along a unit vector: at last some times the whole tensor."""
        return self._steps(name, math.sqrt(self.arrays[name].size))

    def typical(self, name: str) -> float:
        """The size that steps are measured in: of a tensor of zeros, that of the others."""
        return self.sizes[name].typical or typical_size_among(self.arrays[name], self.arrays)

    def _steps(self, name: str, extent: float) -> Steps:
        typical = self.typical(name)
        shortest = ROUNDOFFS_OF_A_STEP * self.objective.space.spacing(name)
        longest = max(shortest, LONGEST * extent * typical)
        return Steps(START[self.objective.space.precision] * typical, shortest, longest)

    @contextmanager
    def nudged(self, amount: float, seed: int) -> Iterator["Bench"]:
        """The same bench where every parameter is moved, at random, by a share `amount` of itself."""
        rng = np.random.default_rng(seed)
        with ExitStack() as moves:
            for name in self.arrays:
                place = moves.enter_context(self.objective.space.moving(name))
                place.put(place.base * (1 + amount * rng.standard_normal(place.base.shape)))
            yield replace(self, centre=self.objective())

    @property
    def proven(self) -> "Proven":
        """What a later check need not find out again."""
        objective = self.objective
        return Proven(objective.space.precision, self.unit, self.noise, self.sizes, objective.at_once)

    def repeats(self, times: int = 1) -> bool:
        """Whether the loss at the unperturbed parameters is, bit for bit, what it was, so many times in a row."""
        return all(np.array_equal(self.objective(), self.centre, equal_nan=True) for _ in range(times))


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked, as the user gave it, before it is decided in which precision.

    Attributes:
        params: The mapping of the parameters itself.
        arrays: Its live arrays.
        loss: `loss()` or `loss(params)`.
        reduction: Which scalar the gradient is of, when the loss returns an array.
        state: Their gradients, and what must be put back.
        kept: Float64 copies, from check to check.
    """

    params: Mapping[str, object]
    arrays: Mapping[str, Array]
    loss: Loss
    reduction: Reduction | None
    state: Undisturbed
    kept: dict[str, Array] = field(default_factory=dict)

    def bench(self, precision: Precision, is_late: Callable[[], bool] = lambda: False) -> Bench:
        """The bench in the precision asked for; with "auto", float64 where it proves to take, else native.

        Args:
            precision: What the user asked for.
            is_late: Whether to look at no more tensors for what those of one loss have in common.

        Raises:
            ValueError: float64 was asked for by name and does not take; the message says what was tried.
        """
        bench = self._chosen(precision, is_late)
        if isinstance(bench.objective.copying, HeldCopying):
            bench.objective.at_once = tried_at_once(bench.objective, bench.centre, is_late)
        return bench

    def _chosen(self, precision: Precision, is_late: Callable[[], bool]) -> Bench:
        native = self._objective(self._native())
        bench = self._open(native, Proven("native", self._unit(), 0.0, {}), list(self.arrays))
        if not np.isfinite(bench.centre).all():
            return bench
        if isinstance(self.loss, Batched):
            native.at_once = proven_at_once(native, bench.centre)
        noise, dtype = self._heard(native, bench.centre, is_late)
        bench = replace(bench, noise=noise, unit=max(bench.unit, min(unit_roundoff(dtype), FLOAT32_UNIT)))
        if precision == "native":
            return bench
        shadow, refusal = self._proven(native, bench, is_late)
        if shadow is not None:
            shadow.evaluations += native.evaluations
            shadow.at_once = native.at_once
            return replace(bench, objective=shadow, centre=shadow(), derivative=self._derivative)
        if precision == "float64":
            raise ValueError(f"precision='float64' does not take: {refusal}; use precision='auto' or 'native'")
        return bench

    def reopened(self, proven: Proven, names: Sequence[str]) -> Bench:
        """The bench for some of the tensors, in the precision that an earlier check has proven."""
        objective = self._objective(self._native() if proven.precision == "native" else self._shadow())
        bench = self._open(objective, proven, names)
        if isinstance(self.loss, Batched):
            objective.at_once = proven.at_once
        else:
            objective.at_once = still_at_once(objective, names[0], bench.centre, proven.at_once)
        return bench

    def _open(self, objective: Objective, proven: Proven, names: Sequence[str]) -> Bench:
        gradients = self.state.gradients
        sizes = {**proven.sizes, **{name: Size.of(self.arrays[name], gradients[name]) for name in names}}
        derivative = self._derivative if objective.space.precision == "float64" else None
        return Bench(objective, self.arrays, gradients, sizes, objective(), proven.unit, proven.noise, derivative)

    def _heard(self, native: Objective, centre: Float64, is_late: Callable[[], bool]) -> tuple[float, np.dtype[Any]]:
        """The largest sigma along a few of the tensors, or those there is time for, and the finest dtype there."""
        names = [name for name, array in self.arrays.items() if array.size]
        chosen = names[:: -(-len(names) // LISTENED) or 1]
        heard = side_by_side(native, [_listening(native, name, centre) for name in chosen[:1]])
        if not is_late():
            heard += side_by_side(native, [_listening(native, name, centre) for name in chosen[1:]])
        sigma = max((noise.sigma for noise in heard if not noise.is_deaf), default=0.0)
        return sigma, max((noise.dtype for noise in heard), key=lambda dtype: dtype.itemsize, default=native.dtype)

    def _objective(self, space: Space, loss: Loss | None = None) -> Objective:
        moves = self.state.moves
        copying = HeldCopying(space, moves) if isinstance(space, Copying) else None
        return Objective(loss or self.loss, Held(space, moves), self.reduction, self.state.restore, copying)

    def _derivative(self, at_once: int) -> Derivative | None:
        """That of the loss, as it is on float64 copies; None where it is known to have none."""
        if isinstance(self.params, Movable):
            tangents = self.params.tangents()
            if tangents is None:
                return None
            objective = self._objective(tangents)
            objective.at_once = at_once if isinstance(tangents, Copying) else 1
            return Derivative(objective, TANGENT)
        loss: Callable[..., Any] = self.loss
        part = (lambda params: np.imag(loss(params))) if takes_parameters(loss) else (lambda: np.imag(loss()))
        return Derivative(self._objective(Imaginary(self.arrays, self._stood_in_for), part), COMPLEX_STEP)

    def _unit(self) -> float:
        if isinstance(self.params, Movable):
            return self.params.unit
        return max(unit_roundoff(array.dtype) for array in (*self.arrays.values(), *self.state.gradients.values()))

    def _native(self) -> Space:
        if isinstance(self.params, Movable):
            return self.params.native()
        return Copied(self.arrays) if takes_parameters(self.loss) else InPlace(self.arrays)

    def _shadow(self) -> Space:
        if isinstance(self.params, Movable):
            return self.params.shadow()
        return Shadow(self.arrays, self._stood_in_for, self.kept)

    @property
    def _stood_in_for(self) -> MutableMapping[str, Any] | None:
        """The mapping in which copies must stand for the live arrays, where the loss is not handed them."""
        reads = not takes_parameters(self.loss) and isinstance(self.params, MutableMapping)
        return self.params if reads else None  # type: ignore[return-value]  # just asked

    def _proven(self, native: Objective, bench: Bench, is_late: Callable[[], bool]) -> tuple[Objective | None, str]:
        """The loss on float64 copies where it is proven to be the same loss in float64, else the reason."""
        if not takes_parameters(self.loss) and not isinstance(self.params, Movable) and not _swaps(self.params):
            return None, (
                f"loss() reads the live arrays, and params is a {type(self.params).__name__}, whose entries cannot be "
                "swapped or may be copied; expected a dict, or loss(params)"
            )
        shadow = self._objective(self._shadow())
        refusal = _why_not_exact(shadow, native, bench.loss, max(SAME, SAME_IN_ROUNDOFFS * bench.unit), is_late)
        native.evaluations += shadow.evaluations
        shadow.evaluations = 0
        if refusal:
            self.kept.clear()
            return None, refusal
        return shadow, ""


def _listening(native: Objective, name: str, centre: Float64) -> Search[Noise]:
    return listening(native, name, centre, np.random.default_rng(0))


def _swaps(mapping: object) -> bool:
    """Whether a mapping is known to hold the very arrays assigned to it: others may copy, and are not tried."""
    known = (dict.__setitem__, OrderedDict.__setitem__, UserDict.__setitem__)
    return getattr(type(mapping), "__setitem__", None) in known


def _why_not_exact(
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
    with objective.space.moving(name) as place:
        base = place.base
        point = (base * rng.uniform(1, 1 + ASIDE, base.shape)).astype(np.float32).astype(np.float64)
        offset = np.where(np.isfinite(point), amount * point * rng.uniform(-1, 1, base.shape), 0)
        place.put(point + offset)
        above = objective()
        place.put(point - offset)
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
    with objective.space.moving(name) as place:
        base = place.base
        place.put(base + share * (np.abs(base) + blockwise.typical_size(base, 1.0)) * rng.uniform(0.5, 1, base.shape))
        return objective.total(objective() - before)
