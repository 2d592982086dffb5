"""The record of a check in an event file: packed, bounded, and with the changes of all checks before it."""

import json

import pytest
from reports import MakeReport, MakeTensor

from gradguard import Entry, Verdict
from gradguard.writers.record import MAX_CHANGES, MAX_ENTRIES, History, packed, unpacked


def test_a_record_is_bounded_however_large_the_check(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Many tensors with many entries and long words make a record of some hundred kilobytes, not more."""
    entries = tuple(Entry((i, i), 1 / 3, 1 / 7, 1e-9 / 3) for i in range(300))
    tensors = [make_tensor(f"t{i}", entries=entries, explanation="x" * 10_000) for i in range(50)]
    data = packed(History().record(make_report(0, *tensors)))
    assert len(data) < 400_000
    assert sum(len(tensor["entries"]) for tensor in json.loads(data)["tensors"].values()) <= MAX_ENTRIES


def test_changes_are_kept_from_check_to_check(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The last record alone tells when each verdict changed, and how many checks there were."""
    history = History()
    for step in range(10):
        tensor = make_tensor("W", verdict=Verdict.ok if step < 6 else Verdict.scale)
        record = history.record(make_report(step, tensor, make_tensor("V")))
    assert record["changes"] == {"W": [(0, "ok"), (6, "scale")], "V": [(0, "ok")]}
    assert (record["began"], record["checks"]) == (0, 10)


def test_a_training_that_is_set_back_takes_its_changes_back(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """What came after the step that it goes on from never happened."""
    history = History()
    for step, verdict in ((0, Verdict.ok), (10, Verdict.scale), (20, Verdict.scale), (5, Verdict.ok), (10, Verdict.ok)):
        record = history.record(make_report(step, make_tensor("W", verdict=verdict)))
    assert record["changes"] == {"W": [(0, "ok")]}


def test_a_record_tells_when_each_tensor_was_found_right(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Not where its verdict is one of an earlier check; and which checks were the last."""
    history = History()
    history.record(make_report(0, make_tensor("W"), make_tensor("V")))
    for step in (10, 20, 30):
        seen = make_tensor("W", measured_at=0, screened_at=step), make_tensor("V", measured_at=0)
        record = history.record(make_report(step, *seen))
    assert record["right"] == {"W": 30, "V": 0}
    assert record["last"] == [10, 20, 30]
    again = history.record(make_report(10, make_tensor("W", verdict=Verdict.scale), make_tensor("V", measured_at=0)))
    assert again["right"] == {"V": 0}
    assert again["last"] == [10]


def test_a_verdict_of_an_earlier_check_is_no_change(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Whatever is said of a tensor that nobody has looked at since."""
    history = History()
    history.record(make_report(0, make_tensor("W")))
    record = history.record(make_report(10, make_tensor("W", verdict=Verdict.clipped, measured_at=0)))
    assert record["changes"] == {"W": [(0, "ok")]}


def test_a_verdict_that_never_rests_keeps_its_latest_changes(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The list does not grow without end."""
    history = History()
    for step in range(3 * MAX_CHANGES):
        verdict = (Verdict.ok, Verdict.float_precision)[step % 2]
        record = history.record(make_report(step, make_tensor("W", verdict=verdict)))
    assert len(record["changes"]["W"]) == MAX_CHANGES
    assert record["changes"]["W"][-1][0] == 3 * MAX_CHANGES - 1


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"nan", b"[" * 100_000])
def test_what_is_no_record_is_none(data: bytes) -> None:
    """Whatever stands there, reading it raises nothing."""
    assert unpacked(data) is None
