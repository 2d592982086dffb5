"""What a check found, as values: they print as a table, and go to the writers whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradguard.report.plain import finite_or_none, to_plain
from gradguard.report.text import one_line
from gradguard.report.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Entry:
    """One sampled entry of a tensor: its backprop value, its numerical value, and the error bar between them."""

    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float


@dataclass(frozen=True, slots=True)
class BlockReport:
    """What a check found in one named block of a tensor (one gate, say)."""

    name: str
    verdict: Verdict
    discrepancy: float
    floor: float
    ratio: float
    ratio_error: float
    sign_agreement: float
    resolvable: int
    sampled: int


@dataclass(frozen=True, slots=True)
class TensorReport:
    """What a check found in one tensor.

    Attributes:
        name: The tensor's name in `params`.
        shape: Its shape.
        verdict: What it is.
        cause: The likely cause, in a clause; empty when nothing is wrong.
        cause_key: The identifier of the cause, such as "clipped_by_value" or "divided_by:timesteps": the same wherever
            the cause is the same, however it is worded; empty when nothing is wrong.
        factors: The numbers that the ratio is and that the user named: labels of constants, their products and
            quotients, and lengths of other tensors; several when all fit.
        explanation: The verdict in a sentence, with the numbers.
        faulty_block: The block that alone is wrong; "" where there is none.
        discrepancy: ||n - g|| / (||n|| + ||g||), n numerical, g backprop.
        floor: The discrepancy that rounding and truncation alone could cause here.
        ratio: n / g, pooled; nan where there is none.
        ratio_error: One standard error of `ratio`.
        sign_agreement: The share of resolvable entries whose signs agree.
        sign_interval: Its 95 % Clopper-Pearson interval.
        resolvable: Sampled entries whose numerical value stands clear of its error bar.
        sampled: Entries measured.
        unresolved: Entries measured and left out, because no step suited them.
        kinks: Entries measured and left out, because the loss has a kink there.
        coverage: The share of ||g||^2 that the sampled entries hold.
        step_size: The step of the differences, in units of the parameters.
        noise: The standard deviation of the loss's rounding noise, in units of the loss.
        smallest_visible: The smallest relative error of the gradient this check could have seen.
        ratio_drift: log(ratio / the first confirmed ratio); 0 until there is one.
        evidence: log10 of the sequential evidence that the gradient is wrong; it alarms at about 7.
        last_fine: Of a wrong tensor, the last step at which nothing spoke against it; None if there was none.
        deep: Whether the numbers come from a deep check (many entries) or a routine one.
        blocks: The same, per named block.
        worst: The entries that deviate most, in units of their error bars, worst first.
        ratios: n / g of each resolvable entry.
        entries: The sampled entries that a step suited, or some hundreds of them.
        constants: The numbers of the training that the ratio was compared with, by name.
    """

    name: str
    shape: tuple[int, ...]
    verdict: Verdict
    cause: str
    explanation: str
    faulty_block: str
    discrepancy: float
    floor: float
    ratio: float
    ratio_error: float
    sign_agreement: float
    sign_interval: tuple[float, float]
    resolvable: int
    sampled: int
    unresolved: int
    kinks: int
    coverage: float
    step_size: float
    noise: float
    smallest_visible: float
    ratio_drift: float = 0.0
    evidence: float = 0.0
    last_fine: int | None = None
    deep: bool = True
    blocks: Mapping[str, BlockReport] = field(default_factory=dict)
    worst: tuple[Entry, ...] = ()
    ratios: tuple[float, ...] = ()
    entries: tuple[Entry, ...] = ()
    constants: Mapping[str, float] = field(default_factory=dict)
    cause_key: str = ""
    factors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alert:
    """Something a person should hear about: told once, and again when it changes or ends.

    Attributes:
        step: The training step.
        level: `logging.INFO` (recovered), `WARNING` (a threshold is crossed) or `ERROR` (a confirmed bug).
        tensor: The tensor's name, or "" when it concerns the whole check.
        verdict: The verdict that caused it.
        message: One line: what, where, how sure, the likely cause, what to do.
        finding: The message without the step and the tensor before it and the advice behind it.
    """

    step: int
    level: int
    tensor: str
    verdict: Verdict
    message: str
    finding: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one check found.

    Attributes:
        step: The training step, 0 for a check outside a training.
        verdict: The gravest verdict among the tensors.
        tensors: One report a tensor, by name.
        precision: "native" or "float64": what the loss was evaluated in.
        evaluations: How often the loss was evaluated.
        seconds: How long the check took.
        explanation: The check in a sentence or two.
        loss: The loss at the parameters as they are.
        overhead: The share of the time after the first check that went into checks; None outside a training.
        alerts: What was told at this check.
    """

    step: int
    verdict: Verdict
    tensors: Mapping[str, TensorReport]
    precision: str
    evaluations: int
    seconds: float
    explanation: str
    loss: float
    overhead: float | None = None
    alerts: tuple[Alert, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers; numbers that are not finite become None."""
        plain: dict[str, Any] = to_plain(self, finite_or_none)
        return plain

    def __str__(self) -> str:
        name_width = max((len(name) for name in self.tensors), default=0)
        label_width = max((len(tensor.verdict.label) for tensor in self.tensors.values()), default=0)
        rows = [
            line
            for tensor in self.tensors.values()
            for line in _rows(f"step {self.step}  ", tensor, name_width, label_width)
        ]
        return "\n".join(map(one_line, [*rows, self.explanation]))


def _rows(head: str, tensor: TensorReport, name_width: int, label_width: int) -> list[str]:
    lead = f"{head}{tensor.name:<{name_width}}  "
    row = f"{lead}{tensor.verdict.label:<{label_width}}  {tensor.explanation}"
    return [row, f"{' ' * len(lead)}-> {tensor.cause}"] if tensor.cause else [row]
