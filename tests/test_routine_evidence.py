"""What counts as evidence in a routine probe, where the loss is noisier, rougher or flatter than it was before."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradguard import GradGuard
from gradguard.differences import FourPoint
from gradguard.drift import CLIP, SIZES
from gradguard.routine import Stream
from gradguard.steps import Steps

STEP = 1e-2
SIGMA = 1e-6


def stream() -> Stream:
    """One that has long known a noise of SIGMA."""
    return Stream(Steps(STEP, 1e-6, 1.0), SIGMA**2, checks=1000)


def points(losses: NDArray[np.float64], slope: float) -> FourPoint:
    """The differences of losses at x - 2h, x - h, x, x + h, x + 2h, and what a gradient of `slope` predicts."""
    below2, below1, centre, above1, above2 = losses

    def one(value: float) -> NDArray[np.float64]:
        return np.array([value])

    return FourPoint(
        step=one(STEP),
        odd1=one(above1 - below1),
        odd2=one(above2 - below2),
        even1=one(above1 - 2 * centre + below1),
        even2=one(above2 - 2 * centre + below2),
        predicted1=one(2 * STEP * slope),
        predicted2=one(4 * STEP * slope),
        length1=one(2 * STEP),
        length2=one(4 * STEP),
        skew=one(0.0),
    )


PLACES = STEP * np.arange(-2, 3)


def growth(z: list[float], size: float) -> float:
    """By how much probes multiply the evidence for a shift of some size, on average."""
    return float(np.mean(np.exp(size * np.clip(z, -CLIP, CLIP) - size**2 / 2)))


def test_a_batch_that_is_noisier_is_no_evidence() -> None:
    """One in ten is five times noisier than the others: it shows in its own differences, and no sum of probes grows."""
    rng, one = np.random.default_rng(0), stream()
    wider: list[float] = []
    as_before: list[float] = []
    for noise in SIGMA * rng.standard_normal((20_000, 5)):
        measured = points((5 if rng.random() < 0.1 else 1) * noise + PLACES, slope=1.0)
        for z, sigma in ((wider, one.sigma_of(measured)), (as_before, SIGMA)):
            z.append(float(measured.deviation_in_noise(sigma, 0.0)[0]))
    assert max(growth(wider, size) for size in SIZES[:3]) < 1.02
    assert growth(as_before, 1.0) > 1.15


def test_a_shift_of_the_gradient_is_as_clear_as_the_noise_lets_it() -> None:
    """The bar of a probe is hardly wider for that where the noise is what it was: most of a shift is left."""
    rng, one, z = np.random.default_rng(1), stream(), []
    for noise in SIGMA * rng.standard_normal((4000, 5)):
        measured = points(noise + PLACES, slope=1 - 3 * SIGMA / (2 * STEP))
        z.append(float(measured.deviation_in_noise(one.sigma_of(measured), 0.0)[0]))
    plain = 3 / 1.1 / (np.sqrt(130) / 12) / 2
    assert 0.95 * plain < np.mean(z) < plain


def test_the_gradient_is_in_no_bar() -> None:
    """Whatever it is, the noise in a probe is the same."""
    one, losses = stream(), 3 * SIGMA * np.random.default_rng(2).standard_normal(5)
    assert len({one.sigma_of(points(losses, slope)) for slope in (0.0, 1.0, -1e6)}) == 1


@pytest.mark.parametrize(
    ("losses", "slope", "tells"),
    [
        (PLACES, 1.0, True),  # a line, and its slope
        (PLACES, 0.0, True),  # a gradient that is missing
        (0 * PLACES, 1.0, True),  # one that is spurious
        (1e-4 * PLACES, 1e-4, False),  # both are lost in the noise
        (STEP * np.tanh(PLACES / STEP), 1.0, False),  # the loss levels off within the step
        (0 * PLACES, 0.0, False),  # nothing at all
        (np.full(5, np.nan), 1.0, False),
    ],
)
def test_a_probe_tells_where_its_step_is_in_range(losses: NDArray[np.float64], slope: float, tells: bool) -> None:
    """Truncation is known to be small beside the derivative, or beside what the gradient says it is."""
    assert stream().tells(points(losses, slope)) == tells


class Rectified:
    """Rectified units whose parameters are tiny beside a constant: steps that show anything cross their corners."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.standard_normal((40, 6)).astype(np.float32)
        self.signs = np.where(rng.random(40) < 0.5, np.float32(1), np.float32(-1))
        self.params = {"w": (1e-3 * rng.standard_normal(6)).astype(np.float32)}

    def loss(self) -> Any:
        """In units of which a thousandth is rounded away."""
        return np.float32(300) + (self.signs * np.maximum(self.x @ self.params["w"], 0)).sum()

    def grads(self) -> dict[str, NDArray[Any]]:
        """By hand."""
        return {"w": (self.signs * (self.x @ self.params["w"] > 0)) @ self.x}


def checked(model: Rectified, factors: Iterable[float], seed: int) -> Iterator[tuple[bool, int]]:
    """Whether each check tells of a bug, and how many alarms it raises."""
    guard = GradGuard(model.params, model.loss, every_n_steps=1, max_overhead=None, precision="native", seed=seed)
    for step, factor in enumerate(factors):
        report = guard.after_backward(step, {"w": np.float32(factor) * model.grads()["w"]})
        assert report is not None
        yield bool(report.verdict.is_bug), len(guard.history[-1].alarms)


def test_corners_that_no_step_avoids_raise_few_alarms() -> None:
    """They bias differences alike from check to check, and drown in noise: summed up they would pass for an error."""
    found = [result for seed in range(8) for result in checked(Rectified(seed), [1.0] * 60, seed)]
    assert not any(is_bug for is_bug, _ in found)
    assert sum(alarms for _, alarms in found) <= 10


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0])
def test_a_fault_among_corners_is_told_all_the_same(factor: float) -> None:
    """It sets in between two checks, and single probes show it in a few checks."""
    for seed in range(4):
        told = [is_bug for is_bug, _ in checked(Rectified(seed), [1.0] * 5 + [factor] * 6, seed)]
        assert not any(told[:5])
        assert any(told[5:])
