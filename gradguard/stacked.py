"""Whether a loss that is said to be batched is, and how many points one call of it should take."""

import time
from collections.abc import Callable

import numpy as np

from gradguard import blockwise
from gradguard.batched import Stack, at_most
from gradguard.loss import Objective, Question
from gradguard.parameters import Float64
from gradguard.probes import gaussian

COPIES = 3  # no size of a batch or a layer makes them up by chance: each is moved differently
FAR = 2.0**-6  # of a tensor, that the copies are moved by
SAME = 1e-3  # of what the moves change the loss by
TIMED = 64  # copies in the call whose time is taken
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


def _prove(objective: Objective, name: str, centre: Float64) -> None:
    array = objective.space.arrays[name]
    rng = np.random.default_rng(0)
    probes = [gaussian(array, rng) for _ in range(COPIES)]
    far = FAR * max(1.0, blockwise.norm(array))
    amounts = far * np.arange(1.0, COPIES + 1)[:, None]
    objective.at_once = 1
    question = Question(name, probes, amounts, array)
    alone = objective.answers([question])[0].losses[:, 0]
    objective.at_once = COPIES
    together = objective.answers([question])[0].losses[:, 0]
    if together.shape == alone.shape:
        moved = float(np.abs(alone - centre).max())
        rounded = 64 * float(np.finfo(objective.dtype).eps) * float(np.abs(centre).max())
        if np.allclose(together, alone, rtol=0, atol=SAME * moved + rounded, equal_nan=True):
            return
    raise ValueError(
        f"the loss is marked as batched, and with {COPIES} copies of {name!r} on a leading axis it returns "
        f"{_told(objective, together)}, where it returns {_told(objective, alone)} for each of them alone; expected "
        "the same losses: see which axis each operation of the forward pass acts on, or leave the mark away"
    )


def _told(objective: Objective, losses: Float64) -> str:
    return ", ".join(f"{loss:.6g}" for loss in objective.totals(losses))


def _faster(objective: Objective) -> int:
    """The most copies a call may take, if that makes a point cheaper."""
    name = next((name for name, array in objective.space.arrays.items() if array.size), None)
    if name is None:
        return 1
    rows = min(TIMED, at_most(objective.space.arrays))
    stack = Stack.of(objective.space.arrays, [name] * rows)
    together = min(_seconds(lambda: objective.of_stack(stack)) for _ in range(TIMES))
    alone = min(_seconds(objective) for _ in range(TIMES))
    return at_most(objective.space.arrays) if together < rows * alone else 1


def _seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
