import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import Sweep, snapshot_attributes, sweep
from gradguard.testing import FAULTS, LSTM, Batch, faulty, random_batch

TIMESTEPS = 39
RECURRENT = {"Wx", "Wh", "b"}
Arrays = Mapping[str, NDArray[Any]]


def swept(model: LSTM, batch: Batch, **options: Any) -> Sweep:
    """The sweep of a model's own gradients."""
    return sweep(model.params, model.loss_and_grads(batch)[1], lambda: model.loss(batch), **options)


@pytest.fixture(scope="module")
def question() -> Batch:
    """One sequence as long as that of the question."""
    return random_batch(TIMESTEPS, 1)


@pytest.fixture(scope="module")
def right(question: Batch) -> Sweep:
    """A sweep of the question's network once it is fixed."""
    return swept(LSTM(), question, entries=25)


@pytest.fixture(scope="module")
def averaged(question: Batch) -> Sweep:
    """A sweep of the question's network as it was asked about."""
    return swept(faulty("timesteps")(), question, entries=25, constants={"timesteps": TIMESTEPS})


@pytest.fixture
def model() -> LSTM:
    """A small network."""
    return LSTM(3, 2, 3)


@pytest.fixture
def batch() -> Batch:
    """A batch for it."""
    return random_batch(5, 2, inputs=3, outputs=3)


def test_the_best_step_for_the_network_of_the_question_lies_near_that_of_its_author(right: Sweep) -> None:
    """The sweet spot of the float32 loss is near 0.02, and what is left there is far below a thousandth."""
    assert 0.005 <= right.best_step <= 0.05
    assert right.discrepancy[right.best] < 5e-4
    assert right.discrepancy[right.best] < 3 * right.discrepancy.min()
    assert right.explained


def test_the_floor_is_what_a_correct_gradient_shows(right: Sweep) -> None:
    """At every step the discrepancy of a correct gradient is about the floor."""
    shares = right.discrepancy / right.floor
    assert shares.min() > 0.3
    assert shares.max() < 2
    for curve in right.tensors.values():
        assert 0.5 < np.median(curve.discrepancy / curve.floor) < 2


def test_the_curve_is_that_of_plain_centered_differences(model: LSTM, batch: Batch) -> None:
    """Discrepancies are those that one would measure by hand, over the steps that float32 made of the nominal ones."""
    _, grads = model.loss_and_grads(batch)
    found = swept(model, batch, steps=[1e-3, 1e-2, 1e-1])
    for j, step in enumerate(found.steps):
        n, g = differences(model, batch, step), flat(grads)
        by_hand = np.linalg.norm(n - g) / (np.linalg.norm(n) + np.linalg.norm(g))
        assert found.discrepancy[j] == pytest.approx(by_hand, rel=1e-6)


def flat(arrays: Arrays) -> NDArray[np.float64]:
    """All entries, in float64."""
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])


def differences(model: LSTM, batch: Batch, step: float) -> NDArray[np.float64]:
    """Centered differences along every entry."""
    n = []
    for param in model.params.values():
        for index in np.ndindex(param.shape):
            start, points, losses = param[index], [], []
            for sign in (1, -1):
                param[index] = float(start) + sign * step
                points.append(float(param[index]))
                losses.append(float(model.loss(batch)))
            param[index] = start
            n.append((losses[0] - losses[1]) / (points[0] - points[1]))
    return np.array(n)


def test_a_factor_is_told_from_float_precision_and_named(averaged: Sweep) -> None:
    """Of the question's bug no step is to blame: the factor is the same wherever the loss moves."""
    assert averaged.explained is False
    assert {name for name, curve in averaged.tensors.items() if curve.explained is False} == RECURRENT
    for name in RECURRENT:
        curve = averaged.tensors[name]
        assert curve.ratio[curve.best] == pytest.approx(39, abs=0.05)
        assert curve.discrepancy[curve.best] == pytest.approx(0.95, abs=1e-3)
    says = averaged.explanation
    assert "Wx, Wh and b: d is 0.95 where float precision explains" in says
    assert "(`timesteps`) at every step from" in says
    assert "gradguard.check" in says
    assert "Float precision explains what is left of V and c" in says


def test_nothing_but_the_discrepancy_looks_at_the_gradient(model: LSTM, batch: Batch) -> None:
    """Floor, best step and stillness are bit for bit the same for a right, a wrong and an absent gradient."""
    _, grads = model.loss_and_grads(batch)
    rng = np.random.default_rng(0)
    wrong = {name: rng.standard_normal(grad.shape).astype(grad.dtype) for name, grad in grads.items()}
    absent = {name: np.zeros_like(grad) for name, grad in grads.items()}
    first, *others = (sweep(model.params, given, lambda: model.loss(batch)) for given in (grads, wrong, absent))
    for other in others:
        for field in ("floor", "noise", "truncation", "still"):
            assert np.array_equal(getattr(first, field), getattr(other, field))
        assert (first.best_step, first.still_step) == (other.best_step, other.still_step)


@pytest.mark.parametrize(
    "fault", ["no-recurrent-dh", "half-gate", "negated", "missing-bias", "padding-row", "entry-doubled"]
)
def test_a_bug_is_not_explained_in_exactly_the_tensors_that_have_it(fault: str) -> None:
    """Whatever is wrong, the tensors that are wrong are told, and no others."""
    found = swept(faulty(fault)(), random_batch(7, 2), entries=12)
    assert {name for name, curve in found.tensors.items() if curve.explained is False} == FAULTS[fault].tensors


@pytest.mark.parametrize("seed", range(6))
def test_a_correct_gradient_is_explained(seed: int) -> None:
    """No seed, batch or sample makes a bug of a correct network."""
    found = swept(LSTM(seed=seed), random_batch(7, 1 + 3 * (seed % 2), seed=seed), entries=8, seed=seed)
    assert found.explained, found.explanation


def coarse(slope: float = 1e-3) -> tuple[dict[str, Any], dict[str, Any], Callable[[], object]]:
    """A float32 loss near 1 with a small slope: it moves by its quantum of 1.2e-7 from steps of about 6e-5 on."""
    x = {"x": np.linspace(0.1, 1, 20, dtype=np.float32)}
    grads = {"x": np.full(20, slope, dtype=np.float32)}
    return x, grads, lambda: np.float32(1.2 + slope * np.sum(x["x"], dtype=np.float64))


def test_it_says_where_the_loss_stops_moving() -> None:
    """The longest step at which most entries do not move the loss is told, with the quantum that is the reason."""
    found = sweep(*coarse())
    assert found.still_step in (1e-5, 2e-5)
    assert (found.still[found.steps <= found.still_step] > 0.5).all()
    assert found.still[0] == 1
    assert found.quantum == pytest.approx(2.0**-23)
    assert f"At steps of {found.still_step:g} and below the loss does not move at all for most entries" in (
        found.explanation
    )
    assert "quantum, 1.2e-07" in found.explanation


def test_entries_that_never_move_the_loss_do_not_count_as_still(model: LSTM, batch: Batch) -> None:
    """A row of weights that is never fed does not make the loss look stuck."""
    model.params["unused"] = np.ones((50,), np.float32)
    grads = model.loss_and_grads(batch)[1] | {"unused": np.zeros(50, np.float32)}
    found = sweep(model.params, grads, lambda: model.loss(batch))
    assert found.still[-1] == 0
    assert found.tensors["unused"].explained


def test_a_step_that_the_dtype_rounds_away_is_told_as_such() -> None:
    """In float16 the parameters themselves do not move at short steps, and no error arises from what is left of one."""
    x = {"x": np.linspace(0.3, 0.9, 20).astype(np.float16)}
    grads = {"x": np.full(20, 3.0, np.float16)}
    found = sweep(x, grads, lambda: 3 * float(x["x"].astype(np.float64).sum()), steps=[1e-6, 1e-5, 7e-4, 1.1e-3])
    assert found.still_step == 1e-5
    assert "their own dtype rounds the step away" in found.explanation
    assert found.discrepancy[2:] == pytest.approx([0, 0], abs=1e-9)


def test_default_steps_follow_the_size_of_the_parameters() -> None:
    """They reach from a millionth of the parameters to their size, three a decade."""
    for size in (1e-4, 1.0, 1e5):
        x = {"x": np.full(4, size, np.float32)}
        steps = sweep(x, {"x": np.ones(4, np.float32)}, lambda x=x: float(x["x"].sum()), entries=1).steps
        assert steps[0] == pytest.approx(1e-6 * size)
        assert steps[-1] == pytest.approx(size)
        assert len(steps) == 19


def test_steps_far_beyond_the_parameters_do_not_mislead(model: LSTM, batch: Batch) -> None:
    """Where every gate is saturated the loss is flat, and that is not taken for precision."""
    found = swept(model, batch, steps=np.logspace(-6, 6, 25))
    assert 1e-4 < found.best_step < 1
    assert found.explained


def test_steps_are_sorted_and_told_once(model: LSTM, batch: Batch) -> None:
    """The given steps come back rising."""
    assert swept(model, batch, steps=[0.1, 1e-3, 0.1, 0.01], entries=1).steps.tolist() == [1e-3, 0.01, 0.1]


def test_parameters_are_put_back_when_the_loss_raises(model: LSTM, batch: Batch) -> None:
    """An error of the loss comes through, whenever it comes, and leaves every bit of the parameters."""
    before = {name: param.tobytes() for name, param in model.params.items()}
    _, grads = model.loss_and_grads(batch)
    for last in (3, 40, 200, 1000):
        remaining = list(range(last))

        def loss(remaining: list[int] = remaining) -> object:
            remaining.pop()
            return model.loss(batch)

        with pytest.raises(IndexError):
            sweep(model.params, grads, loss)
        assert {name: param.tobytes() for name, param in model.params.items()} == before


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("takes_parameters", [False, True])
def test_nothing_of_the_model_is_changed(precision: str, takes_parameters: bool, model: LSTM, batch: Batch) -> None:
    """Parameters and gradients are bit for bit what they were, and the very same arrays."""
    _, grads = model.loss_and_grads(batch)
    held = dict(model.params)
    before = [array.tobytes() for arrays in (model.params, grads) for array in arrays.values()]
    loss = (lambda params: model.loss(batch, params)) if takes_parameters else (lambda: model.loss(batch))
    assert sweep(model.params, grads, loss, precision=precision, entries=2).precision == precision
    assert [array.tobytes() for arrays in (model.params, grads) for array in arrays.values()] == before
    assert all(model.params[name] is array for name, array in held.items())


def test_it_measures_in_the_precision_of_the_model_unless_told_otherwise(model: LSTM, batch: Batch) -> None:
    """By default the curve is that of the float32 loss; in float64 the best step is shorter and far less is left."""
    native, exact = (swept(model, batch, entries=5, **options) for options in ({}, {"precision": "float64"}))
    assert (native.precision, exact.precision) == ("native", "float64")
    assert exact.best_step < native.best_step / 10
    assert exact.discrepancy[exact.best] < 1e-6 < native.discrepancy[native.best]
    assert exact.steps[0] < native.steps[0]
    assert native.explained
    assert exact.explained


def test_unreduced_losses_lower_the_floor() -> None:
    """Differences taken loss by loss are less noisy than those of a float32 mean."""
    model, batch = LSTM(), random_batch(20, 4)
    _, grads = model.loss_and_grads(batch)
    options: dict[str, Any] = {"entries": 4, "steps": [1e-4, 1e-3, 1e-2]}
    reduced = sweep(model.params, grads, lambda: model.loss(batch), **options)
    unreduced = sweep(model.params, grads, lambda: model.losses(batch), reduction="mean", **options)
    assert unreduced.noise[0] < reduced.noise[0] / 3
    assert unreduced.discrepancy[0] < reduced.discrepancy[0]


class Counting:
    """A loss that counts its calls, and returns a little more each time unless the count is put back."""

    def __init__(self) -> None:
        self.calls = 0
        self.x = {"x": np.ones(3)}

    def __call__(self) -> float:
        """The loss."""
        self.calls += 1
        return float(self.x["x"].sum()) + self.calls


def test_a_loss_that_does_not_repeat_is_told_and_a_snapshot_helps() -> None:
    """Without the state put back nothing holds; with it the sweep is as of any other loss."""
    grads, loss = {"x": np.ones(3)}, Counting()
    unsteady = sweep(loss.x, grads, loss)
    assert not unsteady.steady
    assert unsteady.explained is None
    assert "snapshot=" in unsteady.explanation
    steady = sweep(loss.x, grads, loss, snapshot=snapshot_attributes(loss, "calls"))
    assert steady.steady
    assert steady.explained
    assert loss.calls == unsteady.evaluations


def toy(g: float, loss: Callable[[NDArray[Any]], object], start: float = 1.0) -> Sweep:
    """The sweep of a loss of three parameters that are alike."""
    x = {"x": np.full(3, start, np.float32)}
    return sweep(x, {"x": np.full(3, g, np.float32)}, lambda: loss(x["x"]))


@pytest.mark.parametrize(
    ("g", "loss", "start", "explained", "words"),
    [
        (1.0, lambda _: 1.0, 1.0, False, "the arrays given as params are not the ones that the loss reads"),
        (0.0, lambda _: 1.0, 1.0, True, "the gradient is zero too"),
        (0.0, lambda x: np.float32(x.sum()), 1.0, False, "g is zero and n is not"),
        (math.nan, lambda x: np.float32(x.sum()), 1.0, None, "its gradient holds nan or inf"),
        (-1.0, lambda x: np.float32(x.sum()), 1.0, False, "n = -1 x g at every step"),
        (1.0, lambda x: np.float32(np.abs(x).sum()), 0.0, None, "too kinked"),
        (1.0, lambda x: np.float32(x.sum()), 1.0, True, "Float precision explains what is left"),
        (2e-30, lambda x: np.float32(2e-30) * x.sum(), 1.0, True, "Float precision explains what is left"),
        (3e30, lambda x: np.float32(3e30) * x.sum(), 1.0, True, "Float precision explains what is left"),
    ],
)
def test_what_is_found_is_said(
    g: float, loss: Callable[[NDArray[Any]], object], start: float, explained: bool | None, words: str
) -> None:
    """Each outcome has its sentence."""
    found = toy(g, loss, start)
    assert found.explained is explained
    assert words in found.explanation


def test_a_gradient_of_what_the_loss_ignores_is_not_explained(model: LSTM, batch: Batch) -> None:
    """A gradient that is not zero where the loss does not move is told."""
    model.params["unused"] = np.ones(3, np.float32)
    grads = model.loss_and_grads(batch)[1] | {"unused": np.ones(3, np.float32)}
    found = sweep(model.params, grads, lambda: model.loss(batch))
    assert found.tensors["unused"].explained is False
    assert "unused: the loss does not depend on it" in found.explanation


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"steps": [1e-3]}, ValueError, "at least two"),
        ({"steps": [1e-3, -1e-2]}, ValueError, "steps holds -0.01; expected positive numbers"),
        ({"steps": [1e-3, math.nan]}, ValueError, "steps holds nan"),
        ({"steps": ["small", "large"]}, TypeError, "expected step sizes such as"),
        ({"entries": 0}, ValueError, "entries is 0"),
        ({"entries": True}, ValueError, "entries is True"),
        ({"precision": "float16"}, ValueError, "'native', 'float64' or 'auto'"),
        ({"reduction": "median"}, ValueError, "'sum', 'mean' or None"),
        ({"constants": {"timesteps": 0}}, ValueError, "'timesteps'"),
    ],
)
def test_a_mistake_is_told(options: Any, error: type[Exception], words: str, model: LSTM, batch: Batch) -> None:
    """An argument that does not fit is an error that says what was given and what was expected."""
    with pytest.raises(error) as raised:
        swept(model, batch, **options)
    assert words in str(raised.value)


def test_a_loss_that_is_nan_or_without_parameters_cannot_be_swept() -> None:
    """There is nothing to difference, and that is said."""
    with pytest.raises(ValueError, match="the loss is nan at the parameters as they are"):
        toy(1.0, lambda _: math.nan)
    with pytest.raises(ValueError, match="no parameter has any entries"):
        sweep({"x": np.ones(0)}, {"x": np.ones(0)}, lambda: 1.0)


def test_a_loss_that_overflows_at_long_steps_is_swept_without_a_warning() -> None:
    """The steps that fail have no discrepancy, and the others are as good as ever."""
    found = toy(3.0, lambda x: np.float32(np.exp(x) ** 3).sum() / np.float32(math.e**3), 1.0)
    assert found.explained
    wide = sweep(
        x := {"x": np.ones(2, np.float32)},
        {"x": np.full(2, math.e, np.float32)},
        lambda: np.exp(x["x"]).sum(),
        steps=[1e-3, 1e-2, 1e-1, 1e3],
    )
    assert math.isnan(wide.discrepancy[-1])
    assert wide.best_step < 1
    assert wide.explained


def test_it_prints_as_a_table_with_the_best_step_marked(right: Sweep) -> None:
    """One row a step and one a tensor, aligned, and then what it means."""
    steps, tensors, says = str(right).split("\n\n")
    assert len({len(line) for line in steps.splitlines()}) == 1
    assert len(steps.splitlines()) == 1 + len(right.steps)
    assert [line.split()[1] for line in steps.splitlines() if line.startswith("best")] == [f"{right.best_step:g}"]
    assert [line.split()[0] for line in tensors.splitlines()] == ["tensor", "Wx", "Wh", "b", "V", "c"]
    assert says == right.explanation


def test_a_name_with_control_characters_is_printed_harmlessly() -> None:
    """A name cannot move the cursor of the terminal that a table is printed on."""
    x = {"W\x1b[31m\nx": np.ones(2, np.float32)}
    text = str(sweep(x, {name: -array for name, array in x.items()}, lambda: float(sum(v.sum() for v in x.values()))))
    assert "W\\x1b[31m\\nx" in text
    assert "\x1b" not in text


def test_it_is_plain_data(averaged: Sweep) -> None:
    """`to_dict` is strict JSON with all that the sweep found."""
    plain = json.loads(json.dumps(averaged.to_dict(), allow_nan=False))
    assert plain["steps"] == averaged.steps.tolist()
    assert plain["best_step"] == averaged.best_step
    assert plain["explained"] is False
    assert plain["explanation"] == averaged.explanation
    assert set(plain["tensors"]) == set(averaged.tensors)
    assert all(len(plain[name]) == len(plain["steps"]) for name in ("discrepancy", "floor", "noise", "truncation"))
    assert plain["tensors"]["Wx"]["ratio"][averaged.best] == pytest.approx(39, abs=0.5)
    overflowed = toy(math.nan, lambda x: x.sum()).to_dict()
    assert overflowed["discrepancy"] == [None] * len(overflowed["steps"])


def test_no_bar_is_shown_where_nobody_looks(model: LSTM, batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither by default nor into a file is there a progress bar."""
    swept(model, batch, entries=1)
    swept(model, batch, entries=1, progress=True)
    assert capsys.readouterr() == ("", "")


def test_the_same_seed_gives_the_same_sweep() -> None:
    """Which entries are drawn depends on the seed alone."""
    model, batch = LSTM(), random_batch(3, 1)
    first, again, other = (swept(model, batch, entries=3, steps=[1e-3, 1e-2], seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.discrepancy, again.discrepancy)
    assert not np.array_equal(first.discrepancy, other.discrepancy)
