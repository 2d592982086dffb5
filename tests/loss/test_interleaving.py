from collections.abc import Mapping, Sequence

import numpy as np

from gradguard.arrays.types import Array
from gradguard.loss.batching import Batched
from gradguard.loss.interleaving import Search, interleave, run_search
from gradguard.loss.objective import LossRequest, Objective
from gradguard.perturbation.directions import EntryProbe
from gradguard.perturbation.spaces import NativeCopies

ARRAYS = {"v": np.arange(4.0), "w": np.ones(3)}


def objective(at_once: int, calls: list[int]) -> Objective:
    """Of the sum of squares of both tensors, which notes how many points each call takes."""

    def loss(params: Mapping[str, Array]) -> Array:
        calls.append(len(params["v"]) if params["v"].ndim > 1 else 1)
        return (params["v"] ** 2).sum(axis=-1) + (params["w"] ** 2).sum(axis=-1)

    made = Objective(Batched(loss), NativeCopies(ARRAYS), None, lambda: None)
    made.at_once = at_once
    return made


def descent(name: str, amounts: Sequence[float]) -> Search[list[float]]:
    """Moves the first entry of a tensor by each amount, in a question of its own, and notes the losses."""
    losses = []
    for amount in amounts:
        answer = yield LossRequest(name, [EntryProbe((0,))], np.array([[amount, 2 * amount]]), np.zeros(4))
        losses += answer.losses.reshape(-1).tolist()
    return losses


def test_searches_go_on_in_the_same_calls_and_find_what_each_finds_alone() -> None:
    """Of different tensors, and however long each goes on; in no call are more points than it may take."""
    plans = {"v": [1.0, 2.0, 3.0], "w": [5.0]}
    expected = [run_search(objective(1, []), descent(name, amounts)) for name, amounts in plans.items()]
    for at_once, called in ((1, [1] * 8), (4, [4, 2, 2]), (3, [3, 1, 2, 2])):
        calls: list[int] = []
        found = interleave(objective(at_once, calls), [descent(name, amounts) for name, amounts in plans.items()])
        assert found == expected
        assert calls == called


def test_a_search_that_asks_nothing_finds_what_it_knew() -> None:
    """And none at all is no question either."""
    calls: list[int] = []
    assert interleave(objective(4, calls), [descent("v", []), descent("w", [])]) == [[], []]
    assert interleave(objective(4, calls), []) == []
    assert not calls
