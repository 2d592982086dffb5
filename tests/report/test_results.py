import dataclasses
import html
import json
import math
import pickle
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from reports import MakeReport, MakeTensor

from gradguard import Entry, Report, TensorReport, Verdict, check, diagnose, gates
from gradguard.testing import faulty, random_batch


@pytest.fixture(scope="module")
def report() -> Report:
    """A real check that found a factor in three tensors, the second of them with named gates, and two correct ones."""
    model, batch = faulty("timesteps")(3, 2, 3), random_batch(8, 2, inputs=3, outputs=3)
    _, grads = model.loss_and_grads(batch)
    blocks = {"Wh": gates("ifog", axis=1)}
    return check(model.params, grads, lambda: model.loss(batch), constants={"timesteps": 8}, blocks=blocks)


@pytest.fixture(scope="module")
def broken() -> Report:
    """A real check of a gradient with a nan: hardly a number in it is finite."""
    weights = {"w": np.ones(2)}
    return check(weights, {"w": np.array([np.nan, 1.0])}, lambda: float(np.sin(weights["w"]).sum()))


def test_a_report_has_what_the_contract_names(report: Report) -> None:
    """The public fields of report, tensor and block are there under their names."""
    fields = {field.name for field in dataclasses.fields(report)}
    assert fields >= {"step", "verdict", "tensors", "precision", "evaluations", "seconds", "explanation"}
    tensor = {field.name for field in dataclasses.fields(TensorReport)}
    assert tensor >= {"name", "verdict", "cause", "explanation", "discrepancy", "floor", "ratio", "ratio_error"}
    assert tensor >= {"sign_agreement", "resolvable", "sampled", "blocks", "worst"}
    assert list(report.tensors) == ["Wx", "Wh", "b", "V", "c"]
    assert all(tensor.name == name for name, tensor in report.tensors.items())
    assert [*report.tensors["Wh"].blocks] == [*"ifog"]


def test_the_table_has_a_row_a_tensor_and_ends_with_the_sentence(report: Report) -> None:
    """Bugs are marked, the cause stands below its row behind an arrow, and the columns are aligned."""
    lines = str(report).splitlines()
    assert lines[-2] == report.explanation
    assert lines[-1] == f"{report.screened} of 5 tensors screened, 5 measured"
    rows = [line for line in lines if line.startswith("step 0  ")]
    assert [row.split()[2] for row in rows] == [*report.tensors]
    for row, tensor in zip(rows, report.tensors.values(), strict=True):
        assert row.endswith(tensor.explanation)
        assert ("BUG: scale" in row) == (tensor.name in {"Wx", "Wh", "b"})
    causes = [line for line in lines if line.strip().startswith("->")]
    assert len(causes) == 3
    assert len({len(line) - len(line.lstrip()) for line in causes}) == 1
    assert len({row.index(tensor.explanation) for row, tensor in zip(rows, report.tensors.values(), strict=True)}) == 1


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        ("ok ok", "step 300: ok, 2 tensors"),
        ("ok float_precision", "step 300: float precision, 2 tensors"),
        ("scale sign ok kink scale", "step 300: BUG in T0, T1 and T4 (scale, sign)"),
        ("ok inconclusive", "step 300: cannot tell for T1 (inconclusive)"),
        ("other_loss", "step 300: cannot tell for T0 (other loss)"),
        (" ".join(["missing"] * 500), "step 300: BUG in T0, T1, T2, T3, T4, T5, T6, T7 and 492 more (missing)"),
    ],
)
def test_a_report_fits_beside_a_progress_bar(
    verdicts: str, says: str, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """One short line: the step, and what is wrong or unclear, however many tensors there are."""
    tensors = [make_tensor(f"T{i}", verdict=Verdict(name)) for i, name in enumerate(verdicts.split())]
    gravest = max(tensors, key=lambda tensor: tensor.verdict.level).verdict
    assert make_report(300, *tensors, verdict=gravest).summary == says


def test_a_verdict_is_printed_in_words(report: Report) -> None:
    """`float_precision` reads as two words, and is no bug."""
    tensor = dataclasses.replace(report.tensors["V"], verdict=Verdict.float_precision)
    text = str(dataclasses.replace(report, tensors={"V": tensor}))
    assert "V  float precision  " in text
    assert "BUG" not in text.splitlines()[0]


@pytest.mark.parametrize(
    ("dates", "says"),
    [
        ({"measured_at": 1000}, "MEASURED"),
        ({"measured_at": 1000, "screened_at": 1000}, "MEASURED"),
        ({"measured_at": None, "screened_at": 1000}, "MEASURED"),
        (
            {"measured_at": 900, "screened_at": 1000},
            "screened; smallest detectable scale error: 0.2 %; d = 3.1e-05 at step 900",
        ),
        ({"measured_at": 900}, "not checked since; d = 3.1e-05 at step 900"),
        (
            {"measured_at": 800, "screened_at": 900},
            "not checked since it was screened at step 900; smallest detectable scale error: 0.2 %; "
            "d = 3.1e-05 at step 800",
        ),
        ({"measured_at": 900, "verdict": Verdict.scale}, "MEASURED; measured at step 900"),
        (
            {"measured_at": 800, "screened_at": 900, "verdict": Verdict.kink},
            "MEASURED; screened at step 900; measured at step 800",
        ),
        ({"measured_at": None, "verdict": Verdict.inconclusive, "cause_key": "suspected"}, "MEASURED"),
    ],
)
def test_a_row_dates_what_is_of_an_earlier_step(
    dates: dict[str, Any], says: str, make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """A number of an earlier step stands beside that step; what was measured at this one has no date."""
    discrepancy = math.nan if dates["measured_at"] is None else 3.1e-5
    tensor = make_tensor("W", explanation="MEASURED", discrepancy=discrepancy, smallest_visible=2e-3, **dates)
    row = str(make_report(1000, tensor, screened=1)).splitlines()[0]
    assert row.partition(f"{tensor.verdict.label}  ")[2] == says


def test_the_last_line_counts_what_was_looked_at(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """How many tensors a screen covered and how many were measured; no such line for numbers of another program."""
    dates = [(5, 5), (0, 5), (0, 0)]
    tensors = [make_tensor(f"t{i}", measured_at=own, screened_at=seen) for i, (own, seen) in enumerate(dates)]
    assert str(make_report(5, *tensors, screened=2)).splitlines()[-1] == "2 of 3 tensors screened, 1 measured"
    assert str(make_report(5, tensors[0], screened=1)).splitlines()[-1] == "1 of 1 tensor screened, 1 measured"
    assert str(make_report(5, *tensors, screened=0)).splitlines()[-1] == "1 of 3 tensors measured"
    elsewhere = diagnose({"lstm": (np.array([1.0, 2.0]), np.array([2.0, 4.0]))})
    assert str(elsewhere).splitlines()[-1] == elsewhere.explanation


def plain(value: Any) -> bool:
    """Whether JSON takes it as it is."""
    if isinstance(value, dict):
        return all(type(key) is str and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool)


@pytest.mark.parametrize("name", ["report", "broken"])
def test_a_report_becomes_plain_json(name: str, request: pytest.FixtureRequest) -> None:
    """Nothing of NumPy or gradguard is left, and what is not finite becomes None, so that strict JSON takes it."""
    report: Report = request.getfixturevalue(name)
    content = report.to_dict()
    assert plain(content)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert set(content) == {field.name for field in dataclasses.fields(report)}
    for tensor_name, tensor in report.tensors.items():
        written = content["tensors"][tensor_name]
        assert set(written) == {field.name for field in dataclasses.fields(tensor)}
        assert written["verdict"] == str(tensor.verdict)
        for key in ("discrepancy", "floor", "ratio", "ratio_error", "noise", "step_size"):
            value = getattr(tensor, key)
            assert written[key] == (value if math.isfinite(value) else None)


@pytest.mark.parametrize("name", ["report", "broken"])
def test_scalars_are_flat_finite_and_those_of_the_check(name: str, request: pytest.FixtureRequest) -> None:
    """Any logger takes them: text to float; a tensor without a measurement has its verdict alone."""
    report: Report = request.getfixturevalue(name)
    scalars = report.scalars()
    assert {type(value) for value in scalars.values()} == {float}
    assert all(map(math.isfinite, scalars.values()))
    assert scalars["gradguard/check/loss"] == report.loss
    assert scalars["gradguard/check/verdict"] == report.verdict.level == Verdict.scale.level
    for tensor in report.tensors.values():
        assert scalars[f"gradguard/verdict/{tensor.name}"] == tensor.verdict.level
        for key in ("ratio", "smallest_visible", "discrepancy", "floor", "sign_agreement"):
            known = tensor.sampled and math.isfinite(getattr(tensor, key))
            assert scalars.get(f"gradguard/{key}/{tensor.name}") == (getattr(tensor, key) if known else None)


def test_scalars_leave_out_what_an_earlier_check_measured(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """A screen gives a ratio at this step; the discrepancy is of another one, and an old verdict is no news."""
    screened = make_tensor("W", measured_at=3, screened_at=7)
    scalars = make_report(7, screened, make_tensor("V", measured_at=3)).scalars()
    assert scalars["gradguard/ratio/W"] == screened.ratio
    assert "gradguard/discrepancy/W" not in scalars
    assert not [key for key in scalars if key.endswith("/V")]


def test_scalars_of_arrays_measured_elsewhere_have_their_numbers() -> None:
    """`diagnose` knows no step, and what it was handed is all there is."""
    scalars = diagnose({"lstm": (np.array([1.0, 2.0]), np.array([2.0, 4.0]))}).scalars()
    assert scalars["gradguard/ratio/lstm"] == pytest.approx(2)
    assert scalars["gradguard/discrepancy/lstm"] == pytest.approx(1 / 3)


def test_scalars_have_names_that_every_encoder_takes(make_report: MakeReport, make_tensor: MakeTensor) -> None:
    """A name from a file system may hold half of a surrogate pair."""
    for key in make_report(0, make_tensor("\udc80")).scalars():
        key.encode()


def test_a_report_has_a_short_repr(report: Report, broken: Report) -> None:
    """One line says the step, the verdict and which tensors are wrong."""
    assert repr(report) == "<Report of step 0: BUG: scale, 3 of 5 tensors wrong: Wx, Wh and b>"
    assert repr(broken) == "<Report of step 0: BUG: nonfinite, 1 of 1 tensor wrong: w>"
    right = dataclasses.replace(report, verdict=Verdict.ok, tensors={"V": report.tensors["V"]})
    assert repr(right) == "<Report of step 0: ok, 1 tensor>"


def test_a_notebook_shows_a_table_with_the_gravest_verdicts_first(report: Report) -> None:
    """A row a tensor with its verdict, what was measured and the cause, between the verdict and the explanation."""
    shown = report._repr_html_()
    ElementTree.fromstring(f"<div>{shown}</div>")  # noqa: S314 - our own; it raises where a tag is not closed
    head, *rows = re.findall("<tr>(.*?)</tr>", shown)
    assert "<th>verdict</th>" in head
    assert [re.findall("<code>(.*?)</code>", row) for row in rows] == [["Wx"], ["Wh"], ["b"], ["V"], ["c"]]
    assert "BUG: scale" in rows[0]
    assert html.escape(report.tensors["Wx"].cause) in rows[0]
    assert shown.startswith("<p><b>gradguard, step 0: BUG: scale</b></p>")
    assert html.escape(report.explanation) in shown


def test_what_a_notebook_shows_is_small_and_holds_no_markup_of_names(
    make_report: MakeReport, make_tensor: MakeTensor
) -> None:
    """Names and texts are escaped and shortened, and of many tensors the last are counted."""
    tensors = [make_tensor(f"<script>{i}</script>{'x' * 500}", cause="<b>&</b>\n") for i in range(500)]
    wrong = make_tensor("last", verdict=Verdict.sign)
    shown = make_report(0, *tensors, wrong)._repr_html_()
    assert len(shown) < 20_000
    assert "<script" not in shown
    assert "<b>&" not in shown
    assert shown.index("<code>last</code>") < shown.index("<code>&lt;script&gt;0")
    assert "471 tensors more in str(report)" in shown


def test_what_was_measured_of_the_worst_entries_is_kept(report: Report) -> None:
    """Their places, both derivatives and the error bar, worst first, in the units of the gradient."""
    worst = report.tensors["Wh"].worst
    assert 1 < len(worst) <= 10
    assert all(isinstance(entry, Entry) and len(entry.index) == 2 for entry in worst)
    assert all(entry.numeric == pytest.approx(8 * entry.analytic, rel=1e-3) for entry in worst)
    deviations = [abs(entry.numeric - entry.analytic) / entry.error for entry in worst]
    assert deviations[0] > 100


def test_a_report_does_not_change_and_travels(report: Report) -> None:
    """It is frozen, and equal after pickling."""
    frozen: Any = report
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.step = 3
    copy = pickle.loads(pickle.dumps(report))  # noqa: S301 - our own bytes
    assert copy == report
    assert str(copy) == str(report)


@pytest.mark.parametrize(
    ("verdicts", "is_bug"),
    [
        ({"ok", "float_precision", "expected"}, False),
        ({"inconclusive", "kink", "nondeterministic", "other_loss"}, None),
        ({"scale", "sign", "missing", "spurious", "clipped", "structure", "nonfinite"}, True),
    ],
)
def test_every_verdict_says_whether_it_is_a_bug(verdicts: set[str], is_bug: bool | None) -> None:
    """True, False, or None where the check cannot tell; and the three groups are all there are."""
    assert {str(verdict) for verdict in Verdict if verdict.is_bug is is_bug} == verdicts
