"""When float64 copies are measured, and when the live arrays."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from recorder import Recorder
from small_lstm import Params, agrees, refusing, small

from gradguard import Verdict, check
from gradguard.testing import LSTM, Batch, random_batch


@pytest.mark.parametrize("precision", ["float32", "double", "", "Native"])
def test_an_unknown_precision_is_told_with_those_there_are(precision: str) -> None:
    """The message repeats what was given."""
    model, batch, grads = small()
    with pytest.raises(ValueError, match=rf"precision is '{precision}'; expected 'native', 'float64' or 'auto'"):
        check(model.params, grads, lambda: model.loss(batch), precision=precision)


@pytest.mark.parametrize("takes", [False, True], ids=["loss()", "loss(params)"])
@pytest.mark.parametrize(("precision", "used"), [("native", "native"), ("float64", "float64"), ("auto", "float64")])
def test_float64_is_used_where_it_takes(takes: bool, precision: str, used: str) -> None:
    """By swapping the entries of a dict or by handing over copies; a correct gradient then agrees to 1e-6."""
    model, batch, grads = small()
    loss: Callable[..., object] = (lambda params: model.loss(batch, params)) if takes else (lambda: model.loss(batch))
    objects, before = dict(model.params), {name: param.tobytes() for name, param in model.params.items()}
    report = check(model.params, grads, loss, precision=precision)
    assert report.precision == used
    assert agrees(report)
    worst = max(tensor.discrepancy for tensor in report.tensors.values())
    assert worst < (1e-6 if used == "float64" else 1e-2)
    assert all(model.params[name] is array for name, array in objects.items())
    assert before == {name: param.tobytes() for name, param in model.params.items()}


def in_float32(params: Mapping[str, NDArray[Any]]) -> Params:
    """What a float32 library makes of any parameters."""
    return {name: param.astype(np.float32) for name, param in params.items()}


Evaluate = Callable[[LSTM, Batch], object]


def casting(model: LSTM, batch: Batch) -> object:
    """A loss that computes in float32 whatever it is given."""
    return model.loss(batch, in_float32(model.params))


def casting_one(model: LSTM, batch: Batch) -> object:
    """A loss that rounds one of the tensors only."""
    return model.loss(batch, model.params | {"Wh": model.params["Wh"].astype(np.float32)})


def casting_sum(model: LSTM, batch: Batch) -> object:
    """A loss that rounds the sum of a bias of zeros and a constant."""
    bias = (model.params["c"] + 1).astype(np.float32) - 1
    return model.loss(batch, model.params | {"c": bias})


def doubling_zeros(model: LSTM, batch: Batch) -> object:
    """A loss that has the same value in float64, and twice the slope along a bias of zeros."""
    bias = model.params["c"]
    return model.loss(batch, model.params | {"c": 2 * bias if bias.dtype == np.float64 else bias})


def strict(model: LSTM, batch: Batch) -> object:
    """A loss that raises on float64."""
    refusing(model.params)
    return model.loss(batch)


def another(model: LSTM, batch: Batch) -> object:
    """A loss that is another one in float64."""
    return model.loss(batch) + (0.25 if model.params["c"].dtype == np.float64 else 0)


def rounded(model: LSTM, batch: Batch) -> object:
    """A loss that is computed in float64 and handed over in float32."""
    return np.float32(model.loss(batch))


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        (casting, ["'Wx'", "float32 would round away"]),
        (casting_one, ["'Wh'", "float32 would round away"]),
        (casting_sum, ["'c'", "float32 would round away"]),
        (doubling_zeros, ["along 'c'", "differently from the live loss"]),
        (strict, ["TypeError", "expected float32 tensors"]),
        (another, ["1.", "live arrays"]),
        (rounded, ["float32 would round away"]),
    ],
)
def test_float64_is_refused_where_it_does_not_take(evaluate: Evaluate, words: list[str]) -> None:
    """Asked for by name it is an error that tells what was seen; with "auto" the check is native, and right."""
    model, batch, grads = small()
    objects, before = dict(model.params), {name: param.tobytes() for name, param in model.params.items()}
    with pytest.raises(ValueError, match=r"precision='float64' does not work: .*'auto' or 'native'") as raised:
        check(model.params, grads, lambda: evaluate(model, batch), precision="float64")
    assert all(word in str(raised.value) for word in words)
    assert all(model.params[name] is array for name, array in objects.items())
    assert before == {name: param.tobytes() for name, param in model.params.items()}
    report = check(model.params, grads, lambda: evaluate(model, batch))
    assert report.precision == "native"
    assert agrees(report)


def test_a_tensor_that_the_loss_does_not_read_does_not_stand_in_the_way_of_float64() -> None:
    """A spare tensor with a zero gradient moves nothing, in any precision."""
    model, batch, grads = small()
    model.params["spare"] = np.ones(3, np.float32)
    report = check(model.params, grads | {"spare": np.zeros(3, np.float32)}, lambda: model.loss(batch))
    assert report.precision == "float64"
    assert agrees(report)
    assert "does not depend on this tensor" in report.tensors["spare"].explanation


def test_float64_takes_at_a_minimum_too() -> None:
    """Where the gradient vanishes, as it does at the end of every training, asking for float64 is no error."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((20, 4)), rng.standard_normal(20)
    params = {"w": np.linalg.lstsq(inputs, targets, rcond=None)[0].astype(np.float32)}
    for step in range(10):
        params["w"] += np.float32(1e-8 * step)
        grads = {"w": inputs.T @ (inputs @ params["w"] - targets)}
        report = check(params, grads, lambda: 0.5 * np.sum((inputs @ params["w"] - targets) ** 2), precision="float64")
        assert report.precision == "float64"
        assert not report.verdict.is_bug


@pytest.mark.parametrize("weights", [[1.0, 2.0, 3.0], [1.1, 2.3, 3.3]], ids=["round numbers", "others"])
def test_in_float64_a_thousandth_is_found(weights: list[float]) -> None:
    """Float64 parameters, gradients and loss resolve far smaller errors, whether or not the loss is a round number."""
    params = {"w": np.array(weights)}
    report = check(params, {"w": 1.001 * params["w"]}, lambda: 0.5 * float(np.sum(params["w"] ** 2)))
    assert report.verdict is Verdict.scale
    assert report.tensors["w"].ratio == pytest.approx(1 / 1.001, rel=1e-6)


@pytest.mark.parametrize("precision", ["native", "auto"])
@pytest.mark.parametrize("evaluate", [lambda model, batch: model.loss(batch), casting], ids=["exact", "casting"])
def test_every_evaluation_of_the_loss_is_counted(precision: str, evaluate: Evaluate) -> None:
    """The report tells how often the loss was called, those of a failed attempt in float64 included."""
    model, batch, grads = small()
    calls = Recorder()

    def loss() -> object:
        calls.append()
        return evaluate(model, batch)

    report = check(model.params, grads, loss, precision=precision, entries=5)
    assert report.evaluations == len(calls)


def test_a_float64_loss_on_float32_parameters_is_told_from_a_float32_one() -> None:
    """NumPy promotes: float64 inputs give a float64 loss even of live float32 arrays, and its noise is that small."""
    model, _, _ = small()
    batch = random_batch(4, 2, inputs=3, outputs=3, dtype=np.float64)
    grads = model.loss_and_grads(batch)[1]
    noises = [
        check(model.params, grads, loss, precision="native").tensors["Wx"].noise
        for loss in (lambda: model.loss(batch), lambda: np.float32(model.loss(batch)))
    ]
    assert noises[0] < 1e-2 * noises[1]
