from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradguard.arrays.types import Float64
from gradguard.differences import noise
from gradguard.differences.four_point import FourPoint
from gradguard.loss.objective import Objective
from gradguard.perturbation.spaces import InPlace
from gradguard.testing import LSTM, Batch, random_batch

positive = st.floats(1e-12, 1e6)


def lstm(timesteps: int = 20, batch: int = 2) -> tuple[LSTM, Batch]:
    """A float32 network and a batch."""
    return LSTM(3, 4, 3), random_batch(timesteps, batch, inputs=3, outputs=3)


@pytest.mark.parametrize("form", ["loss", "losses"])
def test_the_noise_heard_is_that_which_a_float64_twin_shows(form: str) -> None:
    """Against the true rounding errors of a real float32 LSTM it is right within a factor of two and a half."""
    model, batch = lstm()
    objective = Objective(
        lambda: getattr(model, form)(batch), InPlace(model.params), "mean" if form == "losses" else None, lambda: None
    )
    rng = np.random.default_rng(0)
    base = model.params["Wh"].copy()
    errors = []
    for _ in range(150):
        model.params["Wh"][...] = base * (1 + 1e-4 * rng.standard_normal(base.shape))
        exact = {name: param.astype(np.float64) for name, param in model.params.items()}
        errors.append(objective.total(objective() - getattr(model, form)(batch, exact).reshape(-1)))
    model.params["Wh"][...] = base
    before = {name: param.tobytes() for name, param in model.params.items()}
    centre, evaluations = objective(), objective.evaluations
    heard = [noise.estimate_noise(objective, ["Wh"], centre, np.random.default_rng(seed)) for seed in range(12)]
    truth = np.std(errors)
    assert truth / 2.5 < np.sqrt(np.mean([found.sigma**2 for found in heard])) < 2.5 * truth
    assert {found.dtype for found in heard} == {np.dtype(np.float32)}
    assert 12 * 32 <= objective.evaluations - evaluations <= 2 * 12 * 32
    assert before == {name: param.tobytes() for name, param in model.params.items()}


@pytest.mark.parametrize(("large", "quantum"), [(0.0, 2.0**-24), (4096.0, 2.0**-11)])
def test_noise_is_never_below_what_rounding_the_loss_adds(large: float, quantum: float) -> None:
    """In float32 a loss near 0.75 is rounded to 2^-24; as the difference of large numbers, to their quantum."""
    weights = np.array([0.5, 0.25], np.float32)
    objective = Objective(
        lambda: (weights.sum() + np.float32(large)) - np.float32(large), InPlace({"w": weights}), None, lambda: None
    )
    found = noise.estimate_noise(objective, ["w"], objective(), np.random.default_rng(0))
    assert found.sigma >= found.floor >= quantum / np.sqrt(12)
    assert found.floor_at(objective, objective()) == pytest.approx(found.floor)
    assert found.floor_at(objective, 4 * objective()) == pytest.approx(4 * found.floor)


@pytest.mark.parametrize("slope", [1e-4, 1e-5, 1e-6])
def test_each_loss_is_listened_to_where_it_begins_to_move(slope: float) -> None:
    """One that hardly moves near x does not make another be heard from where that bends: only roundings are noise."""
    weights = np.random.default_rng(0).standard_normal(50).astype(np.float32)

    def losses() -> Float64:
        along = weights.astype(np.float64).sum()
        return np.array([1 + 1e-3 * np.sin(2000 * along), *(1 + slope * along * np.arange(1, 5))]).astype(np.float32)

    objective = Objective(losses, InPlace({"w": weights}), "sum", lambda: None)
    rounding = 2**-23 * np.sqrt(5 / 12)
    for seed in range(8):
        found = noise.estimate_noise(objective, ["w"], objective(), np.random.default_rng(seed))
        assert rounding / 2 < found.sigma <= 12 * rounding


def calm(fourth: Float64) -> FourPoint:
    """Differences with given fourth differences, the rest zero."""
    zero, one = np.zeros(fourth.size), np.ones(fourth.size)
    return FourPoint(one, zero, zero, zero, fourth, zero, zero, 2 * one, 4 * one, zero)


@pytest.mark.parametrize("shared", [0.0, 100.0])
@pytest.mark.parametrize("outliers", [0, 10])
def test_fourth_differences_tell_the_noise(shared: float, outliers: int) -> None:
    """Neither the error of the loss at the centre, which all probes share, nor some with truncation spoil it."""
    sigma, rng = 1e-7, np.random.default_rng(0)
    fourth = sigma * (np.sqrt(34) * rng.standard_normal(300) + 6 * shared)
    fourth[:outliers] += 1e-3
    estimate = noise.from_fourth_differences(calm(fourth), sigma, 0.0)
    assert 0.85 * sigma < estimate < (1.2 if not outliers else 1.6) * sigma


def test_few_fourth_differences_leave_the_earlier_estimate() -> None:
    """One difference, or none that is finite, tells nothing; and no estimate is below the floor."""
    assert noise.from_fourth_differences(calm(np.array([5.0])), 1e-7, 1e-9) == 1e-7
    assert noise.from_fourth_differences(calm(np.array([np.nan, np.inf, 1.0])), 1e-7, 1e-9) == 1e-7
    assert noise.from_fourth_differences(calm(np.zeros(50)), 1e-12, 1e-9) == 1e-9


def test_the_running_variance_finds_the_noise_from_far_off() -> None:
    """From ten times too large or too small a sigma, a hundred fourth differences bring it within a third."""
    for start in (10.0, 0.1):
        rng, variance = np.random.default_rng(0), start**2
        track = []
        for check in range(400):
            variance = noise.updated_variance(variance, np.sqrt(70) * rng.standard_normal(), check)
            track.append(variance)
        assert 0.67 < np.sqrt(np.mean(track[100:])) < 1.33


@given(fourth=st.floats(-1e150, 1e150), checks=st.integers(0, 1000))
def test_one_wild_difference_hardly_moves_the_variance(fourth: float, checks: int) -> None:
    """A kink within one step at most doubles it."""
    assert 0.85 <= noise.updated_variance(1.0, fourth, checks) <= 2.1


def noise_of(loss: Callable[[Float64], np.float32], start: Float64, seed: int) -> float:
    """The estimate for a float32 loss at some parameters, from six pairs of points."""
    params = {"w": start.astype(np.float32)}
    objective = Objective(lambda: loss(params["w"].astype(np.float64)), InPlace(params), None, lambda: None)
    return noise.estimate_noise(objective, ["w"], objective(), np.random.default_rng(seed), 6).sigma


def test_a_change_that_is_rounded_shows_its_rounding() -> None:
    """A change that is added to a logit is rounded to its coarse quanta, alike for moves to either side."""
    quantum = float(np.spacing(np.float32(40)))

    def loss(w: Float64) -> np.float32:
        logit = np.float32(40) + np.float32((w - 1).sum())
        return np.float32(logit - np.float32(40)) + np.float32(1e-3) * np.float32(w[0])

    estimates = [noise_of(loss, np.ones(8), seed) for seed in range(20)]
    assert np.median(estimates) > quantum / 8


def test_a_kink_at_the_parameters_passes_for_noise() -> None:
    """A difference across it is uncertain by as much as the slopes differ."""
    for seed in range(20):
        at = (1 + np.random.default_rng(seed).random(8)).astype(np.float32).astype(np.float64)
        assert noise_of(lambda w, at=at: np.float32(3 + np.abs(w - at).sum()), at, seed) > np.spacing(np.float32(3))
