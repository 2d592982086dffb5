"""What the last checks of a run leave open."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import pytest
from reports import MakeReport, MakeTensor

from gradguard import Verdict
from gradguard.runs.schema import read_check
from gradguard.runs.story import Story, story_of
from gradguard.tensorboard_plugin.page import thinned
from gradguard.writers.record import History, Record

# Of a tensor at a check: whether it was screened ("s"), measured ("m") or neither ("-"), or what stands in its place.
Tell: TypeAlias = Callable[[Mapping[str, Sequence[str]]], list[Record]]

SUSPECTED = {"verdict": Verdict.inconclusive, "cause_key": "suspected", "measured_at": None}
UNSCREENED = {"verdict": Verdict.inconclusive, "cause_key": "unscreened", "measured_at": None}
DECLARED = {"verdict": Verdict.expected, "expected": "on purpose"}
AGREES = {"verdict": Verdict.ok, "expected": "on purpose"}
NOT_FINITE = {"verdict": Verdict.inconclusive, "cause_key": "loss_not_finite", "measured_at": None}


@pytest.fixture
def records(make_report: MakeReport, make_tensor: MakeTensor) -> Tell:
    """The records of a run by what each check did to each tensor, 100 steps apart; the first measured all."""

    def build(looks: Mapping[str, Sequence[str]]) -> list[Record]:
        history, told = History(), []
        dates: dict[str, dict[str, int]] = {name: {} for name in looks}
        for i, row in enumerate(zip(*looks.values(), strict=True)):
            tensors = []
            for name, look in zip(looks, row, strict=True):
                dates[name] |= {"m": {"measured_at": 100 * i}, "s": {"screened_at": 100 * i}}.get(look, {})
                declared = {"e": DECLARED, "a": AGREES}.get(look, {})
                instead = {"?": SUSPECTED, "0": UNSCREENED, "n": NOT_FINITE}.get(look)
                unclear = {"verdict": Verdict.inconclusive, "measured_at": 100 * i} if look == "u" else {}
                tensors.append(
                    make_tensor(name, **(instead or {"measured_at": None} | dates[name] | unclear | declared))
                )
            told.append(read_check(history.record(make_report(100 * i, *tensors))))
        return [one for one in told if one is not None]

    return build


@pytest.mark.parametrize(
    ("looks", "headline", "status"),
    [
        ({"W": "ssss", "V": "meee"}, "No bug in 2 tensors: V differs as declared", 0),
        ({"W": "ssss", "V": "maaa"}, "No bug in 2 tensors", 0),
        ({"W": "s---", "V": "meee"}, "1 of 2 tensors was not checked in the last 3 checks (W)", 2),
        ({"W": "ms", "V": "mm"}, "No bug in 2 tensors", 0),
        ({"W": "mssss", "V": "mss--"}, "No bug in 2 tensors", 0),
        ({"W": "mssss", "V": "ms---"}, "1 of 2 tensors was not checked in the last 3 checks (V)", 2),
        ({"W": "m---", "V": "m---"}, "2 of 2 tensors were not checked in the last 3 checks (W and V)", 2),
        ({"W": "ssss", "V": "0000"}, "1 of 2 tensors was not checked in the last 3 checks (V)", 2),
        ({"W": "mss?", "V": "msss"}, "the last check suspects W and had no time to examine it", 2),
        ({"W": "mssu", "V": "msss"}, "No bug in 2 tensors", 0),
        ({"W": "msuuu", "V": "mssss"}, "the last 3 checks could not judge W", 2),
        ({"W": "mnnn", "V": "mnnn"}, "the last 3 checks could not judge any tensor", 2),
        ({"W": "uuu", "V": "mss"}, "no check could judge W", 2),
        ({"W": "?"}, "the last check suspects W", 2),
    ],
)
def test_a_run_is_right_only_of_what_the_last_checks_found_right(
    looks: dict[str, str], headline: str, status: int, records: Tell
) -> None:
    """What nobody looked at, what is suspected and what could not be judged is named; then it cannot be told."""
    story = story_of(records(looks))
    assert headline in story.headline
    assert story.state.status == status


def test_it_says_how_to_look_at_more(records: Tell) -> None:
    """Where time is what the checks lacked, and not where it is not."""
    assert "max_overhead" in story_of(records({"W": "m---"})).advice
    assert "every_n_steps" in story_of(records({"W": "ms?"})).advice
    assert story_of(records({"W": "muuu"})).advice == ""


def test_a_bug_is_told_with_what_else_is_open(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The status is that of the bug; a tensor that is wrong is not in doubt, whenever it was looked at last."""
    wrong = make_tensor("W", verdict=Verdict.scale, measured_at=0)
    checks = [
        read_check(make_report(step, wrong, make_tensor("V", measured_at=0)).to_dict()) for step in (0, 10, 20, 30)
    ]
    story = story_of([check for check in checks if check is not None])
    assert story.state.status == 1
    assert story.headline == "BUG: scale in W, from the first check on (step 0)"
    assert story.doubts == ("1 of 2 tensors was not checked in the last 3 checks (V)",)


def test_a_sample_of_the_checks_tells_the_same(records: Tell) -> None:
    """The last record alone tells when each tensor was found right; so does a page of some checks."""

    def told(some: Sequence[Record]) -> tuple[str, int]:
        story: Story = story_of(some)
        return story.headline, story.state.status

    for looks in (
        {"W": "ms" + "s" * 800, "V": "mu" + "s" * 798 + "u-"},
        {"W": "ms" + "s" * 800, "V": "ms" * 400 + "--"},
    ):
        whole = records(looks)
        assert told(whole[::200] + whole[-1:]) == told(whole) == told(thinned(whole))
    assert told(whole)[1] == 0
