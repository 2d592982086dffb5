"""Searches that run side by side: the losses that all of them ask for are evaluated together.

A search is a generator: it yields a request and is sent the values, so that it reads as if it ran alone. A batched loss
then needs one call for a round of all searches.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

from gradguard.loss.objective import LossRequest, LossValues, Objective

Result = TypeVar("Result")
Search = Generator[LossRequest, LossValues, Result]


def interleave(objective: Objective, searches: Sequence[Search[Result]]) -> list[Result]:
    """Run some searches side by side; returns the result of each, in their order."""
    results: dict[int, Result] = {}
    values: dict[int, LossValues | None] = dict.fromkeys(range(len(searches)))
    while values:
        requests: dict[int, LossRequest] = {}
        for i, value in values.items():
            try:
                requests[i] = searches[i].send(value)  # type: ignore[arg-type]  # a generator is started with None
            except StopIteration as ended:
                results[i] = ended.value
        evaluated = objective.evaluate(list(requests.values())) if requests else []
        values = dict(zip(requests, evaluated, strict=True))
    return [results[i] for i in range(len(searches))]


def run_search(objective: Objective, search: Search[Result]) -> Result:
    """The result of one search."""
    (result,) = interleave(objective, [search])
    return result
