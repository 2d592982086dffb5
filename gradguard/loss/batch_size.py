"""Whether a loss is batched, as is said of it or hoped, and how many points one call of it should take."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from gradguard.arrays import reductions
from gradguard.arrays.types import Float64
from gradguard.loss.attempts import attempted
from gradguard.loss.objective import LossRequest, Objective
from gradguard.perturbation.directions import gaussian

COPIES = 3  # no size of a batch or a layer makes them up by chance: each is moved differently
FAR = 2.0**-6  # of a tensor, that the copies are moved by
SAME = 1e-3  # of what the moves change the loss by
TIMED = 64  # copies in the call whose time is taken
FEW = 8  # copies in the call before it: where they are no faster, the loss is slow, and so many would be, too
WORTH = 1.5  # times faster, from which it is worth the memory where nobody asked for it
LONGEST = 0.5  # seconds that the copies may take one by one that are timed there
LEAST = 4  # copies that are worth to be timed
ROUNDED = 64  # unit roundoffs of a loss
TIMES = 2  # that each is taken: the machine may have been busy


def proven_at_once(objective: Objective, centre: Float64) -> int:
    """How many points to evaluate in one call: one where that is no slower.

    Args:
        objective: Of a loss that is marked as batched.
        centre: The unreduced losses at the unperturbed parameters.

    Raises:
        ValueError: it is not batched; the message names the tensor whose copies do not make a difference of their own.
    """
    for name, array in objective.space.arrays.items():
        if array.size:
            _prove(objective, name, centre)
    return _faster(objective)


def tried_at_once(objective: Objective, centre: Float64, is_late: Callable[[], bool]) -> int:
    """The same of a loss that nobody said to be batched: one where it is not, and where that is not proven in time."""

    def tried() -> int:
        rows = int(LONGEST / _seconds(objective))
        names = [name for name, array in objective.space.arrays.items() if array.size]
        if rows < LEAST or not names:
            return 1
        objective.of_stack(objective.copying.copies(names[:1] * 2))  # how many more it may take is known after one call
        if _faster(objective, rows, WORTH) == 1:
            return 1
        for name in names:
            if is_late():
                return 1
            _prove(objective, name, centre)
        return objective.copying.max_copies()

    found = attempted(tried)
    objective.at_once = 1
    return found if isinstance(found, int) else 1


def still_at_once(objective: Objective, name: str, centre: Float64, at_once: int) -> int:
    """As many as were found before, if two copies of a tensor, on another batch, still have the losses of one."""
    count = 2 if at_once > 1 and objective.space.arrays[name].size else 1
    losses = attempted(lambda: objective.of_stack(objective.copying.copies([name] * count))) if count > 1 else centre
    if isinstance(losses, Exception) or losses.shape != (count, centre.size):
        return 1
    same = np.allclose(losses, centre, rtol=0, atol=_rounded(objective, centre), equal_nan=True)
    return max(1, min(at_once, objective.copying.max_copies())) if same else 1


def _prove(objective: Objective, name: str, centre: Float64) -> None:
    array = objective.space.arrays[name]
    rng = np.random.default_rng(0)
    probes = [gaussian(array, rng) for _ in range(COPIES)]
    far = FAR * max(1.0, reductions.norm_of_finite(array))
    amounts = far * np.arange(1.0, COPIES + 1)[:, None]
    objective.at_once = 1
    request = LossRequest(name, probes, amounts, array)
    alone = objective.evaluate([request])[0].losses[:, 0]
    objective.at_once = COPIES
    together = objective.evaluate([request])[0].losses[:, 0]
    if together.shape == alone.shape:
        moved = float(np.abs(alone - centre).max())
        if np.allclose(together, alone, rtol=0, atol=SAME * moved + _rounded(objective, centre), equal_nan=True):
            return
    raise ValueError(
        f"the loss is marked as batched, and with {COPIES} copies of {name!r} on a leading axis it returns "
        f"{_told(objective, together)}, where it returns {_told(objective, alone)} for each of them alone; expected "
        "the same losses: see which axis each operation of the forward pass acts on, or leave the mark away"
    )


def _told(objective: Objective, losses: Float64) -> str:
    return ", ".join(f"{loss:.6g}" for loss in objective.totals(losses))


def _rounded(objective: Objective, centre: Float64) -> float:
    """How far rounding may have moved losses that are computed in another order."""
    return ROUNDED * float(np.finfo(objective.dtype).eps) * float(np.abs(centre).max())


def _faster(objective: Objective, timed: int = TIMED, worth: float = 1.0) -> int:
    """The most copies a call may take, if `timed` of them are faster so, by a factor `worth` at least."""
    name = next((name for name, array in objective.space.arrays.items() if array.size), None)
    if name is None:
        return 1
    most = min(TIMED, timed, objective.copying.max_copies())
    alone = min(_seconds(objective) for _ in range(TIMES))
    for rows, gain in ((min(FEW, most), 1.0), (most, worth)):
        stack = objective.copying.copies([name] * rows)
        together = min(_seconds(partial(objective.of_stack, stack)) for _ in range(TIMES))
        if together * gain >= rows * alone:
            return 1
    return objective.copying.max_copies()


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
