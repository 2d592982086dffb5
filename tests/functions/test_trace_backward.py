"""Hand-written functions, checked as a training calls them."""

import logging
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from layers import Affine, Array, RecurrentModel, affine_backward, affine_forward, normal

from gradguard import Verdict, attributes, trace_backward

STEP = ("step_forward", "step_backward")
DENSE = ("dense_forward", "dense_backward")


def halved(grads: list[Array], timestep: int) -> list[Array]:
    """The gradient for h_prev is half the right one until timestep 3."""
    grads[1] = grads[1] * np.float32(0.5 if timestep <= 3 else 1)
    return grads


@pytest.mark.parametrize("faulty", [lambda grads, _: grads, halved])
def test_a_training_is_the_same_bit_for_bit(faulty: Any) -> None:
    """Losses and parameters with a traced step and without, and nothing is left in the model."""
    alone, traced = RecurrentModel(faulty), RecurrentModel(faulty)
    losses = [alone.train(seed) for seed in range(3)]
    with trace_backward(traced, *STEP, *DENSE):
        first = traced.train(0)
    assert [first, traced.train(1), traced.train(2)] == losses
    assert vars(traced).keys() == vars(alone).keys()
    for name in ("Wx", "Wh", "b", "V"):
        assert np.array_equal(getattr(traced, name), getattr(alone, name))


def test_the_first_wrong_function_timestep_and_input_are_named() -> None:
    """In the order of the backward pass the error enters at timestep 3 of 0 to 5; the dense layer is right."""
    model = RecurrentModel(halved)
    with trace_backward(model, *STEP, *DENSE) as traced:
        model.train(0)
    assert str(traced.first_wrong) == "RecurrentModel.step_backward at call 3, for h_prev"
    assert [each.name for each in traced.functions] == ["RecurrentModel.step_backward", "RecurrentModel.dense_backward"]
    step, dense = (each.report for each in traced.functions)
    assert [name for name, tensor in step.tensors.items() if tensor.verdict.is_bug] == ["h_prev"]
    assert step.tensors["h_prev"].ratio == pytest.approx(2, abs=1e-5)
    assert "wrong at calls 0 to 3, right at 4 and 5; the error enters at call 3" in step.tensors["h_prev"].cause
    assert dense.verdict is Verdict.ok
    assert traced.report.tensors["RecurrentModel.step_backward.h_prev"].verdict is Verdict.scale
    assert str(traced).startswith(
        "RecurrentModel.step_backward is wrong in its gradient for h_prev: numerical = 2 x backprop"
    )


def test_a_right_training_has_no_first_wrong_call() -> None:
    """All inputs of both functions are ok, at each of their calls."""
    model = RecurrentModel()
    with trace_backward(model, *STEP, *DENSE) as traced:
        model.train(0)
    assert traced.first_wrong is None
    assert {tensor.verdict for tensor in traced.report.tensors.values()} == {Verdict.ok}
    assert "RecurrentModel.step_backward: 6 of 6 calls checked." in traced.report.explanation


def test_parameters_that_are_attributes_are_those_of_the_forward_pass() -> None:
    """The layer is updated within the block, and its gradients add up; the doubled bias gradient is found."""
    layer = Affine(factor=2.0)
    before = layer.db.copy()
    params, grads = attributes(layer, "w", "b"), attributes(layer, w="dw", b="db")
    with trace_backward(layer, "forward", "backward", cache=False, params=params, grads=grads) as traced:
        layer.forward(normal(6, 5))
        layer.backward(normal(6, 4, seed=3))
        layer.w -= 10 * layer.dw
    assert np.array_equal(layer.db, before + 2 * normal(6, 4, seed=3).sum(axis=0))
    assert layer.calls == 1
    assert {name: tensor.verdict for name, tensor in traced.report.tensors.items()} == {
        "x": Verdict.ok,
        "w": Verdict.ok,
        "b": Verdict.scale,
    }


def test_an_exception_in_the_block_leaves_the_functions_as_they_were() -> None:
    """Also one that comes before the second function is replaced."""
    model = RecurrentModel()
    with pytest.raises(ZeroDivisionError), trace_backward(model, *STEP):
        raise ZeroDivisionError
    assert "step_forward" not in vars(model)
    with (
        pytest.raises(AttributeError, match="has no attribute 'step_back'"),
        trace_backward(model, STEP[0], "step_back"),
    ):
        pass
    assert "step_forward" not in vars(model)


def test_functions_of_a_class_and_of_a_module_are_traced() -> None:
    """A class traces all its objects, each with its own calls; a module what it calls by its own names."""
    own = vars(Affine)["forward"]
    first, second = Affine(), Affine()
    with trace_backward(Affine, "forward", "backward", cache=False) as traced:
        out = second.forward(first.forward(normal(6, 5)) @ normal(4, 5))
        first.backward(second.backward(out) @ normal(4, 5).T)
    assert vars(Affine)["forward"] is own
    assert (traced.functions[0].name, traced.functions[0].calls) == ("Affine.backward", 2)
    assert traced.report.verdict is Verdict.ok

    module = ModuleType("layers_of_a_user")
    module.forward, module.backward = affine_forward, affine_backward  # type: ignore[attr-defined]
    with trace_backward(module, "forward", "backward") as traced:
        out, cache = module.forward(normal(6, 5), w=normal(5, 4), b=normal(4))
        module.backward(out, cache)
    assert module.forward is affine_forward
    assert list(traced.report.tensors) == ["x", "w", "b"]
    assert traced.report.verdict is Verdict.ok


def test_objects_of_a_class_may_be_called_in_any_order() -> None:
    """Without a cache, a backward call belongs to the last forward call on the same object."""
    first, second = Affine(), Affine()
    with trace_backward(Affine, "forward", "backward", cache=False) as traced:
        first.forward(normal(6, 5))
        second.forward(normal(3, 5))
        first.backward(normal(6, 4))
        second.backward(normal(3, 4))
    assert traced.report.verdict is Verdict.ok
    assert [each.report.tensors["x"].shape for each in traced.report.functions[0].report.functions] == [(6, 5), (3, 5)]


def test_inputs_are_those_of_the_call_although_the_training_writes_to_them() -> None:
    """A buffer holds the input of each step in turn; the error is at the step with the input 1."""

    class Square:
        def forward(self, x: Array) -> tuple[Array, Array]:
            return x**2, x.copy()

        def backward(self, dout: Array, x: Array) -> Array:
            return 2 * dout * x * (2 if x[0] == 1 else 1)

    square, buffer, caches = Square(), np.zeros(3), []
    with trace_backward(square, "forward", "backward") as traced:
        for step in range(3):
            buffer[:] = step
            caches.append(square.forward(buffer)[1])
        for cache in reversed(caches):
            square.backward(np.ones(3), cache)
    assert str(traced.first_wrong) == "Square.backward at call 1, for x"


def test_functions_that_were_not_called_are_never_called_right() -> None:
    """The verdict is inconclusive, and the report says which attribute the training must call."""
    model = RecurrentModel()
    with trace_backward(model, *STEP) as traced:
        pass
    assert traced.report.verdict is Verdict.inconclusive
    assert "step_forward was not called through RecurrentModel" in traced.report.explanation


def test_cotangents_of_zeros_show_nothing() -> None:
    """A function that only ever had zeros to pass back is not called right."""
    layer = Affine()
    with trace_backward(layer, "forward", "backward") as traced:
        layer.forward(normal(6, 5))
        layer.backward(np.zeros((6, 4)))
    assert traced.report.verdict is Verdict.inconclusive
    assert "1 call of backward had cotangents of zeros, which show nothing" in traced.report.explanation


def test_a_function_that_cannot_be_called_again_costs_its_check_and_not_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The training gets its result, one warning says why there is no check, and the verdict is inconclusive."""

    class Once(Affine):
        def forward(self, x: Array) -> Array:
            if self.calls:
                raise RuntimeError("the stream is used up")
            return super().forward(x)

    layer = Once()
    with (
        caplog.at_level(logging.WARNING, "gradguard"),
        trace_backward(layer, "forward", "backward", cache=False) as traced,
    ):
        layer.forward(normal(6, 5))
        dx = layer.backward(normal(6, 4))
    assert np.array_equal(dx, normal(6, 4) @ layer.w.T)
    assert "call 0 of Once.backward is not checked: RuntimeError: the stream is used up" in caplog.text
    assert traced.report.verdict is Verdict.inconclusive
    assert "the stream is used up" in traced.report.explanation


def test_a_call_that_could_not_be_checked_is_not_hidden_by_right_ones() -> None:
    """The function may be wrong there: its first call is right, and its second cannot be made again."""

    class Twice(Affine):
        def forward(self, x: Array) -> Array:
            if self.calls >= 2 and len(x) == 3:
                raise RuntimeError("the stream is used up")
            return super().forward(x)

    layer = Twice()
    with trace_backward(layer, "forward", "backward") as traced:
        layer.forward(normal(6, 5))
        layer.forward(normal(3, 5))
        layer.backward(normal(3, 4))
        layer.x = normal(6, 5)
        layer.backward(normal(6, 4))
    assert traced.report.tensors["x"].verdict is Verdict.ok
    assert traced.report.verdict is Verdict.inconclusive


def test_a_traced_function_may_call_another_one() -> None:
    """The calls within a replay are not those of the training."""
    layer, other = Affine(), Affine()

    class Outer:
        def forward(self, x: Array) -> Array:
            return np.tanh(layer.forward(x))

        def backward(self, dout: Array) -> Array:
            return layer.backward(dout * (1 - np.tanh(layer.x @ layer.w + layer.b) ** 2))

    outer = Outer()
    with (
        trace_backward(outer, "forward", "backward", cache=False) as outside,
        trace_backward(layer, "forward", "backward", cache=False) as inside,
    ):
        dx = outer.backward(outer.forward(normal(6, 5)))
    assert [trace.functions[0].calls for trace in (outside, inside)] == [1, 1]
    assert [trace.report.verdict for trace in (outside, inside)] == [Verdict.ok, Verdict.ok]
    h = np.tanh(other.forward(normal(6, 5)))
    assert np.array_equal(dx, other.backward(h * (1 - h**2)))


def test_what_an_inner_traced_function_writes_to_is_put_back_too() -> None:
    """The outer function reaches it through the wrapper that stands in the class."""
    counts = {"forward": 0, "backward": 0}

    class Inner:
        def forward(self, x: Array) -> tuple[Array, Array]:
            counts["forward"] += 1
            return x**2, x

        def backward(self, dout: Array, x: Array) -> Array:
            counts["backward"] += 1
            return 2 * dout * x

    class Outer:
        inner: Inner

        def forward(self, x: Array) -> tuple[Array, Array]:
            return self.inner.forward(x)

        def backward(self, dout: Array, x: Array) -> Array:
            return self.inner.backward(dout, x)

    outer = Outer()
    outer.inner = Inner()
    with trace_backward(outer, "forward", "backward") as outside, trace_backward(Inner, "forward", "backward"):
        outer.backward(*outer.forward(normal(3)))
    assert outside.report.verdict is Verdict.ok
    assert counts == {"forward": 1, "backward": 1}


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ((), {}, "expected pairs of the names"),
        (("forward",), {}, "expected pairs of the names"),
        (("forward", "backward"), {"params": {}}, "one of params and grads was given"),
        (("forward", "backward") * 2, {"expected": {"x": "..."}}, "one with block for each pair"),
    ],
)
def test_a_mistake_in_the_call_is_an_error_at_once(names: tuple[str, ...], options: Any, message: str) -> None:
    """Names that are no pairs, and options that do not fit."""
    with pytest.raises(ValueError, match=message):
        trace_backward(Affine(), *names, **options)
