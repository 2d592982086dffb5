"""Checks of whole models: what is said of each of many tensors, and at what cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from deep_networks import Residual, Spoil, scaled, transposed, without_column
from numpy.typing import NDArray

from gradguard import Report, Verdict, check
from gradguard.checks import ModelCheck, check_model
from gradguard.diagnosis import History
from gradguard.examination import CheckPlan, Deadline, Effort
from gradguard.measurement import CheckTarget
from gradguard.perturbation import Rollback, combined_snapshot
from gradguard.report import Thresholds
from gradguard.screening import SUSPECTED

Array = NDArray[Any]
LAYERS = 20


def checked(model: Residual, spoilt: Mapping[str, Spoil], **options: Any) -> Report:
    """The report on a network, some of whose gradients are spoilt."""
    grads = model.grads()
    grads |= {name: spoil(grads[name]) for name, spoil in spoilt.items()}
    return check(model.params, grads, model.loss, **options)


def wrong_ones(report: Report) -> set[str]:
    """The tensors that are said to be wrong."""
    return {name for name, tensor in report.tensors.items() if tensor.verdict.is_bug}


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize(
    ("spoil", "verdict"),
    [(scaled(2), Verdict.scale), (transposed, Verdict.structure), (without_column, Verdict.structure)],
)
def test_the_one_wrong_tensor_is_named(spoil: Spoil, verdict: Verdict, precision: str) -> None:
    """Of 41, with what is wrong with it; nobody else is blamed, and all that others are said to be is right."""
    report = checked(Residual(LAYERS), {"W9": spoil}, precision=precision)
    assert wrong_ones(report) == {"W9"}
    assert report.tensors["W9"].verdict is verdict
    assert {tensor.verdict for name, tensor in report.tensors.items() if name != "W9"} <= {
        Verdict.ok,
        Verdict.float_precision,
    }


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.parametrize("corners", [False, True])
def test_a_right_model_is_right(corners: bool, precision: str) -> None:
    """Smooth or with corners, however many tensors, and nothing is suspected."""
    for seed in range(3):
        report = checked(Residual(6, batch=64, seed=seed, corners=corners), {}, precision=precision)
        assert not wrong_ones(report), str(report)
        assert not [tensor for tensor in report.tensors.values() if tensor.cause_key == SUSPECTED]


CORNERS = [(0, 2), (0, 3), (1, 1), (3, 1), (7, 1), (8, 3), (11, 1)]


@pytest.mark.parametrize(("precision", "fewest"), [("native", 4), ("float64", len(CORNERS))])
def test_a_model_of_corners_with_a_fault_is_told(precision: str, fewest: int) -> None:
    """A column of one weight matrix that was never written; in float32 corners hide it from some of the checks."""
    doubted = 0
    for seed, layer in CORNERS:
        model, wrong = Residual(6, batch=256, seed=seed, corners=True), f"W{layer}"
        report = checked(model, {wrong: without_column}, precision=precision)
        assert wrong_ones(report) <= {wrong}, str(report)
        doubted += report.tensors[wrong].verdict.is_bug is not False
    assert doubted >= fewest


def opened(model: Residual, grads: Mapping[str, Array], precision: Any = "native") -> Any:
    """What a check measures with."""
    state = Rollback(grads, combined_snapshot(None))
    return CheckTarget(model.params, dict(model.params), model.loss, None, state).context(precision)


def model_check(model: Residual, deadline: Deadline, precision: str = "native", **spoilt: Spoil) -> ModelCheck:
    """A check of a network, which begins nothing after a deadline, and has no time for charts."""
    grads = model.grads()
    grads |= {name: spoil(grads[name]) for name, spoil in spoilt.items()}
    plan = CheckPlan(Effort(), {}, dict.fromkeys(grads, History({})), Thresholds())
    return check_model(opened(model, grads, precision), plan, np.random.default_rng(0), deadline, 0.0)


class Clock:
    """A clock that moves by a second at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self) -> float:
        """The time in seconds."""
        self.looks += 1
        return float(self.looks)


@pytest.mark.parametrize("seconds", [0, 1, 2, 3, 5, 8, 13, 21])
def test_a_suspected_tensor_is_never_ok(seconds: int) -> None:
    """Whenever the time is over: the wrong tensor is told or suspected, and those suspected with it say so."""
    for wrong in ("W3", "V"):
        found = model_check(Residual(LAYERS), Deadline(Clock(), 0, seconds), **{wrong: without_column})
        assert set(found.reports) == set(Residual(LAYERS).params)
        assert found.reports[wrong].verdict.is_bug is not False
        left = {name for group in found.left for name in group}
        for name in left:
            report = found.reports[name]
            assert report.verdict is Verdict.inconclusive
            assert report.cause_key == SUSPECTED
            assert report.explanation.startswith("suspected")
        assert wrong in left or found.reports[wrong].verdict.is_bug
        assert not [name for name, report in found.reports.items() if report.verdict.is_bug and name != wrong]


def test_a_clean_check_costs_the_same_however_many_tensors_there_are() -> None:
    """But for the charts: without time for those it evaluates a screen, and what comes before and after."""
    costs = {}
    for layers in (2, LAYERS):
        each = []
        for seed in range(4):
            model = Residual(layers, seed=seed)
            found = model_check(model, Deadline(Clock(), 0, 0), "float64")
            each.append(model.evaluations)
            visible = [report.smallest_visible for report in found.reports.values()]
            assert np.isfinite(visible).all()
            for report in found.reports.values():
                assert report.measured_at is None
                assert report.screened_at == 0
                assert report.verdict is Verdict.ok
        costs[layers] = each
    assert max(costs[LAYERS]) <= 70
    assert abs(np.mean(costs[LAYERS]) - np.mean(costs[2])) <= 12


class Doubled:
    """A network of two layers whose loss reads one tensor past the mapping: its float64 copy changes nothing."""

    def __init__(self) -> None:
        self.model = Residual(2)
        self.kept = self.model.params["W1"]

    def loss(self, params: Mapping[str, Array]) -> Any:
        """At other parameters, but for W1 where they are float64."""
        live = self.model.params
        read = dict(params) if params["W1"].dtype == np.float32 else {**params, "W1": self.kept}
        try:
            self.model.params = read
            return self.model.loss()
        finally:
            self.model.params = live


@pytest.mark.parametrize("precision", ["auto", "native"])
def test_a_tensor_whose_float64_copy_is_not_read_is_no_bug(precision: str) -> None:
    """Its gradient is right, and the loss in the precision of the training shows it."""
    twice = Doubled()
    report = check(twice.model.params, twice.model.grads(), twice.loss, precision=precision)
    assert not wrong_ones(report), str(report)
    assert report.precision == "native"
    assert report.tensors["W1"].verdict.is_bug is False


def test_a_wrong_gradient_is_told_where_a_float64_copy_is_not_read() -> None:
    """In native precision."""
    twice = Doubled()
    grads = twice.model.grads()
    report = check(twice.model.params, grads | {"W1": np.float32(3) * grads["W1"]}, twice.loss)
    assert wrong_ones(report) == {"W1"}
    assert report.precision == "native"


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_tensor_too_small_for_the_screen_is_measured_by_itself(precision: str) -> None:
    """A gradient a million times smaller than those beside it is right or wrong by its own numbers."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal(20).astype(np.float32) for name in "abcd"}
    slopes = {name: rng.standard_normal(20) * (1e-4 if name == "a" else 1) for name in "abcd"}

    def loss() -> Any:
        return sum((slopes[name] * np.tanh(params[name].astype(np.float64))).sum() for name in params)

    for factor in (1, 2):
        right = {name: slopes[name] * (1 - np.tanh(params[name].astype(np.float64)) ** 2) for name in params}
        grads = {name: (slope * (factor if name == "a" else 1)).astype(np.float32) for name, slope in right.items()}
        report = check(params, grads, loss, precision=precision)
        assert wrong_ones(report) == ({"a"} if factor == 2 else set()), str(report)


def test_nothing_is_disturbed() -> None:
    """Parameters and gradients are as they were, bit for bit, after a check that locates and explains."""
    model = Residual(6)
    grads = model.grads()
    grads["W3"] = transposed(grads["W3"])
    before = {name: (param.tobytes(), grads[name].tobytes()) for name, param in model.params.items()}
    check(model.params, grads, model.loss)
    assert before == {name: (param.tobytes(), grads[name].tobytes()) for name, param in model.params.items()}
