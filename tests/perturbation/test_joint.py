"""Directions through several tensors at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard import batched
from gradguard.arrays.types import Array
from gradguard.loss.objective import Objective
from gradguard.perturbation.directions import aligned, gaussian
from gradguard.perturbation.joint import MAX_KEPT_ENTRIES, MAX_MOVED_BYTES, JointDirection, Part, groups_to_move
from gradguard.perturbation.rollback import Rollback
from gradguard.perturbation.snapshots import combined_snapshot
from gradguard.perturbation.spaces import Float64Copies, InPlace, NativeCopies, PerturbedArray

SHAPES: dict[str, tuple[int, ...]] = {"W": (4, 3), "b": (3,), "scale": ()}


def tensors(seed: int, dtype: str = "f4") -> dict[str, Array]:
    """Some tensors of different sizes."""
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in SHAPES.items()}


def through(gradients: Mapping[str, Array], seed: int, entries: int | None = None) -> JointDirection:
    """A direction through all tensors: one part is aligned, the others Gaussian, of different lengths and signs."""
    rng = np.random.default_rng(seed)
    parts = {
        name: Part(
            (aligned if name == "b" else gaussian)(gradient, rng), float(rng.choice([-1, 1]) * rng.uniform(1, 9))
        )
        for name, gradient in gradients.items()
    }
    return JointDirection(parts, sum(g.size for g in gradients.values()) if entries is None else entries)


@given(seed=st.integers(0, 10_000), dtype=st.sampled_from(["f2", "f4", "f8"]), amount=st.floats(-0.1, 0.1))
def test_a_joint_move_is_the_sum_of_single_ones(seed: int, dtype: str, amount: float) -> None:
    """Each tensor is moved as it would be by itself, bit for bit; the shares and the displacement are theirs."""
    bases, gradients = tensors(seed, dtype), tensors(seed + 1, "f8")
    direction = through(gradients, seed)
    places = {name: PerturbedArray(base.copy(), base) for name, base in bases.items()}
    along, shares = direction.displace(places, amount, gradients)
    total = 0.0
    for share, (name, part) in zip(shares, direction.parts.items(), strict=True):
        alone = PerturbedArray(bases[name].copy(), bases[name])
        moved, predicted = part.direction.displace(alone, amount * part.length, gradients[name])
        assert places[name].array.tobytes() == alone.array.tobytes()
        assert share == pytest.approx(predicted, rel=1e-12)
        total += part.length * moved
    norm = np.sqrt(sum(part.length**2 for part in direction.parts.values()))
    assert direction.length == pytest.approx(norm)
    assert along == pytest.approx(total / norm, rel=1e-12, abs=1e-300)


def test_a_joint_displacement_is_a_length() -> None:
    """In float64, where rounding is no matter, it is the amount times the length of the direction."""
    bases = tensors(0, "f8")
    direction = through(bases, 1)
    places = {name: PerturbedArray(base.copy(), base) for name, base in bases.items()}
    along, shares = direction.displace(places, 1e-3, bases)
    moved = np.sqrt(sum(np.sum((place.array - bases[name]) ** 2) for name, place in places.items()))
    assert along == pytest.approx(1e-3 * direction.length) == pytest.approx(moved)
    predicted = [np.sum((place.array - bases[name]) * bases[name]) for name, place in places.items()]
    assert shares == pytest.approx(predicted)


def test_a_large_direction_is_drawn_again_and_is_the_same() -> None:
    """Vectors of a large model are not kept from point to point, and the points lie on one line all the same."""
    bases = tensors(0, "f8")
    kept, released = (through(bases, 1, entries) for entries in (MAX_KEPT_ENTRIES, MAX_KEPT_ENTRIES + 1))
    places = {name: PerturbedArray(base.copy(), base) for name, base in bases.items()}
    for amount in (0.1, -0.2):
        along, shares = kept.displace(places, amount, bases)
        again, same = released.displace(places, amount, bases)
        assert along == again
        assert shares.tolist() == same.tolist()


class StopError(Exception):
    """Something goes wrong inside the loss."""


def points_of(params: Mapping[str, Array]) -> list[tuple[JointDirection, float]]:
    """Four points along a direction through all tensors."""
    direction = through(params, 3)
    return [(direction, amount) for amount in (-2e-3, -1e-3, 1e-3, 2e-3)]


@pytest.mark.parametrize("space", [InPlace, NativeCopies, Float64Copies])
@pytest.mark.parametrize("last_call", [1, 3])
def test_everything_is_put_back_where_the_loss_raises(space: Any, last_call: int) -> None:
    """All tensors are moved then, and each is as it was, bit for bit, and the same object."""
    params = tensors(5)
    before, objects, calls = {name: array.tobytes() for name, array in params.items()}, dict(params), []

    def loss() -> float:
        calls.append(1)
        if len(calls) == last_call:
            raise StopError
        return float(sum(array.sum() for array in params.values()))

    made = space(params, params) if space is Float64Copies else space(params)
    state = Rollback(params, combined_snapshot(None))
    objective = Objective(loss, made, None, state.restore, state.undo_log)
    with pytest.raises(StopError):
        state.run(lambda: objective.evaluate_along(points_of(tensors(6)), params))
    assert {name: array.tobytes() for name, array in params.items()} == before
    assert all(params[name] is array for name, array in objects.items())
    assert len(calls) == last_call + (last_call > 1)  # a call at moved points is tried twice


@pytest.mark.parametrize("takes", [False, True])
def test_nothing_stays_moved_after_the_points(takes: bool) -> None:
    """The loss sees all tensors moved at once, and the parameters are as they were when it is over."""
    params, seen = tensors(7), list[bool]()
    before = {name: array.copy() for name, array in params.items()}

    def note(given: Mapping[str, Array]) -> float:
        seen.append(all(not np.array_equal(given[name], array) for name, array in before.items()))
        return 0.0

    space = NativeCopies(params) if takes else InPlace(params)
    objective = Objective(note if takes else lambda: note(params), space, None, lambda: None)
    objective.evaluate_along(points_of(params), params)
    assert seen == [True] * 4
    assert objective.evaluations == 4
    assert all(params[name].tobytes() == array.tobytes() for name, array in before.items())


@pytest.mark.parametrize("at_once", [2, 3, 4, 512])
@pytest.mark.parametrize("form", ["scalar", "unreduced"])
def test_many_points_in_one_call_are_the_points_one_by_one(at_once: int, form: str) -> None:
    """A loss that takes copies gives the same values, of the same displacements, in as few calls as possible."""
    params, calls = tensors(8), list[int]()

    def loss(given: Mapping[str, Array]) -> Array:
        calls.append(len(given["scale"]) if given["scale"].ndim else 1)
        losses: Array = np.tanh(given["W"]).sum(axis=-1) * given["scale"][..., None] + given["b"].sum(-1)[..., None]
        return losses if form == "unreduced" else losses[..., 0]

    found = []
    for count in (1, at_once):
        objective = Objective(batched(loss), NativeCopies(params), "sum" if form == "unreduced" else None, lambda: None)
        objective.at_once = count
        found.append(objective.evaluate_along(points_of(params), params))
        assert objective.evaluations == 4
    alone, together = found
    assert calls[:4] == [1] * 4
    assert calls[4:] == {2: [2, 2], 3: [3, 1], 4: [4], 512: [4]}[at_once]
    assert together.losses.shape == (4, 4 if form == "unreduced" else 1)
    assert np.array_equal(alone.losses, together.losses)
    assert np.array_equal(alone.displacements, together.displacements)
    assert np.array_equal(alone.predicted, together.predicted)


def spread(*millions: float) -> dict[str, Array]:
    """Tensors of so many million entries in float32, in no memory to speak of."""
    return {f"w{i}": np.broadcast_to(np.float32(1), int(1e6 * count)) for i, count in enumerate(millions)}


def test_a_model_is_moved_as_a_whole_where_its_copy_fits() -> None:
    """Tensors without entries are left out: nothing of them can be moved."""
    arrays = {**spread(1, 2), "none": np.empty((0, 3), np.float32), "last": np.ones(2, np.float32)}
    assert groups_to_move(arrays) == [("w0", "w1", "last")]
    assert groups_to_move({"none": np.empty(0, np.float32)}) == []
    assert groups_to_move({}) == []


def test_a_large_model_is_moved_in_groups_of_neighbours() -> None:
    """No copy is larger than the bound, unless one tensor is; each tensor is in one group, in order."""
    arrays = spread(100, 100, 100, 600, 10, 10)
    groups = groups_to_move(arrays)
    assert groups == [("w0", "w1"), ("w2",), ("w3",), ("w4", "w5")]
    for group in groups:
        assert len(group) == 1 or sum(arrays[name].nbytes for name in group) <= MAX_MOVED_BYTES
