"""What a cause may look at, one tensor or the whole model, and what it answers with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gradguard.arrays import Array, norm_of_finite
from gradguard.diagnosis.evidence import Evidence
from gradguard.diagnosis.known_factors import History, KnownFactor
from gradguard.diagnosis.localize import AxisSlice, locate
from gradguard.report import BlockReport, Entry, TensorReport, Thresholds, Verdict
from gradguard.statistics import ALARM_Z


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a report says of a tensor, or of several.

    Attributes:
        key: The identifier of the cause, such as "clipped_by_value": the same wherever the cause is the same, however
            it is worded; "" where nothing is wrong.
        explanation: What was found, in a sentence with its numbers.
        cause: The likely cause, in a clause; "" where nothing is wrong.
        verdict: What the cause makes of the verdict; None where that stays.
    """

    key: str
    explanation: str
    cause: str = ""
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The arrays of the model around a tensor, as they are, not copied.

    Attributes:
        params: The parameters, by name.
        gradients: Their gradients, by name.
        suspects: The names of the tensors whose gradient is known to disagree.
    """

    params: Mapping[str, Array] = field(default_factory=dict)
    gradients: Mapping[str, Array] = field(default_factory=dict)
    suspects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Symptoms:
    """What is known of one tensor when its cause is looked for.

    Attributes:
        verdict: What kind of error it has, if any.
        evidence: What was measured.
        blocks: Its named blocks.
        worst: The entries that deviate most, in units of their error bars, worst first.
        history: The constants of the training, and earlier ratios of the tensor.
        thresholds: What counts as agreement.
        surroundings: The arrays of the model.
    """

    verdict: Verdict
    evidence: Evidence
    blocks: Mapping[str, BlockReport]
    worst: Sequence[Entry]
    history: History
    thresholds: Thresholds
    surroundings: Surroundings = field(default_factory=Surroundings)

    @cached_property
    def factors(self) -> Sequence[KnownFactor]:
        """The known numbers that the ratio may be; none where the error is not one factor."""
        ratio = self.evidence.factor
        return self.history.names_of(ratio.value, ratio.error, self.evidence.shape) if self.verdict.is_factor else ()

    @cached_property
    def wrong_blocks(self) -> Sequence[BlockReport]:
        """The named blocks that are wrong; none where all of them are."""
        wrong = [block for block in self.blocks.values() if block.verdict.is_bug]
        return wrong if len(wrong) < len(self.blocks) else ()

    @cached_property
    def wrong_slice(self) -> AxisSlice | None:
        """Where the wrong entries lie together, among those that tell right from wrong; only without named blocks."""
        if self.verdict is not Verdict.structure or self.blocks:
            return None
        entries = self.evidence.entries
        telling = entries.resolvable | (np.abs(entries.z) > ALARM_Z)
        index = [place for place, tells in zip(self.evidence.index, telling, strict=True) if tells]
        return locate(index, np.abs(entries.z[telling]) > ALARM_Z, self.evidence.shape)

    @property
    def faulty_block(self) -> str:
        """The blocks that alone are wrong, named or equal ones of a fused tensor; "" where there are none."""
        if self.wrong_blocks:
            return " and ".join(block.name for block in self.wrong_blocks)
        return self.wrong_slice.block_name if self.wrong_slice is not None else ""


@dataclass(frozen=True)
class Model:
    """All tensors of a check.

    Attributes:
        tensors: Their reports, by name.
        gradients: Their gradients, by name; empty where a summary is made of reports alone.
    """

    tensors: Mapping[str, TensorReport]
    gradients: Mapping[str, Array]

    @property
    def wrong(self) -> list[TensorReport]:
        """The tensors whose gradient is wrong."""
        return [tensor for tensor in self.tensors.values() if tensor.verdict.is_bug]

    @property
    def unclear(self) -> list[TensorReport]:
        """The tensors of which the check cannot tell."""
        return [tensor for tensor in self.tensors.values() if tensor.verdict.is_bug is None]

    @property
    def right(self) -> list[TensorReport]:
        """The tensors whose gradient agrees."""
        return [tensor for tensor in self.tensors.values() if tensor.verdict.agrees]

    @cached_property
    def norms(self) -> dict[str, float]:
        """||g|| of each tensor."""
        return {name: norm_of_finite(gradient) for name, gradient in self.gradients.items()}
