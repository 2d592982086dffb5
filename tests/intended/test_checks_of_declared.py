"""A check of gradients that are declared to differ."""

import ast
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gradguard import Report, Thresholds, Verdict, check, gates
from gradguard.arrays import Array
from gradguard.checks.check import CheckOptions, checked
from gradguard.testing import LSTM, faulty, random_batch

BLOCKS = {"Wh": gates("ifog", axis=1)}
LSTM_TENSORS = ("Wx", "Wh", "b")


def report_of(fault: str = "", change: Mapping[str, Any] | None = None, **options: Any) -> Report:
    """A check of an LSTM with a fault in its backward pass, or with some gradients replaced."""
    model, batch = (faulty(fault) if fault else LSTM)(hidden=5), random_batch(12, 3)
    grads = model.loss_and_grads(batch)[1]
    for name, changed in (change or {}).items():
        grads[name] = changed(grads[name].copy())
    return check(model.params, grads, lambda: model.loss(batch), blocks=BLOCKS, **options)


def in_forget_gate(factor: float) -> Any:
    """Multiplies the columns of the forget gate."""

    def change(gradient: Array) -> Array:
        gradient[:, 5:10] *= np.float32(factor)
        return gradient

    return change


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize(
    ("fault", "wrong"),
    [
        ("timesteps", LSTM_TENSORS),
        ("truncated", LSTM_TENSORS),
        ("negated-dense", ("V",)),
        ("missing-wh", ("Wh",)),
        ("clipped-by-value", ("*",)),
    ],
)
def test_what_is_declared_is_no_bug(fault: str, wrong: tuple[str, ...], precision: str) -> None:
    """Whatever its kind; it is measured all the same, and the other tensors are judged as ever."""
    plain = report_of(fault, precision=precision)
    names = [name for name, tensor in plain.tensors.items() if tensor.verdict.is_bug]
    assert names
    report = report_of(fault, precision=precision, expected=dict.fromkeys(wrong, "on purpose"))
    assert report.verdict is Verdict.expected
    assert report.verdict.is_bug is False
    for name, tensor in report.tensors.items():
        assert (tensor.verdict is Verdict.expected) == (name in names), tensor.explanation
        assert tensor.verdict.is_bug is False
        assert tensor.measured_at == 0
    assert all("expected to differ (on purpose): " in report.tensors[name].explanation for name in names)
    assert "Expected to differ: " in report.explanation
    assert "declare" not in report.explanation


def test_a_declared_tensor_does_not_excuse_the_others() -> None:
    """Wh is declared, Wx and b are bugs."""
    report = report_of("timesteps", expected={"Wh": "mean over time"})
    assert {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug} == {"Wx", "b"}
    assert report.tensors["Wh"].verdict is Verdict.expected
    assert report.verdict.is_bug is True


@pytest.mark.parametrize("precision", ["native", "auto"])
def test_a_declared_block_does_not_excuse_the_other_blocks(precision: str) -> None:
    """The forget gate may differ; the input gate may not, and its error is told with its name."""
    declared = {"expected": {"Wh:f": "forgets slowly"}, "precision": precision}
    report = report_of(change={"Wh": in_forget_gate(0.5)}, **declared)
    tensor = report.tensors["Wh"]
    assert tensor.verdict is Verdict.expected
    assert tensor.blocks["f"].verdict is Verdict.expected
    assert [str(tensor.blocks[gate].verdict) for gate in "iog"] == ["ok"] * 3
    assert "f: forgets slowly" in tensor.explanation

    def both(gradient: Array) -> Array:
        gradient[:, :5] *= np.float32(1.3)
        return np.asarray(in_forget_gate(0.5)(gradient))

    tensor = report_of(change={"Wh": both}, **declared).tensors["Wh"]
    assert tensor.verdict.is_bug is True
    assert tensor.blocks["f"].verdict is Verdict.expected
    assert tensor.blocks["i"].verdict.is_bug is True
    assert "wrong in i" in tensor.explanation


def test_a_declared_block_does_not_hide_a_gradient_that_is_missing_elsewhere() -> None:
    """Its directions move all entries but those of the block."""

    def change(gradient: Array) -> Array:
        gradient[1:, 10:15] = 0
        return np.asarray(in_forget_gate(0.0)(gradient))

    tensor = report_of(change={"Wh": change}, expected={"Wh:f": "detached"}, precision="native").tensors["Wh"]
    assert tensor.verdict.is_bug is True
    assert tensor.blocks["f"].verdict is Verdict.expected


def test_what_agrees_after_all_is_said_to() -> None:
    """A declaration that is no longer true should not stay in the code."""
    report = report_of(expected={"Wx": "truncated BPTT", "Wh:f": "forgets slowly"})
    assert report.tensors["Wx"].verdict is Verdict.ok
    assert report.tensors["Wx"].explanation.endswith("expected to differ (truncated BPTT), but agrees")
    assert report.tensors["Wh"].verdict is Verdict.ok
    assert "Expected to differ, but right: Wx (truncated BPTT) and Wh (f: forgets slowly)." in report.explanation


def test_every_tensor_has_a_report_where_only_declared_ones_move_the_loss() -> None:
    """The loss does not depend on the other one, whose gradient is zero."""
    params = {"used": np.array([0.3, 0.7]), "idle": np.ones(2)}
    grads = {"used": 2 * np.cos(params["used"]), "idle": np.zeros(2)}
    report = check(params, grads, lambda: float(np.sin(params["used"]).sum()), expected={"used": "twice"})
    assert {name: str(tensor.verdict) for name, tensor in report.tensors.items()} == {"used": "expected", "idle": "ok"}


def test_nan_is_never_meant() -> None:
    """A gradient that is not finite is a bug, declared or not."""
    report = report_of(change={"Wh": lambda gradient: gradient * np.nan}, expected={"Wh": "on purpose"})
    assert report.tensors["Wh"].verdict is Verdict.nonfinite


def test_another_loss_is_told_before_anything_else() -> None:
    """Nothing is measured, so nothing differs as declared."""
    model, batch = faulty("timesteps")(hidden=5), random_batch(12, 3)
    grads = model.loss_and_grads(batch)[1]
    report = check(
        model.params, grads, lambda: model.loss(batch), value=model.loss(batch) + 1, expected={"W*": "mean over time"}
    )
    assert report.verdict is Verdict.other_loss


def test_a_small_error_that_is_declared_is_one_that_is_expected() -> None:
    """It is confirmed, so it does not agree, and the reason for it is known."""
    model, batch = LSTM(hidden=5), random_batch(12, 3)
    grads = model.loss_and_grads(batch)[1]
    grads["Wh"] *= np.float32(1 + 1.6e-4)
    report = checked(model.params, grads, lambda: model.loss(batch), CheckOptions(expected={"Wh": "an approximation"}))
    assert report.tensors["Wh"].discrepancy < Thresholds().relevant
    assert report.tensors["Wh"].verdict is Verdict.expected


@pytest.mark.parametrize("fault", ["truncated", "negated-dense", "missing-wh", "timesteps"])
def test_a_bug_that_could_be_meant_says_how_to_declare_it(fault: str) -> None:
    """The line can be copied: with it, the same check finds no bug."""
    report = report_of(fault)
    hint = report.explanation[report.explanation.index("expected={") + len("expected=") :]
    declared: dict[str, str] = ast.literal_eval(hint[: hint.index("}") + 1])
    assert report_of(fault, expected=declared).verdict is Verdict.expected


def test_the_hint_names_the_kinds_of_difference_that_are_usually_meant() -> None:
    """Each with its own words: a reader recognizes what was done on purpose."""
    assert "a truncated gradient" in report_of("truncated").explanation
    assert "something held constant" in report_of("truncated").explanation
    assert "gradient reversal" in report_of("negated-dense").explanation
    assert "stop-gradient or detach" in report_of("missing-wh").explanation
    assert "declare" not in report_of().explanation


def test_a_wrong_block_is_declared_by_its_name() -> None:
    """Only the forget gate is wrong, so only that is offered."""
    report = report_of(change={"Wh": in_forget_gate(0.5)})
    assert 'expected={"Wh:f": "..."}' in report.explanation


def test_the_report_of_a_declared_tensor_is_whole() -> None:
    """Numbers, entries and blocks are there, and text, dict and table tell of the reason."""
    report = report_of("timesteps", expected={"Wh": "mean over time"}, entries="all")
    tensor = report.tensors["Wh"]
    assert tensor.ratio == pytest.approx(12, rel=1e-3)
    assert tensor.entries
    assert {str(block.verdict) for block in tensor.blocks.values()} == {"expected"}
    assert report.to_dict()["tensors"]["Wh"]["expected"] == "mean over time"
    assert "Wh  expected" in str(report)
