"""The check of one hand-written layer, in the forms that layers have."""

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from layers import Affine, Array, affine_backward, affine_forward, normal, step_backward, step_forward, step_inputs

from gradguard import Verdict, attributes, check_backward, snapshot_rng

AFFINE = (normal(6, 5), normal(5, 4, seed=1), normal(4, seed=2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["auto", "native"])
def test_every_gradient_of_a_right_layer_is_ok_under_the_names_of_the_inputs(dtype: type, precision: str) -> None:
    """An LSTM step with two outputs; the names are the parameters of forward."""
    report = check_backward(step_forward, step_backward, step_inputs(dtype), precision=precision)
    assert list(report.tensors) == ["x", "h_prev", "c_prev", "Wx", "Wh", "b"]
    assert {tensor.verdict for tensor in report.tensors.values()} == {Verdict.ok}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cause_says_for_which_output_a_gradient_is_wrong(dtype: type) -> None:
    """The part of dh_prev that comes from dh is doubled, that from dc is right."""
    report = check_backward(step_forward, partial(step_backward, h_of_h=2.0), step_inputs(dtype))
    assert [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug] == ["h_prev"]
    sentence = "numerical = 0.5 x backprop for cotangents of h; right for those of c"
    assert sentence in report.tensors["h_prev"].cause
    assert sentence in report.explanation


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, Verdict.float_precision), (1.1, Verdict.structure)])
def test_a_backward_pass_that_cancels_in_float32_is_checked_in_float64(factor: float, verdict: Verdict) -> None:
    """Terms of 100,000 times the result lose five digits; a wrong entry is wrong in float64 too."""

    def backward(dout: Array, _: Any) -> Array:
        grad = dout * 100_002 - dout * 100_000
        grad[0] *= factor
        return grad

    report = check_backward(lambda x: (2 * x, None), backward, (normal(50, dtype=np.float32),))
    assert report.tensors["x"].verdict is verdict
    assert report.tensors["x"].discrepancy > 1e-4


def test_a_factor_on_a_whole_gradient_is_measured() -> None:
    """A gradient that is a third of the right one: n is three times g."""
    report = check_backward(step_forward, partial(step_backward, h_of_h=1 / 3, h_of_c=1 / 3), step_inputs())
    assert report.tensors["h_prev"].verdict is Verdict.scale
    assert report.tensors["h_prev"].ratio == pytest.approx(3, abs=1e-6)
    assert "numerical = 3 x backprop for cotangents of h and c" in report.tensors["h_prev"].cause


def test_a_backward_pass_that_is_not_linear_in_its_cotangents_is_recognized() -> None:
    """Clipping shows where both cotangents are large together, and in neither alone."""

    def forward(x: Array) -> tuple[Array, Array, None]:
        return x, x, None

    def backward(dy: Array, dz: Array, _: None) -> Array:
        return np.clip(dy + dz, -2.0, 2.0) if np.any(dy) and np.any(dz) else dy + dz

    report = check_backward(forward, backward, (normal(40),))
    assert report.verdict.is_bug
    assert "backward is not linear in its cotangents" in report.tensors["x"].cause


def test_an_input_without_a_gradient_is_not_checked_and_named() -> None:
    """The report holds the others, and says which one it does not hold."""

    def backward(dout: Array, cache: Any) -> tuple[None, Array, Array]:
        return (None, *affine_backward(dout, cache)[1:])

    report = check_backward(affine_forward, backward, AFFINE)
    assert list(report.tensors) == ["w", "b"]
    assert report.explanation.endswith("Not checked: x, for which backward returned None.")


def test_integers_options_and_numbers_are_held_fixed() -> None:
    """Gradients are in the order of the arrays; one that is returned for a number is named as not checked."""

    def forward(indices: Array, table: Array, scale: float, _: dict[str, str]) -> tuple[Array, Any]:
        return scale * table[indices], (indices, table, scale)

    def table_only(dout: Array, cache: Any) -> Array:
        indices, table, scale = cache
        grad = np.zeros_like(table)
        np.add.at(grad, indices, scale * dout)
        return grad

    def of_all(dout: Array, cache: Any) -> tuple[None, Array, float, None]:
        return None, table_only(dout, cache), 0.0, None

    inputs = (np.array([1, 0, 1]), normal(3, 2), 0.5, {"mode": "train"})
    assert check_backward(forward, table_only, inputs).verdict is Verdict.ok
    report = check_backward(forward, of_all, inputs)
    assert list(report.tensors) == ["table"]
    assert "Not checked: scale (float)" in report.explanation


@pytest.mark.parametrize("key", ["{}", "d{}"])
def test_dicts_and_lists_of_parameters_are_checked_by_name(key: str) -> None:
    """A dict of gradients has the keys of the parameters, with or without a d."""

    def forward(x: Array, params: dict[str, Any]) -> tuple[Array, Any]:
        hidden = np.tanh(x @ params["W"])
        return hidden * params["scales"][0] + params["scales"][1], (x, hidden, params)

    def backward(dout: Array, cache: Any) -> tuple[Array, dict[str, Any]]:
        x, hidden, params = cache
        da = dout * params["scales"][0] * (1 - hidden**2)
        scales = [(dout * hidden).sum(axis=0), 2 * dout.sum(axis=0)]
        return da @ params["W"].T, {key.format("W"): x.T @ da, key.format("scales"): scales}

    params = {"W": normal(5, 3), "scales": [normal(3), normal(3)], "mode": "train"}
    report = check_backward(forward, backward, (normal(6, 5), params), names=("data", "layer"))
    assert list(report.tensors) == ["data", "layer.W", "layer.scales.0", "layer.scales.1"]
    assert [name for name, tensor in report.tensors.items() if tensor.verdict.is_bug] == ["layer.scales.1"]
    assert report.tensors["layer.scales.1"].ratio == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_an_object_keeps_its_cache_and_adds_up_its_gradients(factor: float) -> None:
    """What was in the gradients before does not count, and the object is as it was."""
    layer = Affine(factor)
    before = {name: np.array(value) for name, value in vars(layer).items()}
    report = check_backward(
        layer.forward,
        layer.backward,
        (normal(6, 5),),
        cache=False,
        params=attributes(layer, "w", "b"),
        grads=attributes(layer, w="dw", b="db"),
    )
    assert {name: tensor.verdict for name, tensor in report.tensors.items()} == {
        "x": Verdict.ok,
        "w": Verdict.ok,
        "b": Verdict.ok if factor == 1 else Verdict.scale,
    }
    assert vars(layer).keys() == before.keys()
    assert all(np.array_equal(value, before[name]) for name, value in vars(layer).items())


def test_parameters_of_an_object_that_are_not_given_are_named_as_not_checked() -> None:
    """Whether there is a cache is seen; how to have the parameters checked is said."""
    layer = Affine(factor=2.0)
    report = check_backward(layer.forward, layer.backward, (normal(6, 5),))
    assert list(report.tensors) == ["x"]
    assert "Not checked: w and b of the object of forward" in report.explanation
    assert report.explanation.endswith('grads=attributes(layer, w="dw", b="db").')


def test_gradients_that_the_first_backward_pass_makes_are_read_by_a_function() -> None:
    """A lambda is asked after the backward pass, when they are there."""

    class Lazy(Affine):
        def backward(self, dout: Array) -> Array:
            self.grads = {"w": self.x.T @ dout, "b": dout.sum(axis=0)}
            return dout @ self.w.T

    layer = Lazy()
    report = check_backward(
        layer.forward,
        layer.backward,
        (normal(6, 5),),
        cache=False,
        params=attributes(layer, "w", "b"),
        grads=lambda: layer.grads,
    )
    assert list(report.tensors) == ["x", "w", "b"]
    assert report.verdict is Verdict.ok
    assert not hasattr(layer, "grads")


def test_random_masks_need_a_snapshot_that_both_passes_start_from() -> None:
    """Without one the verdict is nondeterministic, with one a right dropout is ok, and the stream is as it was."""
    rng = np.random.default_rng(0)

    def forward(x: Array) -> tuple[Array, Array]:
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask

    def backward(dout: Array, mask: Array) -> Array:
        return dout * mask

    state = rng.bit_generator.state
    assert check_backward(forward, backward, (normal(6, 5),)).verdict is Verdict.nondeterministic
    report = check_backward(forward, backward, (normal(6, 5),), snapshot=snapshot_rng(rng))
    assert report.verdict is Verdict.ok
    assert rng.bit_generator.state == state


def test_a_layer_with_parameters_starts_from_the_snapshot_too() -> None:
    """Its backward pass is run twice, and both times with the mask that the differences have."""
    rng = np.random.default_rng(0)

    class Masked(Affine):
        def forward(self, x: Array) -> Array:
            self.mask = rng.random(x.shape) < 0.5
            return super().forward(x * self.mask)

        def backward(self, dout: Array) -> Array:
            return super().backward(dout) * self.mask

    layer = Masked()
    params, grads = attributes(layer, "w", "b"), attributes(layer, w="dw", b="db")
    x, snapshot = normal(6, 5), snapshot_rng(rng)
    report = check_backward(
        layer.forward, layer.backward, (x,), cache=False, params=params, grads=grads, snapshot=snapshot
    )
    assert report.verdict is Verdict.ok


def test_functions_may_write_to_everything_that_they_are_given() -> None:
    """Inputs, cotangents and cache are copies, and dicts among the inputs are put back."""

    def forward(x: Array, state: dict[str, Any]) -> tuple[Array, Any]:
        state["calls"] = state.get("calls", 0) + 1
        np.tanh(x, out=x)
        return x.copy(), x

    def backward(dout: Array, out: Array) -> Array:
        np.square(out, out=out)
        dout *= 1 - out
        return dout

    x, state = normal(6, 5), dict[str, Any]()
    before = x.copy()
    assert check_backward(forward, backward, (x, state)).verdict is Verdict.ok
    assert np.array_equal(x, before)
    assert not state


def square(x: Array) -> tuple[Array, Array]:
    """The square and its cache."""
    return x**2, x


X = (normal(3),)


def passed_on(dout: Array, *_: Any) -> Array:
    """The cotangents, as a gradient of the right shape."""
    return dout


@pytest.mark.parametrize(
    ("forward", "backward", "inputs", "options", "message"),
    [
        (
            np.square,
            passed_on,
            X,
            {"cache": True},
            r"TypeError: forward returned one ndarray .* pass cache=False",
        ),
        (
            np.square,
            lambda d, c: d * c,
            X,
            {},
            r"TypeError: backward\(d, c\) .* with 1 cotangent: .* no cache",
        ),
        (
            lambda x: (x, x),
            lambda d, e, _: d + e,
            X,
            {},
            r"TypeError: backward\(d, e, _\) cannot be called with 1 cotangent and the cache",
        ),
        (square, passed_on, X[0], {}, r"TypeError: inputs is a ndarray; expected a tuple .* such as \(x, W, b\)"),
        (
            square,
            lambda d, _: (d, d),
            X,
            {},
            "ValueError: backward returned 2 gradients, and forward has the inputs x;",
        ),
        (square, lambda d, _: d[:2], X, {}, r"ValueError: the gradient of 'x' has shape \(2,\); expected \(3,\)"),
        (square, lambda d, _: {"dy": d}, X, {}, "ValueError: backward has an entry 'dy', which belongs to none of x;"),
        (square, lambda *_: None, X, {}, "ValueError: backward returned no gradient; expected a gradient of"),
        (square, passed_on, (np.arange(3),), {}, "ValueError: there is nothing to check; expected a gradient of"),
        (square, passed_on, X, {"names": ("a", "b")}, "ValueError: names is .*; expected 1 different name,"),
        (square, passed_on, X, {"params": {"w": X[0]}}, "ValueError: one of params and grads was given"),
        (square, passed_on, X, {"carried": {"x": 0}}, "ValueError: carried was given without steps"),
        (square, passed_on, X, {"steps": 0}, "ValueError: steps is 0; expected a whole number of at least 1"),
    ],
)
def test_a_mistake_is_an_error_at_once_that_says_what_was_expected(
    forward: Any, backward: Any, inputs: Any, options: Any, message: str
) -> None:
    """No cache, other arguments, too many gradients, other shapes, nothing to check, options that do not fit."""
    with pytest.raises((TypeError, ValueError)) as raised:
        check_backward(forward, backward, inputs, **options)
    assert re.match(message, f"{raised.type.__name__}: {raised.value}")


def test_tensors_of_pytorch_are_refused_with_the_remedy() -> None:
    """They are no arrays that a check can move."""
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"input 'x' is a PyTorch Tensor; .* wrap forward and backward"):
        check_backward(square, passed_on, (torch.ones(3),))


def test_gradients_of_other_names_are_refused_by_name() -> None:
    """A dict of gradients with a name that no parameter has, and one that lacks a name."""

    def forward(p: dict[str, Array]) -> tuple[Array, Any]:
        return p["w"] * p["b"], p

    def run(grads: Any) -> None:
        check_backward(forward, lambda d, p: (grads(d, p),), ({"w": normal(3), "b": normal(3)},))

    with pytest.raises(ValueError, match="the gradient of 'p' has an entry 'dv', which belongs to none of w and b"):
        run(lambda d, p: {"dw": d * p["b"], "db": d * p["w"], "dv": d})
    with pytest.raises(ValueError, match="the gradient of 'p' has no entry 'b'"):
        run(lambda d, p: {"dw": d * p["b"]})
