"""What a check finds, and how it says so."""

import numpy as np
import pytest
from checked_lstm import BATCH, TIMESTEPS, WAYS, loss_of, network, reduction_of

from gradguard import Report, Verdict, check, gates
from gradguard.testing import FAULTS, LSTM, Batch


def true_derivative(model: LSTM, batch: Batch, name: str, index: tuple[int, ...]) -> float:
    """By complex step, in float64."""
    params = {key: param.astype(complex) for key, param in model.params.items()}
    params[name][index] += 1e-30j
    return float(model.loss(batch, params).imag) / 1e-30


def bugs(report: Report) -> set[str]:
    """The tensors said to be wrong."""
    return {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


@pytest.mark.parametrize(("precision", "takes", "form"), WAYS)
def test_correct_gradients_agree(precision: str, takes: bool, form: str) -> None:
    """In every precision and form of the loss: no bug, a ratio of 1, all signs alike, little left unexplained."""
    model, batch, grads = network()
    loss = loss_of(model, batch, takes, form)
    report = check(model.params, grads, loss, precision=precision, reduction=reduction_of(form))
    assert report.verdict is Verdict.ok
    assert report.precision == precision
    assert report.explanation.startswith("No bug")
    for tensor in report.tensors.values():
        assert tensor.verdict is Verdict.ok
        assert tensor.cause == ""
        assert 0 < tensor.discrepancy < (1e-6 if precision == "float64" else 1e-2)
        assert tensor.discrepancy <= 3 * tensor.floor
        assert abs(tensor.ratio - 1) < 6 * tensor.ratio_error
        assert tensor.sign_agreement == 1
        assert 0 < tensor.resolvable <= tensor.sampled


@pytest.mark.parametrize(("precision", "fault"), [("native", None), ("native", "timesteps"), ("float64", "timesteps")])
def test_the_numerical_derivatives_are_the_true_ones(precision: str, fault: str | None) -> None:
    """Each entry that is shown lies within a few of its error bars of the complex step, whatever the gradient says."""
    model, batch, grads = network(fault)
    report = check(model.params, grads, loss_of(model, batch), precision=precision)
    for name, tensor in report.tensors.items():
        for entry in tensor.worst:
            truth = true_derivative(model, batch, name, entry.index)
            assert abs(entry.numeric - truth) < 5 * entry.error + 1e-9
            assert entry.analytic == pytest.approx(grads[name][entry.index], rel=1e-9)


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_gradient_averaged_over_the_timesteps_is_named(precision: str) -> None:
    """The question's own bug: a factor on the recurrent tensors, called after its constant, in every sentence."""
    model, batch, grads = network("timesteps")
    constants = {"timesteps": TIMESTEPS, "batch": BATCH}
    report = check(model.params, grads, loss_of(model, batch), precision=precision, constants=constants)
    assert bugs(report) == FAULTS["timesteps"].tensors
    for name in bugs(report):
        tensor = report.tensors[name]
        assert tensor.verdict is Verdict.scale
        assert abs(tensor.ratio - TIMESTEPS) < 6 * tensor.ratio_error
        assert tensor.discrepancy == pytest.approx((TIMESTEPS - 1) / (TIMESTEPS + 1), abs=1e-3)
        assert tensor.sign_agreement == 1
        assert tensor.explanation.startswith(("numerical = 4.0", "numerical = 3.9", "numerical = 4 x"))
        assert "4 is `timesteps`" in tensor.explanation
        assert tensor.cause == "the backward pass divides by the number of timesteps and the loss does not"
    assert "number of timesteps" in report.explanation
    assert "V and c agree" in report.explanation


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("negated-dense", ["V", "sign", "numerical = -1", "wrong sign"]),
        ("missing-bias", ["b", "missing", "backprop is zero and numerical is not", "never writes this gradient"]),
        ("wh-1-percent", ["Wh", "scale", "numerical = 0.99", "too large"]),
    ],
)
def test_a_bug_is_told_in_a_sentence(fault: str, words: list[str]) -> None:
    """Which tensor, what kind, how large, and the likely cause."""
    model, batch, grads = network(fault)
    report = check(model.params, grads, loss_of(model, batch))
    assert bugs(report) == FAULTS[fault].tensors
    assert all(tensor.verdict in FAULTS[fault].expected for tensor in report.tensors.values() if tensor.verdict.is_bug)
    for word in words:
        assert word in report.explanation
        assert word in str(report)


@pytest.mark.parametrize(
    "name",
    ["negated", "wh-1-permille", "no-recurrent-dh", "forget-gate-sign", "missing-wh", "entry-doubled", "stale"],
)
def test_a_fault_is_found_in_float64(name: str) -> None:
    """Exactly the tensors that it spoils here by more than 1e-4, and no others."""
    model, batch, grads = network(name)
    right = network()[2]
    spoilt = {key for key in right if np.linalg.norm(grads[key] - right[key]) > 1e-4 * np.linalg.norm(right[key])}
    report = check(model.params, grads, loss_of(model, batch), precision="float64")
    assert bugs(report) == spoilt


def test_a_plain_factor_on_round_numbers_is_that_factor() -> None:
    """In a toy example everything is round; only a factor that is nothing known is a clip's."""
    params = {"w": np.array([3.0, 4.0])}
    tensor = check(params, {"w": params["w"] / 2}, lambda: 0.5 * float(np.sum(params["w"] ** 2))).tensors["w"]
    assert tensor.verdict is Verdict.scale
    assert "factor of 2" in tensor.cause


def test_a_wrong_gate_is_named() -> None:
    """With named blocks the sentence says which of them is wrong, and that the others agree."""
    model, batch, grads = network()
    grads["Wh"][:, 2:4] *= -1
    blocks = {"Wh": gates("ifog", axis=1)}
    tensor = check(model.params, grads, loss_of(model, batch), blocks=blocks).tensors["Wh"]
    assert tensor.verdict is Verdict.structure
    assert {name for name, block in tensor.blocks.items() if block.verdict.is_bug} == {"f"}
    assert tensor.blocks["f"].verdict is Verdict.sign
    assert "wrong in f" in tensor.explanation
    assert "the other 3 agree" in tensor.explanation
    assert tensor.blocks["f"].ratio == pytest.approx(-1, rel=1e-4)
    assert tensor.blocks["i"].ratio == pytest.approx(1, rel=1e-4)


def test_a_gradient_of_what_the_loss_does_not_read_is_spurious() -> None:
    """Where other tensors do move the loss, a gradient without an effect is a bug."""
    model, batch, grads = network()
    model.params["spare"] = np.ones(3, np.float32)
    report = check(model.params, grads | {"spare": np.ones(3, np.float32)}, loss_of(model, batch))
    assert bugs(report) == {"spare"}
    assert report.tensors["spare"].verdict is Verdict.spurious
    assert "numerical is zero and backprop is not" in report.tensors["spare"].explanation
    assert "the loss does not depend on this tensor" in report.tensors["spare"].explanation


@pytest.mark.parametrize("precision", ["native", "auto"])
def test_arrays_that_the_loss_does_not_read_are_no_bug(precision: str) -> None:
    """Copies given for the parameters, or the value of a loss kept from before, are told as what they are."""
    model, batch, grads = network()
    copies, kept = {name: model.params[name].copy() for name in ("V", "c")}, model.loss(batch)
    for loss in (lambda: model.loss(batch), lambda: kept):
        report = check(copies, {name: grads[name] for name in copies}, loss, precision=precision)
        assert report.verdict is Verdict.inconclusive
        assert not bugs(report)
        for tensor in report.tensors.values():
            assert "the loss does not change" in tensor.explanation
            assert "not the ones that the loss reads" in tensor.cause


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_is_no_bug_of_the_gradient(value: float) -> None:
    """Nothing can be told, and the message points to the training."""
    model, batch, grads = network()
    report = check(model.params, grads, lambda: model.loss(batch) * 0 + value)
    assert report.verdict is Verdict.inconclusive
    assert not bugs(report)
    assert f"the loss is {value}" in report.tensors["Wx"].explanation
    assert "diverged" in report.tensors["Wx"].cause


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_where_the_loss_is(value: float) -> None:
    """It is a bug, with the count and the first place; the other tensors are checked all the same."""
    model, batch, grads = network()
    grads["Wh"][1, 3:5] = value
    report = check(model.params, grads, loss_of(model, batch))
    assert bugs(report) == {"Wh"}
    assert report.tensors["Wh"].verdict is Verdict.nonfinite
    assert "2 of 16 entries of backprop are nan or inf, the first at [1, 3]" in report.tensors["Wh"].explanation
    assert report.tensors["V"].verdict is Verdict.ok


def test_the_sentence_spells_names_as_they_are() -> None:
    """`w` and `W` may be two tensors."""
    params = {"w": np.array([0.3, 0.7])}
    assert " W:" not in check(params, {"w": np.ones(2)}, lambda: 1.0).explanation


def test_a_noisy_loss_is_inconclusive_and_says_what_would_help() -> None:
    """A slope below the rounding of the loss shows nothing; the sentence says how large an error could be detected."""
    params = {"w": np.array([0.3, 0.7], np.float32)}
    loss = lambda: np.float32(1e6) + np.sin(params["w"]).sum(dtype=np.float32)  # noqa: E731 - it is shown as it is
    report = check(params, {"w": np.cos(params["w"])}, loss, precision="native")
    assert not report.verdict.is_bug
    if report.verdict is Verdict.inconclusive:
        assert "smallest detectable error" in report.explanation or "no error can be detected" in report.explanation
        assert "precision='float64'" in report.tensors["w"].cause
