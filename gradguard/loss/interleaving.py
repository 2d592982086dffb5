"""Searches that go on side by side: each asks for losses at some points, and all of them are answered in one go.

A search is a generator: it yields what it asks and is sent the answer, so that it reads as if it were alone. A loss
that takes many points at once is then called once for a round of all searches.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

from gradguard.loss.objective import LossRequest, LossValues, Objective

Result = TypeVar("Result")
Search = Generator[LossRequest, LossValues, Result]


def interleave(objective: Objective, searches: Sequence[Search[Result]]) -> list[Result]:
    """What each of some searches finds, in their order."""
    found: dict[int, Result] = {}
    answers: dict[int, LossValues | None] = dict.fromkeys(range(len(searches)))
    while answers:
        asked: dict[int, LossRequest] = {}
        for place, answer in answers.items():
            try:
                asked[place] = searches[place].send(answer)  # type: ignore[arg-type]  # a search begins with None
            except StopIteration as ended:
                found[place] = ended.value
        answered = objective.evaluate(list(asked.values())) if asked else []
        answers = dict(zip(asked, answered, strict=True))
    return [found[place] for place in range(len(searches))]


def alone(objective: Objective, search: Search[Result]) -> Result:
    """What one search finds."""
    (found,) = interleave(objective, [search])
    return found
