"""Records what the routine probes of guards find."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

import numpy as np

from benchmarks.support.networks import Float64
from gradguard.checks.screen import probe_tensors
from gradguard.checks.streams import TensorState
from gradguard.diagnosis.evidence import Evidence
from gradguard.measurement.context import MeasurementContext


@contextmanager
def recorded() -> Iterator[list[Float64]]:
    """Z of the routine probes of all guards in the `with` block, an array for each check of a tensor."""
    seen: list[Float64] = []

    def probe(
        context: MeasurementContext, states: Mapping[str, TensorState], entries: int, rng: np.random.Generator
    ) -> dict[str, tuple[Evidence, float]]:
        found = probe_tensors(context, states, entries, rng)
        seen.extend(np.concatenate([evidence.directions.z, evidence.entries.z]) for evidence, _ in found.values())
        return found

    with mock.patch("gradguard.training.monitor.probe_tensors", probe):
        yield seen
