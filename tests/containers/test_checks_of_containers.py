"""Checks of parameters in the containers that programs hold them in."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard, batched, check, gates, sweep
from gradguard.testing import assert_gradients

X = np.random.default_rng(1).normal(size=(6, 4))
Arrays = tuple[Any, Any, Any]


def fresh(dtype: Any = np.float32) -> Arrays:
    """The three parameters of a small network."""
    rng = np.random.default_rng(0)
    return tuple((rng.normal(size=shape) * 0.5).astype(dtype) for shape in ((4, 5), (5,), (5, 2)))  # type: ignore[return-value]


def loss_of(w: Any, b: Any, v: Any) -> Any:
    """A smooth loss of them."""
    return (np.tanh(np.tanh(X @ w + b) @ v) ** 2).sum()


def gradients_of(w: Any, b: Any, v: Any) -> Arrays:
    """Their gradients, by hand."""
    h = np.tanh(X @ w + b)
    y = np.tanh(h @ v)
    outer = 2 * y * (1 - y**2)
    inner = outer @ v.T * (1 - h**2)
    return X.T @ inner, inner.sum(0), h.T @ outer


Pack, Unpack = Callable[[Any, Any, Any], Any], Callable[[Any], Arrays]
FORMS: dict[str, tuple[Pack, Unpack, list[str]]] = {
    "a list": (lambda *arrays: list(arrays), lambda p: tuple(p), ["0", "1", "2"]),
    "a tuple": (lambda *arrays: arrays, lambda p: p, ["0", "1", "2"]),
    "layers": (lambda w, b, v: [(w, b), (v,)], lambda p: (*p[0], *p[1]), ["0.0", "0.1", "1.0"]),
    "mappings": (
        lambda w, b, v: {"enc": {"W": w, "b": b}, "dec": {"W": v}},
        lambda p: (p["enc"]["W"], p["enc"]["b"], p["dec"]["W"]),
        ["enc.W", "enc.b", "dec.W"],
    ),
    "a mapping of lists": (
        lambda w, b, v: {"W": [w, v], "b": [b]},
        lambda p: (p["W"][0], p["b"][0], p["W"][1]),
        ["W.0", "W.1", "b.0"],
    ),
    "numbers as names": (lambda w, b, v: {0: w, 1: b, 2: v}, lambda p: (p[0], p[1], p[2]), ["0", "1", "2"]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("takes", [False, True], ids=["loss()", "loss(params)"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_form_is_checked(form: str, takes: bool, dtype: Any) -> None:
    """The right gradients are fine, a wrong one is named by its place, and everything stays bit for bit."""
    pack, unpack, names = FORMS[form]
    params = pack(*fresh(dtype))
    grads = gradients_of(*unpack(params))
    before = copy.deepcopy(params)

    def reads() -> Any:
        return loss_of(*unpack(params))

    loss = (lambda handed: loss_of(*unpack(handed))) if takes else reads
    report = check(params, pack(*grads), loss)
    assert list(report.tensors) == names
    assert {tensor.verdict.is_bug for tensor in report.tensors.values()} == {False}
    report = check(params, pack(grads[0], grads[1], 3 * grads[2]), loss)
    wrong = names[["0", "1", "2"].index("2")] if form != "a mapping of lists" else "W.1"
    assert [name for name, tensor in report.tensors.items() if tensor.verdict == "scale"] == [wrong]
    for now, then in zip(unpack(params), unpack(before), strict=True):
        assert now.tobytes() == then.tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("takes", [False, True], ids=["loss()", "loss(params)"])
def test_a_training_that_binds_its_parameters_anew_is_checked(form: str, takes: bool) -> None:
    """In the container that the loss reads; a tuple is made anew, and its arrays are updated in place."""
    pack, unpack, names = FORMS[form]
    params = pack(*fresh())

    def reads() -> Any:
        return loss_of(*unpack(params))

    loss = (lambda handed: loss_of(*unpack(handed))) if takes else reads
    with GradGuard(params, loss, every_n_steps=1, max_overhead=None) as guard:
        for step in range(3):
            grads = [gradient.astype(np.float32) for gradient in gradients_of(*unpack(params))]
            report = guard.after_backward(step, pack(*grads))
            assert report is not None
            assert list(report.tensors) == names
            assert {tensor.verdict.is_bug for tensor in report.tensors.values()} == {False}
            updated = [array - np.float32(0.1) * grad for array, grad in zip(unpack(params), grads, strict=True)]
            _assign(params, pack(*updated))


def _assign(params: Any, updated: Any) -> None:
    """Binds what a container holds anew, and writes in place where it cannot be bound."""
    for key, value in updated.items() if isinstance(updated, dict) else enumerate(updated):
        if isinstance(value, dict | list | tuple):
            _assign(params[key], value)
        elif isinstance(params, tuple):
            params[key][...] = value
        else:
            params[key] = value


@pytest.mark.parametrize("takes", [False, True], ids=["loss()", "loss(theta)"])
def test_one_flat_array_is_checked(takes: bool) -> None:
    """As `scipy.optimize` takes it; its name is "params"."""

    def of(theta: Any) -> Any:
        return loss_of(theta[:20].reshape(4, 5), theta[20:25], theta[25:].reshape(5, 2))

    theta = np.concatenate([array.ravel() for array in fresh(np.float64)])
    gradient = np.concatenate([array.ravel() for array in gradients_of(*fresh(np.float64))])
    loss = of if takes else (lambda: of(theta))
    report = check(theta, gradient, loss, blocks={"params": {"W": slice(0, 20), "rest": slice(20, None)}})
    assert list(report.tensors) == ["params"]
    assert report.verdict.is_bug is False
    gradient[:20] *= 2
    report = check(theta, gradient, loss, blocks={"params": {"W": slice(0, 20), "rest": slice(20, None)}})
    assert "wrong in W" in report.tensors["params"].explanation


def test_lists_that_are_swapped_are_evaluated_in_float64() -> None:
    """A list takes float64 copies as a dict does; a tuple cannot, and a loss that takes the parameters need not."""
    arrays = fresh()
    params, grads = list(arrays), list(gradients_of(*arrays))
    assert check(params, grads, lambda: loss_of(*params)).precision == "float64"
    assert check(arrays, grads, lambda: loss_of(*arrays)).precision == "native"
    assert check(arrays, grads, lambda handed: loss_of(*handed)).precision == "float64"
    with pytest.raises(
        ValueError, match=r"params is a tuple, whose entries cannot be swapped.*a list, or loss\(params\)"
    ):
        check(arrays, grads, lambda: loss_of(*arrays), precision="float64")
    layers = [arrays]
    with pytest.raises(ValueError, match="params is a tuple, whose entries"):
        check(layers, [tuple(grads)], lambda: loss_of(*layers[0]), precision="float64")


def test_gradients_may_be_in_another_container_of_the_same_names() -> None:
    """A tuple for a list, or a flat mapping with the joined names."""
    w, b, v = fresh()
    params, grads = {"enc": [w, b], "dec": v}, gradients_of(w, b, v)
    for given in (
        {"enc": grads[:2], "dec": grads[2]},
        {"dec": grads[2], "enc.0": grads[0], "enc.1": grads[1]},
    ):
        report = check(params, given, lambda: loss_of(*params["enc"], params["dec"]))
        assert report.verdict.is_bug is False


def test_options_take_the_joined_names() -> None:
    """Blocks and what is declared to differ."""
    w, b, v = fresh()
    params, grads = [(w, b), (v,)], gradients_of(w, b, v)
    report = check(
        params,
        [grads[:2], (2 * grads[2],)],
        lambda: loss_of(w, b, v),
        blocks={"0.0": gates("abcde", axis=1)},
        expected={"1.*": "half on purpose"},
    )
    assert report.verdict == "expected"
    assert list(report.tensors["0.0"].blocks) == list("abcde")


def test_a_batched_loss_is_handed_the_container() -> None:
    """With a leading axis on each array in it."""

    def loss(params: Any) -> Any:
        (w, b), (v,) = params
        hidden = np.tanh(X @ w + b[..., None, :])
        return (np.tanh(hidden @ v) ** 2).sum((-2, -1))

    w, b, v = fresh()
    grads = gradients_of(w, b, v)
    report = check([(w, b), (v,)], [grads[:2], grads[2:]], batched(loss))
    assert report.verdict.is_bug is False


def test_sweep_and_assertion_take_them_too() -> None:
    """With either form of the loss."""
    params = list(fresh())
    grads = list(gradients_of(*params))
    assert list(sweep(params, grads, lambda: loss_of(*params), steps=[1e-3, 1e-2]).tensors) == ["0", "1", "2"]
    assert sweep(params, grads, lambda handed: loss_of(*handed), steps=[1e-3, 1e-2]).tensors
    assert assert_gradients(params, grads, lambda handed: loss_of(*handed)).verdict.is_bug is False


def test_a_list_that_grows_is_checked_as_it_is() -> None:
    """The structure is read at each check."""
    w, b, v = fresh()
    params = [w, b]
    with GradGuard(params, every_n_steps=1, max_overhead=None) as guard:
        for step in range(3):
            grads = gradients_of(w, b, v)
            report = guard.after_backward(step, grads[: len(params)], loss=lambda: loss_of(w, b, v))
            assert report is not None
            assert report.verdict.is_bug is False
            if step == 1:
                params.append(v)
    assert list(report.tensors) == ["0", "1", "2"]


@pytest.mark.parametrize(
    "returned", [(0.5, {"w": np.ones(2)}), (0.5, 0.9), (np.float32(0.5), np.ones(3)), [0.5, [0.1, 0.2]]], ids=str
)
def test_a_loss_that_returns_more_is_refused(returned: Any) -> None:
    """The message says what it returned and how to take the loss alone."""
    with pytest.raises(TypeError, match=r"the loss returned a (tuple|list) of 2 \(.*\); expected a number") as raised:
        check({"w": np.ones(2)}, {"w": np.ones(2)}, lambda: returned)
    assert "loss=lambda: f()[0]" in str(raised.value)
