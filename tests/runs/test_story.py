from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from reports import MakeReport, MakeTensor

from gradguard import Verdict
from gradguard.runs.schema import read_check
from gradguard.runs.story import State, Story, story_of
from gradguard.writers.record import History, Record

Tell: TypeAlias = Callable[..., Story]

OK, SCALE, UNCLEAR, EXPLAINED, EXPECTED = "ok", "scale", "inconclusive", "float_precision", "expected"


@pytest.fixture
def records(make_report: MakeReport, make_tensor: MakeTensor) -> Callable[..., list[Record]]:
    """The records of a run: of each tensor, its verdict at each check, 100 steps apart."""

    def build(**verdicts: Sequence[str]) -> list[Record]:
        history, told = History(), []
        for i, row in enumerate(zip(*verdicts.values(), strict=True)):
            tensors = [make_tensor(name, verdict=Verdict(one)) for name, one in zip(verdicts, row, strict=True)]
            told.append(read_check(history.record(make_report(100 * i, *tensors))))
        return [one for one in told if one is not None]

    return build


@pytest.mark.parametrize(
    ("verdicts", "state", "headline"),
    [
        (
            {"W": [OK] * 3},
            "fine",
            "No bug in 1 tensor: rounding and truncation account for every difference measured in 3 checks, steps 0 to",
        ),
        ({"W": [OK]}, "fine", "account for every difference measured in the check at step 0"),
        ({"W": [SCALE] * 2, "V": [OK] * 2}, "bug", "BUG: scale in W, from the first check on (step 0)"),
        ({"W": [OK, OK, SCALE], "V": [OK, OK, SCALE]}, "bug", "BUG: scale in W and V, since step 200"),
        (
            {"W": [OK, SCALE, SCALE], "V": [OK, OK, "sign"]},
            "bug",
            "scale in W, since step 100; sign in V, since step 200",
        ),
        ({"W": [OK, SCALE, UNCLEAR]}, "bug", "BUG: scale in W, since step 100"),
        ({"W": [OK, SCALE, OK]}, "recovered", "an earlier one: scale in W, from step 100, right again at step 200"),
        ({"W": [EXPECTED]}, "fine", "No bug in 1 tensor: W differs as declared in the check at step 0"),
        (
            {"W": [EXPECTED] * 3, "V": [OK] * 3},
            "fine",
            "W differs as declared, and rounding and truncation account for every other difference measured in 3",
        ),
        ({"W": [SCALE, EXPECTED]}, "recovered", "scale in W, from step 0, right again at step 100"),
        ({"W": [UNCLEAR] * 2}, "unclear", "Cannot tell: no check could judge any tensor"),
        ({"W": [UNCLEAR] * 2, "V": [OK] * 2}, "unclear", "Cannot tell: no check could judge W"),
        ({"W": [EXPLAINED, UNCLEAR]}, "fine", "No bug"),
    ],
)
def test_a_run_is_told_in_a_sentence(
    verdicts: dict[str, list[str]], state: str, headline: str, records: Callable[..., list[Record]]
) -> None:
    """What is wrong, where, since when; a check that cannot tell ends nothing and spoils nothing."""
    story = story_of(records(**verdicts))
    assert story.state == state
    assert headline in story.headline


def test_nothing_has_no_story() -> None:
    """No checks: that is said, and cannot be told."""
    assert story_of([]).state is State.empty
    assert story_of([]).state.status == 2


def test_a_sample_tells_the_same_story(records: Callable[..., list[Record]]) -> None:
    """However few checks TensorBoard kept, the last one knows when the verdict moved, and how many there were."""
    whole = records(W=[OK] * 50 + [SCALE] * 50, V=[OK] * 100)
    sampled = [whole[3], whole[80], whole[-1]]
    assert story_of(sampled).headline == story_of(whole).headline == "BUG: scale in W, since step 5000"
    assert story_of(sampled).checks == story_of(whole).checks == 100
    assert story_of(sampled).first == 0


def test_it_tells_when_it_was_fine_and_when_it_moved(records: Callable[..., list[Record]]) -> None:
    """The moments of a run, those of several tensors together."""
    story = story_of(records(W=[OK, SCALE, OK], V=[OK, SCALE, OK], c=[UNCLEAR, OK, OK]))
    assert story.moments == (
        (0, "fine", ("W", "V")),
        (100, "BUG: scale", ("W", "V")),
        (100, "fine", ("c",)),
        (200, "fine again", ("W", "V")),
    )


def test_a_tensor_wrong_from_the_start_was_never_fine_before(records: Callable[..., list[Record]]) -> None:
    """Its first good check is when it was fine again."""
    story = story_of(records(W=[SCALE, OK]))
    assert [what for _, what, _ in story.moments] == ["BUG: scale", "fine again"]


def test_many_names_are_counted(records: Callable[..., list[Record]]) -> None:
    """A sentence stays one that can be read, and no name in it moves a cursor."""
    story = story_of(records(**{f"layer{i}\x1b": [SCALE] for i in range(9)}))
    assert "and 4 more" in story.headline
    assert story.headline.isprintable()
    assert len(story.findings[0].tensors) == 9
