"""Tensors that are declared to differ: a few probes follow each, and tell when it must be examined again."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradguard.diagnosis import Evidence, History, diagnose_tensor
from gradguard.examination import TensorState, probe_tensor
from gradguard.intended import Difference, is_another_entry, is_another_ratio, remeasured
from gradguard.measurement import TensorUnderTest
from gradguard.report import TensorReport, Thresholds
from gradguard.statistics import ALARM_Z


@dataclasses.dataclass(frozen=True, slots=True)
class Followed:
    """A declared tensor since its last examination.

    Attributes:
        before: Its last report.
        examined: How it differed when it was examined.
        history: The constants of the training, by which its ratio may be explained.
        thresholds: Of the drift of a ratio.
    """

    before: TensorReport
    examined: Difference
    history: History
    thresholds: Thresholds

    def probed(
        self, tensor: TensorUnderTest, state: TensorState, entries: int, rng: np.random.Generator
    ) -> TensorReport | None:
        """The report from a few probes, or None where they show another difference.

        Args:
            tensor: The tensor.
            state: The state of its probes; updated, without evidence.
            entries: The number of entries, at most.
            rng: Draws the probes.
        """
        evidence, _ = probe_tensor(tensor, state, entries, rng)
        state.forget_evidence()
        if state.is_lost or self._is_another(evidence, tensor.context.inside.get(tensor.name)):
            return None
        return remeasured(self.before, diagnose_tensor(evidence, History({}), self.thresholds))

    def _is_another(self, evidence: Evidence, inside: NDArray[np.bool_] | None) -> bool:
        """Whether the probes show another difference.

        Args:
            evidence: The probes.
            inside: A mask over the entries that must agree; None where all of the tensor is declared.
        """
        entries, along = evidence.entries, evidence.directions
        if self.before.verdict.agrees:
            return bool((np.abs(evidence.all.z) > ALARM_Z).any())
        if inside is None:
            return any(self._is_another_ratio(n, g, error) for n, g, error in _first(along.n, along.g, along.deviation))
        must_agree = np.array([inside[index] for index in evidence.index], dtype=bool)
        if (np.abs([*entries.z[must_agree], *along.z]) > ALARM_Z).any():
            return True
        part = entries.where(~must_agree)
        clear = np.minimum(np.abs(part.n), np.abs(part.g)) > ALARM_Z * part.deviation
        return any(is_another_entry(self.examined, n, g) for n, g in zip(part.n[clear], part.g[clear], strict=True))

    def _is_another_ratio(self, n: float, g: float, deviation: float) -> bool:
        ratio, error = (n / g, deviation / abs(g)) if g else (math.nan, math.inf)
        factors = self.history.names_of(ratio, error, self.before.shape) if g else []
        return is_another_ratio(self.examined, ratio, error, [factor.label for factor in factors], self.thresholds)


def _first(*columns: Iterable[float]) -> list[tuple[float, ...]]:
    """The first row of some columns, if there is one: the direction along the gradient."""
    return list(zip(*columns, strict=True))[:1]
