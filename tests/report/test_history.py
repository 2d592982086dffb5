"""What a guard keeps in memory of the checks of a long training."""

import pickle
import tracemalloc

import pytest
from reports import MakeReport, MakeTensor

from gradguard import Verdict
from gradguard.report import CheckHistory, history

WRONG = range(40, 43)


@pytest.fixture
def long(make_report: MakeReport, make_tensor: MakeTensor, monkeypatch: pytest.MonkeyPatch) -> CheckHistory:
    """A history of 5000 checks, of which a few early ones were wrong, with room for 200 rows."""
    monkeypatch.setattr(history, "MAX_ROWS", 200)
    kept = CheckHistory()
    for step in range(5000):
        verdict = Verdict.scale if step in WRONG else Verdict.ok
        kept.add(make_report(step, make_tensor("W", verdict=verdict, ratio=step), make_tensor("V")), ())
        assert len(kept) <= 200
    return kept


def test_a_long_history_keeps_its_latest_rows_and_its_changes(long: CheckHistory) -> None:
    """The first row, where a tensor went wrong and where it was right again, and the latest rows without a gap."""
    steps = [row.step for row in long]
    assert {0, WRONG.start, WRONG.stop} <= set(steps)
    assert steps == sorted(set(steps))
    assert steps[-90:] == list(range(4910, 5000))
    assert [row.step for row in long if row.is_change] == [0, WRONG.start, WRONG.stop]
    assert all(row.ratios["W"] == row.step for row in long)


def test_a_history_of_changes_only_is_bounded_too(
    make_report: MakeReport, make_tensor: MakeTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor that is wrong at every second check."""
    monkeypatch.setattr(history, "MAX_ROWS", 50)
    kept = CheckHistory()
    for step in range(1000):
        kept.add(make_report(step, make_tensor("W", verdict=(Verdict.ok, Verdict.scale)[step % 2])), ())
    assert len(kept) <= 50
    assert kept[-1].step == 999


def test_many_tensors_take_few_megabytes(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Ten thousand checks of 400 tensors: fewer rows, and below 60 megabytes."""
    report = make_report(0, *(make_tensor(f"t{i}") for i in range(400)))
    tracemalloc.start()
    kept = CheckHistory()
    for _ in range(10_000):
        kept.add(report, ())
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) <= 5_000
    assert size < 60e6


def test_rows_are_flat_records(long: CheckHistory) -> None:
    """As `pandas.DataFrame` takes them: a dict of numbers and texts for each row."""
    records = long.to_records()
    assert len(records) == len(long)
    assert records[-1] == {
        "step": 4999,
        "verdict": "ok",
        "evaluations": 64,
        "seconds": 0.5,
        "alarms": "",
        "verdict/W": "ok",
        "verdict/V": "ok",
        "ratio/W": 4999,
        "ratio/V": 1.0001,
    }


def test_a_history_is_a_sequence_that_can_be_pickled(long: CheckHistory) -> None:
    """Of rows whose columns are mappings."""
    copy = pickle.loads(pickle.dumps(long))  # noqa: S301 - our own bytes
    assert [row.step for row in copy[-2:]] == [4998, 4999]
    assert dict(copy[-1].verdicts) == dict(long[-1].verdicts) == {"W": Verdict.ok, "V": Verdict.ok}
    assert next(reversed(long)) is long[-1]
