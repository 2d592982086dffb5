"""The record of a check in an event file: packed, bounded, and with the changes of all checks before it."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from reports import MakeReport, MakeTensor
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto

from gradguard import Entry, GradGuard, JSONLWriter, Report, Verdict
from gradguard.testing import LSTM, random_batch
from gradguard.writers import read_jsonl
from gradguard.writers.record import (
    MAX_CHANGES,
    MAX_ENTRIES,
    MAX_UNPACKED_BYTES,
    Completion,
    History,
    looked_at_anew,
    packed,
    unpacked,
)


def test_a_record_is_bounded_however_large_the_check(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Many tensors with many entries and long words make a record of some hundred kilobytes, not more."""
    entries = tuple(Entry((i, i), 1 / 3, 1 / 7, 1e-9 / 3) for i in range(300))
    tensors = [make_tensor(f"t{i}", entries=entries, explanation="x" * 10_000) for i in range(50)]
    data = packed(History().record(make_report(0, *tensors)))
    whole = unpacked(data)
    assert whole is not None
    assert len(data) < 400_000
    assert sum(len(tensor["entries"]) for tensor in whole["tensors"].values()) <= MAX_ENTRIES


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


def test_a_record_holds_what_its_check_looked_at(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """All of a tensor that was measured, and a few numbers of one that was screened, or that nobody looked at."""
    seen = [
        make_tensor("W", measured_at=20),
        make_tensor("V", measured_at=7, screened_at=20),
        make_tensor("b", measured_at=7),
    ]
    record = looked_at_anew(make_report(20, *seen))
    assert {"discrepancy", "floor", "ratios", "explanation"} <= record["tensors"]["W"].keys()
    for name in ("V", "b"):
        assert record["tensors"][name].keys().isdisjoint({"discrepancy", "floor", "entries", "explanation", "noise"})
        assert record["tensors"][name]["measured_at"] == 7
    assert record["tensors"]["V"]["ratio"] == seen[1].ratio


def test_two_hundred_screened_tensors_are_a_small_record(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """However much was measured of them before."""
    history = History()
    entries = tuple(Entry((i, i), 1 / 3, 1 / 7, 1e-9 / 3) for i in range(8))
    for step in range(100):
        tensors = [
            make_tensor(
                f"t{i}", entries=entries, measured_at=i if i <= step else 0, screened_at=step, ratio=1 + 1e-5 * i
            )
            for i in range(200)
        ]
        record = history.record(make_report(step, *tensors))
    assert len(packed(record)) < 20_000


def test_a_record_is_completed_from_the_check_that_measured(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The numbers of that check, the ratio of the latest screen, and the sentences of who said the verdict."""
    small = {
        "verdict": Verdict.inconclusive,
        "cause_key": "odd",
        "explanation": "too small",
        "cause": "so",
    }
    told = [
        make_report(0, make_tensor("W", discrepancy=1e-3)),
        make_report(1, make_tensor("W", measured_at=0, screened_at=1, ratio=1.5, **small)),
        make_report(2, make_tensor("W", measured_at=0, screened_at=2, ratio=1.25)),
        make_report(3, make_tensor("W", measured_at=2, screened_at=3, ratio=1.75)),
    ]
    completion = Completion()
    first, coarse, fine, lost = (completion.complete(looked_at_anew(report))["tensors"]["W"] for report in told)
    assert first["explanation"] == fine["explanation"] == told[0].tensors["W"].explanation
    assert (coarse["explanation"], coarse["verdict"]) == ("too small", "inconclusive")
    assert "cause" not in fine
    assert [tensor["discrepancy"] for tensor in (first, coarse, fine)] == [1e-3] * 3
    assert [tensor["ratio"] for tensor in (coarse, fine, lost)] == [1.5, 1.25, 1.75]
    assert "discrepancy" not in lost  # of a check whose record is missing


def test_a_record_of_any_bytes_is_read_back() -> None:
    """Whatever byte the compressed text ends with, on its way through a tensor of TensorBoard."""
    for i in range(600):
        record = {"step": i}
        assert unpacked(make_ndarray(make_tensor_proto(packed(record))).item()) == record


def test_a_record_that_claims_to_be_huge_is_none() -> None:
    """A few bytes may unpack to gigabytes; no more than a record can have is unpacked."""
    zeros = zlib.compress(b"[" + b" " * (MAX_UNPACKED_BYTES + 1000) + b"]")
    assert unpacked(zeros) is None


def test_a_training_is_read_back_as_it_was_reported(tmp_path: Path) -> None:
    """Line by line, what was screened and what was measured, up to the digits of screens, and with all sentences."""
    network = LSTM(5, 3, 4, seed=0)
    batch = random_batch(6, 2, inputs=5, outputs=4)
    params = network.params | {"tiny": np.full(2, 1e-9)}

    def loss() -> float:
        return float(network.loss(batch)) + 1e-12 * float(np.sin(params["tiny"]).sum())

    reports = list[Report]()
    with GradGuard(
        params, loss, every_n_steps=1, max_overhead=None, writers=[JSONLWriter(tmp_path / "log.jsonl")]
    ) as guard:
        for step in range(8):
            _, grads = network.loss_and_grads(batch)
            wrong = {"V": grads["V"] * np.float32(2)} if step >= 5 else {}
            report = guard.after_backward(step, grads | {"tiny": 1e-12 * np.cos(params["tiny"])} | wrong)
            reports += [report] if report is not None else []
    for read, report in zip(read_jsonl(tmp_path / "log.jsonl"), reports, strict=True):
        for name, tensor in report.to_dict()["tensors"].items():
            for key in (
                "verdict",
                "cause",
                "cause_key",
                "explanation",
                "discrepancy",
                "entries",
                "measured_at",
                "shape",
            ):
                if tensor["measured_at"] is not None or key != "discrepancy":
                    assert read["tensors"][name][key] == tensor[key], (report.step, name, key)
            expected = None if tensor["ratio"] is None else pytest.approx(tensor["ratio"], rel=1e-5)
            assert read["tensors"][name]["ratio"] == expected
