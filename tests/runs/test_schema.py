import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import MakeReport, MakeTensor

from gradguard import Alert, Entry, TensorReport, Verdict
from gradguard.runs.overview import overview
from gradguard.runs.schema import read_check, read_sweep
from gradguard.writers.record import History, packed, unpacked

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def test_a_record_comes_back_as_the_report_it_is_of(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """What the tab reads of a record is what it reads of the report itself."""
    report = make_report(7, make_tensor("W/\ud800", entries=(Entry((0, 1), 0.25, 0.2501, 1e-4),)), make_tensor("V"))
    record = read_check(unpacked(packed(History().record(report))))
    assert record is not None
    assert (record["began"], record["checks"]) == (7, 1)
    assert record["changes"] == {"W/\ud800": [(7, "ok")], "V": [(7, "ok")]}
    told = read_check(json.loads(json.dumps(report.to_dict())))
    assert told is not None
    for tensor in [*told["tensors"].values(), *record["tensors"].values()]:
        tensor["worst"] = []
    assert (record["right"], record["last"]) == ({"W/\ud800": 7, "V": 7}, [7])
    left = {"began": None, "checks": None, "changes": {}, "right": {}, "last": []}
    assert record | left == told


def test_a_log_from_before_a_field_is_read(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """The key of a cause, the labels of its factors and an alert's finding came later; without them they are empty."""
    alert = Alert(5, 40, "W", Verdict.scale, "step 5 W: BUG, scale; do this", "BUG, scale")
    tensor = make_tensor("W", cause="divides by T", cause_key="divided_by:T", factors=("`T`",))
    written = json.loads(json.dumps(make_report(5, tensor, alerts=(alert,)).to_dict()))
    check = read_check(written)
    assert check is not None
    assert (check["tensors"]["W"]["cause_key"], check["tensors"]["W"]["factors"]) == ("divided_by:T", ["`T`"])
    assert check["alerts"][0]["finding"] == "BUG, scale"
    del written["tensors"]["W"]["cause_key"], written["tensors"]["W"]["factors"], written["alerts"][0]["finding"]
    earlier = read_check(written)
    assert earlier is not None
    assert (earlier["tensors"]["W"]["cause_key"], earlier["tensors"]["W"]["factors"]) == ("", [])
    assert earlier["tensors"]["W"]["cause"] == "divides by T"
    assert (earlier["alerts"][0]["finding"], earlier["alerts"][0]["message"]) == ("", alert.message)


def test_a_log_without_dates_was_measured_at_its_checks(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """Versions without dates measured each tensor of a report; a tensor that was never measured has a date of None."""
    written = json.loads(json.dumps(make_report(5, make_tensor("W", measured_at=None, screened_at=3)).to_dict()))
    dated = read_check(written)
    assert dated is not None
    assert (dated["tensors"]["W"]["measured_at"], dated["tensors"]["W"]["screened_at"]) == (None, 3)
    del written["tensors"]["W"]["measured_at"], written["tensors"]["W"]["screened_at"], written["screened"]
    earlier = read_check(written)
    assert earlier is not None
    assert (earlier["tensors"]["W"]["measured_at"], earlier["tensors"]["W"]["screened_at"]) == (5, None)
    assert earlier["screened"] is None


@pytest.mark.parametrize(
    "given", [None, [], {}, {"step": "1", "tensors": {}}, {"step": True, "tensors": {}}, {"step": 1}]
)
def test_what_is_no_check_is_none(given: Any) -> None:
    """A check has a step and tensors."""
    assert read_check(given) is None


@given(JSON, JSON, JSON)
@settings(max_examples=300)
def test_any_json_can_be_shown(tensor: Any, alerts: Any, changes: Any) -> None:
    """Whatever stands in a record, an overview of it is made, and is strict JSON."""
    given = {"step": 3, "tensors": {"W": tensor, "V": {"verdict": tensor}}, "alerts": alerts, "changes": {"W": changes}}
    given |= {"right": changes, "last": alerts}
    check = read_check(given)
    assert check is not None
    json.dumps(overview([check]), allow_nan=False)


@given(JSON, st.lists(JSON, max_size=3), JSON)
@settings(max_examples=200)
def test_any_json_can_be_a_sweep(steps: Any, curve: list[Any], tensors: Any) -> None:
    """What is read of it is one number, or none, a step."""
    sweep = read_sweep({"steps": steps, "floor": curve, "tensors": {"W": tensors}, "best": curve[:1]})
    if sweep is not None:
        assert {len(sweep[name]) for name in ("steps", "floor", "noise")} == {len(steps)}
        json.dumps(overview([], sweep=sweep), allow_nan=False)


def test_every_field_broken_by_itself_leaves_the_others(make_report: MakeReport) -> None:
    """A field that is missing, or of another kind, is the only one that is lost."""
    whole = make_report(5).to_dict()
    for field in dataclasses.fields(TensorReport):
        for broken in (None, [], {}, "words", 10**400, [[None]], {"a": {"b": 1}}):
            changed = json.loads(json.dumps(whole)) | {"step": 5}
            changed["tensors"]["W"][field.name] = broken
            check = read_check(changed)
            assert check is not None
            assert check["tensors"]["V"] == read_check(whole)["tensors"]["V"]  # type: ignore[index]
            json.dumps(overview([check]), allow_nan=False)
