"""Attributes of an object as a mapping."""

from typing import Any

import numpy as np
import pytest

from gradguard import GradGuard, attributes, check
from gradguard.loss import keeps_assigned_objects


class Model:
    """Keeps what it learns in attributes, and binds them anew at each update."""

    def __init__(self, dtype: Any = np.float64) -> None:
        rng = np.random.default_rng(0)
        self.W, self.b = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=3).astype(dtype)
        self.dW, self.db = np.zeros_like(self.W), np.zeros_like(self.b)
        self.x = rng.normal(size=(4, 5)).astype(dtype)
        self.hidden = 3

    def loss(self) -> Any:
        """A smooth loss."""
        return (np.tanh(self.W @ self.x + self.b[:, None]) ** 2).sum()

    def backward(self) -> None:
        """Fill the gradients."""
        h = np.tanh(self.W @ self.x + self.b[:, None])
        slope = 2 * h * (1 - h**2)
        self.dW, self.db = slope @ self.x.T, slope.sum(1)

    def update(self) -> None:
        """Bind the parameters anew."""
        self.W, self.b = self.W - 0.01 * self.dW, self.b - 0.01 * self.db


def parts(model: Model) -> tuple[Any, Any]:
    """Its parameters and its gradients."""
    return attributes(model, "W", "b"), attributes(model, W="dW", b="db")


def test_it_reads_and_binds_the_attributes() -> None:
    """Each look is a look at the object."""
    model = Model()
    params, grads = parts(model)
    assert dict(params) == {"W": model.W, "b": model.b} or list(params) == ["W", "b"]
    assert params["W"] is model.W
    assert grads["b"] is model.db
    model.W = model.W + 1
    assert params["W"] is model.W
    params["b"] = np.ones(3)
    assert model.b is params["b"]
    assert (len(params), repr(grads)) == (2, "attributes(<Model>, W='dW', b='db')")


def test_a_training_that_binds_its_attributes_anew_is_checked() -> None:
    """At every check, on float64 copies that stand in for the attributes while the loss runs."""
    model = Model(np.float32)
    params, grads = parts(model)
    plain = Model(np.float32)
    with GradGuard(params, model.loss, every_n_steps=1, max_overhead=None) as guard:
        for step in range(4):
            for one in (model, plain):
                one.backward()
            if step == 3:
                model.dW *= 2
            report = guard.after_backward(step, grads)
            assert report is not None
            assert report.precision == "float64"
            assert report.tensors["b"].verdict == "ok"
            assert (report.tensors["W"].verdict == "scale") == (step == 3)
            if step == 3:
                model.dW /= 2
            for one in (model, plain):
                one.update()
    assert model.W.tobytes() == plain.W.tobytes()
    assert vars(model).keys() == vars(plain).keys()


class Watched(Model):
    """Has a property before one attribute, a default of the class for another, and a slot."""

    __slots__ = ("c",)
    d = np.ones(2)

    def __init__(self) -> None:
        super().__init__()
        self.c = np.ones(2)
        self.own = np.ones(2)

    @property
    def copied(self) -> Any:
        """A copy of an array, as some models hand out."""
        return self.own.copy()

    @copied.setter
    def copied(self, value: Any) -> None:
        self.own = value.copy()


class Converts(Model):
    """Converts what is assigned."""

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, np.asarray(value, np.float64).copy() if isinstance(value, np.ndarray) else value)


@pytest.mark.parametrize(
    ("model", "name", "keeps"),
    [
        (Watched(), "W", True),
        (Watched(), "c", True),
        (Watched(), "copied", False),
        (Watched(), "d", False),
        (Converts(), "W", False),
    ],
)
def test_only_plain_attributes_are_swapped(model: Model, name: str, keeps: bool) -> None:
    """A property may copy, and binding what the class holds would leave a new attribute behind."""
    assert keeps_assigned_objects(attributes(model, name)) is keeps


def test_an_object_that_converts_what_is_assigned_is_checked_natively() -> None:
    """Its live arrays are moved in place."""
    model = Converts()
    model.backward()
    report = check(*parts(model), model.loss)
    assert report.precision == "native"
    assert report.verdict.is_bug is False


@pytest.mark.parametrize(
    ("names", "renamed", "error", "words"),
    [
        (("Wx",), {}, AttributeError, "Model has no attribute 'Wx'; its arrays are "),
        ((), {"W": "dw"}, AttributeError, "Model has no attribute 'dw'; its arrays are dW, "),
        ((), {}, ValueError, "attributes was given no names; its arrays are W, b, dW, db, x"),
        (("W", "W"), {}, ValueError, "given a name twice: W, W"),
        (("W",), {"W": "dW"}, ValueError, "given a name twice: W, W"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    names: tuple[str, ...], renamed: dict[str, str], error: type[Exception], words: str
) -> None:
    """The message lists the arrays that there are, those first that are called alike."""
    with pytest.raises(error) as raised:
        attributes(Model(), *names, **renamed)
    assert words in str(raised.value)


def test_layers_that_are_objects_are_a_mapping_of_attributes() -> None:
    """Their names show the layer."""
    layers = [Model(), Model()]
    layers[1].W = layers[1].W + 1
    for layer in layers:
        layer.backward()
    params, grads = ({str(i): side[of] for i, side in enumerate(map(parts, layers))} for of in (0, 1))
    report = check(params, grads, lambda: layers[0].loss() + layers[1].loss())
    assert list(report.tensors) == ["0.W", "0.b", "1.W", "1.b"]
    assert report.verdict.is_bug is False
    assert report.precision == "float64"
