import dataclasses
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from gradguard import Entry, Report, TensorReport, Verdict, check, gates
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
    assert lines[-1] == report.explanation
    rows = [line for line in lines if line.startswith("step 0  ")]
    assert [row.split()[2] for row in rows] == [*report.tensors]
    for row, tensor in zip(rows, report.tensors.values(), strict=True):
        assert row.endswith(tensor.explanation)
        assert ("BUG: scale" in row) == (tensor.name in {"Wx", "Wh", "b"})
    causes = [line for line in lines if line.strip().startswith("->")]
    assert len(causes) == 3
    assert len({len(line) - len(line.lstrip()) for line in causes}) == 1
    assert len({row.index(tensor.explanation) for row, tensor in zip(rows, report.tensors.values(), strict=True)}) == 1


def test_a_verdict_is_printed_in_words(report: Report) -> None:
    """`float_precision` reads as two words, and is no bug."""
    tensor = dataclasses.replace(report.tensors["V"], verdict=Verdict.float_precision)
    text = str(dataclasses.replace(report, tensors={"V": tensor}))
    assert "V  float precision  " in text
    assert "BUG" not in text.splitlines()[0]


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
        ({"ok", "float_precision"}, False),
        ({"inconclusive", "kink", "nondeterministic"}, None),
        ({"scale", "sign", "missing", "spurious", "clipped", "structure", "nonfinite"}, True),
    ],
)
def test_every_verdict_says_whether_it_is_a_bug(verdicts: set[str], is_bug: bool | None) -> None:
    """True, False, or None where the check cannot tell; and the three groups are all there are."""
    assert {str(verdict) for verdict in Verdict if verdict.is_bug is is_bug} == verdicts
