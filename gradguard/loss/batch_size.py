"""Whether a loss is batched, as its mark says or as a trial shows, and how many points one call of it should take."""

import time
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from gradguard.arrays import Float64, reductions
from gradguard.loss.attempts import try_twice
from gradguard.loss.batching import FIXED_COUNTS
from gradguard.loss.objective import LossRequest, Objective
from gradguard.perturbation import gaussian

PROOF_COPIES = 3  # each moved differently, so that no axis of a batch or a layer of that length passes for the copies
PROOF_MOVE = 2.0**-6  # length of the first copy's move in norms of the tensor; the others are multiples of it
PROOF_TOLERANCE = 1e-3  # of what the moves change the loss by
TIMED_COPIES = 64  # in the call that is timed, for a loss that is not marked
# Copies in the call timed before it, and in the one that is timed for a marked loss. If the former are no faster, the
# loss is slow, and so is the longer call.
PILOT_COPIES, TIMED_OF_MARKED = FIXED_COUNTS
MIN_SPEEDUP = 1.5  # for a loss that is not marked: less is not worth the memory
MAX_PILOT_SECONDS = 0.5  # that the timed copies may take one by one, for a loss that is not marked
MIN_TIMED_COPIES = 4  # within that time; a slower loss is not tried
ORDER_ROUNDING = 64  # unit roundoffs by which losses computed in another order may differ
TIMINGS = 2  # of each call; the shortest counts, since the machine may be busy
COMPILED = 4.0  # times as long as the next call: then the first call with some number of copies compiles the loss
COMPILE_SECONDS = 0.02  # that compiling takes at least: the first call of a small loss may be slow for other reasons
NEW_COUNTS = 2  # numbers of copies that are tried where the loss may have been compiled for those that are timed


def proven_batch_size(objective: Objective, centre: Float64) -> int:
    """How many points one call should take of a loss that is marked as batched: one if more are no faster.

    Args:
        objective: The marked loss; from now on its calls are padded if it is compiled anew for each number of copies.
        centre: The unreduced losses at the unperturbed parameters, shape (m,).

    Raises:
        ValueError: The loss is not batched; the message names the tensor whose copies have other losses than it has
            alone.
    """
    size, compiled = _fast_batch_size(objective, TIMED_OF_MARKED)
    objective.pads = size > 1 and (compiled or _compiles(objective))
    for name, array in objective.space.arrays.items():
        if array.size:
            _prove(objective, name, centre)
    return min(size, objective.copy_factory.max_copies())


def tried_batch_size(objective: Objective, centre: Float64, is_late: Callable[[], bool]) -> int:
    """How many points one call should take of a loss that is not marked: one if it is not proven in time.

    Args:
        objective: The loss.
        centre: The unreduced losses at the unperturbed parameters, shape (m,).
        is_late: Whether to stop trying.
    """

    # What depends on the time is asked once: where a trial raises, it must raise again when it is repeated.
    @cache
    def affordable_copies() -> int:
        return int(MAX_PILOT_SECONDS / _seconds(objective))

    @cache
    def is_faster() -> bool:
        return _fast_batch_size(objective, min(TIMED_COPIES, affordable_copies()), MIN_SPEEDUP)[0] > 1

    @cache
    def is_too_late_for(_name: str) -> bool:
        return is_late()

    def try_batches() -> int:
        names = [name for name, array in objective.space.arrays.items() if array.size]
        if affordable_copies() < MIN_TIMED_COPIES or not names:
            return 1
        # The space knows after one call how much memory a copy takes, and so how many copies there is room for.
        objective.evaluate_copies(objective.copy_factory.copies(names[:1] * 2))
        if not is_faster():
            return 1
        for name in names:
            if is_too_late_for(name):
                return 1
            _prove(objective, name, centre)
        return objective.copy_factory.max_copies()

    size = try_twice(try_batches)
    objective.at_once = 1
    return size if isinstance(size, int) else 1


def rechecked_batch_size(objective: Objective, name: str, centre: Float64, at_once: int) -> int:
    """As many points as an earlier check found, if two copies of a tensor still have the loss of one; else one.

    Args:
        objective: The loss, perhaps on another batch.
        name: The tensor.
        centre: The unreduced losses at the unperturbed parameters, shape (m,).
        at_once: What the earlier check found.
    """
    if at_once < 2 or not objective.space.arrays[name].size:
        return 1
    losses = try_twice(lambda: objective.evaluate_copies(objective.copy_factory.copies([name] * 2)))
    if isinstance(losses, Exception) or losses.shape != (2, centre.size):
        return 1
    is_same = np.allclose(losses, centre, rtol=0, atol=_order_rounding(objective, centre), equal_nan=True)
    return max(1, min(at_once, objective.copy_factory.max_copies())) if is_same else 1


def _prove(objective: Objective, name: str, centre: Float64) -> None:
    """Compare the losses of moved copies of a tensor in one call with those in separate calls.

    Raises:
        ValueError: They differ.
    """
    array = objective.space.arrays[name]
    rng = np.random.default_rng(0)
    probes = [gaussian(array, rng) for _ in range(PROOF_COPIES)]
    step = PROOF_MOVE * max(1.0, reductions.norm_of_finite(array))
    request = LossRequest(name, probes, step * np.arange(1.0, PROOF_COPIES + 1)[:, None], array)
    objective.at_once = 1
    separate = objective.evaluate([request])[0].losses[:, 0]
    objective.at_once = PROOF_COPIES
    batched = objective.evaluate([request])[0].losses[:, 0]
    if batched.shape == separate.shape:
        tolerance = PROOF_TOLERANCE * float(np.abs(separate - centre).max()) + _order_rounding(objective, centre)
        if np.allclose(batched, separate, rtol=0, atol=tolerance, equal_nan=True):
            return
    raise ValueError(
        f"the loss is marked as batched; for {PROOF_COPIES} copies of {name!r} on a leading axis it returns "
        f"{_listed(objective, batched)}, and for each copy alone {_listed(objective, separate)}; expected the same.\n"
        "Check which axis each operation of the forward pass acts on, or remove the mark"
    )


def _listed(objective: Objective, losses: Float64) -> str:
    return ", ".join(f"{loss:.6g}" for loss in objective.totals(losses))


def _order_rounding(objective: Objective, centre: Float64) -> float:
    """How far rounding may move losses that are computed in another order."""
    return ORDER_ROUNDING * float(np.finfo(objective.dtype).eps) * float(np.abs(centre).max())


def _fast_batch_size(objective: Objective, timed: int, min_speedup: float = 1.0) -> tuple[int, bool]:
    """The most copies that one call may take, if a call with several copies is faster than as many calls; else 1.

    With it comes whether each number of copies was compiled: the first call with it took much longer than the next.

    Args:
        objective: The loss.
        timed: Copies in the longest call that is timed, at most.
        min_speedup: By what factor that call must be faster.
    """
    name = _first_name(objective)
    if name is None:
        return 1, False
    most = min(timed, objective.copy_factory.max_copies())
    separate = min(_seconds(objective) for _ in range(TIMINGS))
    compiled = True
    for count, speedup in ((min(PILOT_COPIES, most), 1.0), (most, min_speedup)):
        copies = objective.copy_factory.copies([name] * count)
        times = [_seconds(partial(objective.evaluate_copies, copies)) for _ in range(TIMINGS)]
        if min(times) * speedup >= count * separate:
            return 1, False
        compiled &= times[0] > max(COMPILED * min(times), COMPILE_SECONDS)
    return objective.copy_factory.max_copies(), compiled


def _compiles(objective: Objective) -> bool:
    """Whether calls with further numbers of copies take much longer than the call that was timed.

    They are drawn anew each time: an earlier check may have called the same loss with the usual numbers.
    """
    name = _first_name(objective)
    counts = np.arange(PILOT_COPIES + 1, min(TIMED_OF_MARKED, objective.copy_factory.max_copies()))
    if name is None or not counts.size:
        return False
    usual = _seconds(partial(objective.evaluate_copies, objective.copy_factory.copies([name] * (counts[-1] + 1))))
    drawn = np.random.default_rng().choice(counts, min(NEW_COUNTS, counts.size), replace=False)
    stacks = (objective.copy_factory.copies([name] * count) for count in drawn)
    limit = max(COMPILED * usual, COMPILE_SECONDS)
    return all(_seconds(partial(objective.evaluate_copies, stack)) > limit for stack in stacks)


def _first_name(objective: Objective) -> str | None:
    """The first tensor that has entries."""
    return next((name for name, array in objective.space.arrays.items() if array.size), None)


def _seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
