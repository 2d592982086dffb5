import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.loss.objective import Objective
from gradguard.loss.signature import Reduction, require_reduction, takes_parameters
from gradguard.perturbation.spaces import Float64Copies, InPlace, NativeCopies
from gradguard.testing import LSTM, random_batch


def nothing() -> None:
    """There is no state to put back."""


def objective(loss: Callable[..., object], reduction: Reduction | None = None) -> Objective:
    """The loss where one array of three ones stands."""
    return Objective(loss, InPlace({"w": np.ones(3)}), reduction, nothing)


class Model:
    """Its loss as a method, and as the model itself."""

    def loss(self, params: object = None) -> float:
        """Works without arguments."""
        return 0.0 if params is None else 1.0

    def loss_of(self, params: object) -> float:
        """Needs the parameters."""
        return 0.0 if params is None else 1.0

    def __call__(self, *args: object, **kwargs: object) -> float:
        """Takes anything."""
        return float(len(args) + len(kwargs))


def of_two(params: object, batch: object) -> float:
    """Needs the parameters and a batch."""
    return 0.0 if params is batch else 1.0


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda: 0.0, False),
        (lambda params: params, True),
        (lambda batch=0: batch, False),
        (lambda params, batch=0: (params, batch), True),
        (Model().loss, False),
        (Model().loss_of, True),
        (Model(), False),
        (functools.partial(of_two, batch=0), True),
        (functools.partial(of_two, 0, 0), False),
        (max, False),
    ],
)
def test_a_loss_is_called_the_way_its_signature_asks_for(loss: Callable[..., object], expected: bool) -> None:
    """One argument without a default makes it loss(params); anything that works without arguments is loss()."""
    assert takes_parameters(loss) is expected


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (0.25, ["float", "callable", "loss()", "loss(params)"]),
        (np.ones(3), ["ndarray", "callable"]),
        (of_two, ["params, batch", "loss()", "loss(params)"]),
        (lambda *, batch: batch, ["batch", "loss()", "loss(params)"]),
    ],
)
def test_a_loss_that_cannot_be_called_is_refused(loss: Any, words: list[str]) -> None:
    """The value of the loss instead of the loss, or one that wants more, is told with what was expected."""
    with pytest.raises(TypeError) as raised:
        takes_parameters(loss)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize("reduction", ["none", "average", ""])
def test_an_unknown_reduction_is_told_with_those_there_are(reduction: str) -> None:
    """The message repeats what was given and lists sum and mean."""
    with pytest.raises(ValueError, match=rf"{reduction!r}.*'sum', 'mean' or None"):
        require_reduction(reduction)
    assert [require_reduction(valid) for valid in ("sum", "mean", None)] == ["sum", "mean", None]


@pytest.mark.parametrize(
    "value", [1.5, 3, np.float32(1.5), np.float16(1.5), np.array(1.5), np.array([[1.5]], np.float32), [1.5]]
)
def test_a_scalar_loss_may_come_in_any_numeric_type(value: Any) -> None:
    """Python numbers, NumPy scalars and arrays of one entry are one loss in float64."""
    losses = objective(lambda: value)()
    assert losses.shape == (1,)
    assert losses.dtype == np.float64
    assert objective(lambda: value).total(losses) == float(np.asarray(value).item())


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (None, "NoneType"),
        ("0.3", "str"),
        (object(), "object"),
        (1j, "complex"),
        (True, "bool"),
        ((0.3, {"w": np.ones(3)}), "a tuple of 2 (float, dict)"),
        (np.empty(0), "shape (0,)"),
    ],
    ids=["None", "text", "object", "complex", "bool", "tuple", "empty array"],
)
def test_a_loss_that_is_no_number_is_told_by_its_type(value: Any, word: str) -> None:
    """A forgotten return, or the gradients returned with the loss, is an error that says what came back."""
    with pytest.raises(TypeError, match=r"the loss returned .*expected a number, or an array of unreduced") as raised:
        objective(lambda: value)()
    assert word in str(raised.value)


def test_unreduced_losses_without_a_reduction_are_refused() -> None:
    """The gradient is of a scalar, and the message asks which."""
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*reduction='sum' or reduction='mean'"):
        objective(lambda: np.ones((2, 3)))()


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1), ("mean", 1 / 6)])
def test_unreduced_losses_are_reduced_as_asked(reduction: Reduction, share: float) -> None:
    """`total` is the sum or the mean of what the loss returned."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    loss = objective(lambda: values, reduction)
    losses = loss()
    assert losses.shape == (6,)
    assert loss.total(losses) == pytest.approx(15 * share, rel=1e-15)


def test_differences_of_unreduced_losses_are_not_rounded_to_float32() -> None:
    """Small changes survive beside large losses: they are differenced one by one and summed in float64."""
    losses = np.full(1000, 1000, np.float32)
    loss = objective(lambda: losses, "sum")
    before = loss()
    losses[::2] = np.nextafter(np.float32(1000), np.float32(2000))
    assert loss.total(loss() - before) == 500 * float(np.spacing(np.float32(1000)))
    assert float(losses.sum()) - 1e6 != 500 * float(np.spacing(np.float32(1000)))  # what a float32 sum says


def test_unreduced_losses_of_the_lstm_have_less_noise_than_their_mean() -> None:
    """On a real float32 network the reduction is where most of the rounding noise comes from."""
    model, batch = LSTM(3, 3, 3), random_batch(30, 4, inputs=3, outputs=3)
    twin = {name: param.astype(np.float64) for name, param in model.params.items()}
    errors: dict[str, list[float]] = {"mean": [], "unreduced": []}
    rng = np.random.default_rng(0)
    for _ in range(60):
        model.params["Wh"][...] = twin["Wh"] * (1 + 1e-4 * rng.standard_normal(twin["Wh"].shape))
        exact = float(model.loss(batch, {name: param.astype(np.float64) for name, param in model.params.items()}))
        for form, loss in (
            ("mean", objective(lambda: model.loss(batch))),
            ("unreduced", objective(lambda: model.losses(batch), "mean")),
        ):
            errors[form].append(loss.total(loss()) - exact)
    assert 4 * np.std(errors["unreduced"]) < np.std(errors["mean"])


@given(
    deviations=st.lists(st.floats(0, 1e3), min_size=1, max_size=20),
    reduction=st.sampled_from([None, "sum", "mean"]),
)
def test_the_spread_of_the_total_is_that_of_independent_losses(
    deviations: list[float], reduction: Reduction | None
) -> None:
    """Variances add, and a mean divides by the number of losses."""
    values = np.array(deviations) if reduction else np.array(deviations[:1])
    loss = objective(lambda: np.zeros(values.size), reduction)
    loss()
    share = 1 / values.size if reduction == "mean" else 1.0
    assert loss.spread(values) == pytest.approx(share * math.hypot(*values), rel=1e-12)


def test_a_loss_may_write_every_result_into_the_same_buffer() -> None:
    """A C++ loss that hands out its own memory is copied before the next evaluation overwrites it."""
    weights, out = np.ones(3), np.empty(3)
    loss = Objective(lambda: np.multiply(weights, 2, out=out), InPlace({"w": weights}), "sum", nothing)
    first = loss()
    weights[...] = 5
    loss()
    assert (first == 2).all()


def test_state_is_put_back_before_each_evaluation_and_each_is_counted() -> None:
    """The loss always starts from the same state."""
    state, seen = [0], []

    def restore() -> None:
        state[0] = 7

    def loss() -> float:
        seen.append(state[0])
        state[0] += 1
        return 0.0

    stateful = Objective(loss, InPlace({"w": np.ones(3)}), None, restore)
    for _ in range(3):
        stateful()
    assert seen == [7, 7, 7]
    assert stateful.evaluations == 3


def test_the_loss_is_handed_what_stands_where_it_is_evaluated() -> None:
    """loss(params) gets the copies of its space under the same names, loss() the copies in the mapping."""
    live = {"w": np.ones(3, np.float32), "v": np.ones(2, np.float32)}
    in_float32 = Objective(lambda params: params["w"].sum() + params["v"].sum(), NativeCopies(live), None, nothing)
    in_float64 = Objective(lambda: live["w"].sum() + live["v"].sum(), Float64Copies(live, live), None, nothing)
    assert in_float32.total(in_float32()) == in_float64.total(in_float64()) == 5
    assert in_float32.dtype == np.float32
    assert in_float64.dtype == np.float64
    with in_float64.moving("w") as place:
        place.displace_entry((0,), 2.0**-40)
        assert in_float64.total(in_float64()) == 5 + 2.0**-40
    assert live["w"].dtype == np.float32


def test_a_loss_may_rebind_entries_of_the_mapping_it_is_handed() -> None:
    """A pruning mask, or weights normalised before use, is the loss's own business and gone at the next evaluation."""

    def doubled(params: dict[str, Any]) -> float:
        params["w"] = 2 * params["w"]
        return float(params["w"].sum())

    loss = Objective(doubled, NativeCopies({"w": np.ones(3)}), None, nothing)
    assert loss.total(loss()) == loss.total(loss()) == 6
