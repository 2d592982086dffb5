"""Records what the routine probes and the screens of checks find."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np

from benchmarks.support.networks import Float64
from gradguard.diagnosis import Evidence
from gradguard.examination import TensorState, probe_tensor
from gradguard.measurement import MeasurementContext, TensorUnderTest
from gradguard.screening import Screen, Screened


@contextmanager
def recorded() -> Iterator[list[Float64]]:
    """Z of the routine probes of guards in the `with` block, an array for each screen and each check of a tensor."""
    seen: list[Float64] = []

    def probe(
        tensor: TensorUnderTest, state: TensorState, entries: int, rng: np.random.Generator
    ) -> tuple[Evidence, float]:
        evidence, largest = probe_tensor(tensor, state, entries, rng)
        seen.append(np.concatenate([evidence.directions.z, evidence.entries.z]))
        return evidence, largest

    with mock.patch("gradguard.training.monitor.probe_tensor", probe), recorded_screens() as screens:
        yield seen
        seen.extend(z_of(screened) for screened in screens)


@contextmanager
def recorded_screens() -> Iterator[list[Screened]]:
    """What every screen in the `with` block finds."""
    seen: list[Screened] = []
    probe_all = Screen.probe_all

    def probing(screen: Screen, context: MeasurementContext, rng: np.random.Generator, **options: int) -> Screened:
        seen.append(probe_all(screen, context, rng, **options))
        return seen[-1]

    with mock.patch.object(Screen, "probe_all", probing):
        yield seen


def z_of(screened: Screened) -> Float64:
    """Z of the probes of a screen whose step suits the loss."""
    return np.array([probe.z for probe in screened.probes if probe.suits])
