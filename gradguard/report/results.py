"""The results of a check as values, which print as a table and which writers receive whole."""

import html
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradguard.report.plain import finite_or_none, to_plain
from gradguard.report.text import counted, encodable, listed_briefly, one_line, percent
from gradguard.report.verdict import Verdict

MAX_HTML_ROWS = 30
"""Tensors in the table of a notebook; those of the gravest verdicts come first, and the others are counted."""

_SCREENED_NUMBERS = ("ratio", "ratio_drift", "evidence", "smallest_visible")
_MEASURED_NUMBERS = ("discrepancy", "floor", "sign_agreement", "step_size", "noise")
_CHECK_NUMBERS = ("evaluations", "seconds", "overhead", "loss", "screened", "measured")


@dataclass(frozen=True, slots=True)
class Entry:
    """One sampled entry of a tensor: its backprop value, its numerical value, and the error bar between them."""

    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float


@dataclass(frozen=True, slots=True)
class BlockReport:
    """The result of a check for one named block of a tensor, such as one gate; the fields are those of TensorReport."""

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
    """The result of a check for one tensor. Throughout, n is numerical and g backprop.

    Attributes:
        name: The tensor's name in `params`.
        shape: Its shape.
        verdict: The verdict on its gradient.
        cause: The likely cause, in a clause; empty when nothing is wrong.
        cause_key: The identifier of the cause, such as "clipped_by_value" or "divided_by:timesteps": the same wherever
            the cause is the same, however it is worded; empty when nothing is wrong.
        measured_at: The step at which its own entries and directions were measured; None if they never were.
        screened_at: The last step at which a screen of the model covered it without an alarm; None if none did.
        expected: The reason for which the user declared that its gradient differs; "" where nothing is declared.
        factors: The numbers with a name from the user that the ratio is: labels of constants, of their products and
            quotients, and of lengths of other tensors; several when several fit.
        explanation: The verdict in a sentence, with the numbers.
        faulty_block: The block, or blocks, that alone are wrong; "" where there are none.
        discrepancy: ||n - g|| / (||n|| + ||g||); nan where nothing could be measured.
        floor: The discrepancy that rounding and truncation alone could cause here; nan where nothing could be measured.
        ratio: n / g, pooled; nan where there is none. Of a tensor that was not measured at this step, it comes from a
            regression over the latest screens.
        ratio_error: One standard error of `ratio`.
        sign_agreement: The share of resolvable entries whose signs agree.
        sign_interval: Its 95 % Clopper-Pearson interval.
        resolvable: The number of sampled entries of which both signs are certain.
        sampled: The number of entries measured, those left out included.
        unresolved: The number of entries left out because no step size gave a reliable difference.
        kinks: The number of entries left out because the loss has a kink there.
        coverage: The share of ||g||^2 that the sampled entries hold.
        step_size: The step of the differences, in units of the parameters.
        noise: The standard deviation of the loss's rounding noise, in units of the loss.
        smallest_visible: The smallest relative error of the gradient that its latest measurement or screen could have
            detected.
        ratio_drift: log(ratio / the first confirmed ratio); 0 until there is one.
        evidence: log10 of the sequential evidence that the gradient is wrong; it alarms at about 7, in a model of 400
            tensors at about 9.
        last_fine: The last step at which a tensor that is wrong now was measured or screened and found right; None if
            there is none.
        deep: Whether the numbers come from an examination, or from a screen or a few probes of a later check.
        blocks: The results per named block, by name.
        worst: The entries that deviate most, in units of their error bars, worst first.
        ratios: n / g of each resolvable entry.
        entries: The sampled entries that were not left out, 300 of them at most.
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
    measured_at: int | None = None
    screened_at: int | None = None
    expected: str = ""

    def looked_at(self, step: int) -> bool:
        """Whether a screen covered it, or its own numbers were measured, at this step."""
        return step in (self.measured_at, self.screened_at)

    def has_verdict_of(self, step: int) -> bool:
        """Whether the verdict is of this step.

        One without any date is of the check that gives it: what keeps a tensor from being measured, such as a gradient
        that is not finite, is looked for at every check.
        """
        return self.looked_at(step) or (self.measured_at is None and self.screened_at is None)


@dataclass(frozen=True, slots=True)
class Alert:
    """What a user is notified of: once when it begins, when it changes, and when it ends.

    Attributes:
        step: The training step.
        level: `logging.INFO` (a confirmed error too small to be relevant), `WARNING` (a threshold is crossed, a tensor
            is suspected, or what was an error or a warning has recovered) or `ERROR` (a confirmed bug).
        tensor: The tensor's name, or "" when it concerns the whole check.
        verdict: The verdict that caused it.
        message: One line: what, where, how sure, the likely cause, what to do.
        finding: The message without its step and tensor at the beginning and its advice at the end; "" in a log of a
            version that did not keep it.
        subject: What it is about; equal subjects of one check and level are one fault. "" where that is not known.
    """

    step: int
    level: int
    tensor: str
    verdict: Verdict
    message: str
    finding: str = ""
    subject: str = ""


def alike(alerts: Iterable[Alert]) -> list[tuple[Alert, ...]]:
    """The alerts of a check in groups of one level and one subject each, in the order of their first ones."""
    groups: dict[tuple[int, str], list[Alert]] = {}
    for alert in alerts:
        groups.setdefault((alert.level, alert.subject or alert.message), []).append(alert)
    return [tuple(group) for group in groups.values()]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one check.

    Attributes:
        step: The training step, 0 for a check outside a training.
        verdict: The gravest verdict among the tensors.
        tensors: One report per tensor, by name.
        precision: "native" or "float64": what the loss was evaluated in.
        evaluations: The number of evaluations of the loss.
        seconds: The time that the check took.
        explanation: The check in a sentence or two.
        loss: The loss at the parameters as they are.
        overhead: The share of the time since the first check that checks took; None outside a training.
        alerts: The alerts of this check.
        screened: The number of tensors that a screen covered at this step.
        functions: The checks of single functions that the loss calls, made where a bug was found in a tensor; of a
            hand-written function, those of its timesteps or calls, the last ones first.
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
    screened: int = 0
    functions: "tuple[FunctionReport, ...]" = ()

    @property
    def measured(self) -> int:
        """The number of tensors whose own numbers were measured at this step."""
        return sum(tensor.measured_at == self.step for tensor in self.tensors.values())

    @property
    def summary(self) -> str:
        """The check in one short line, such as for a progress bar.

        It is "step 300: ok, 5 tensors", "step 300: BUG in Wh (scale)", or "step 300: cannot tell for b (kink)".
        """
        if self.verdict.is_bug is False:
            return f"step {self.step}: {self.verdict.words}, {counted(len(self.tensors), 'tensor')}"
        gravest = [tensor for tensor in self.tensors.values() if tensor.verdict.level == self.verdict.level]
        names = listed_briefly([one_line(tensor.name) for tensor in gravest])
        words = ", ".join(dict.fromkeys(tensor.verdict.words for tensor in gravest))
        lead = "BUG in" if self.verdict.is_bug else "cannot tell for"
        return f"step {self.step}: {lead} {names} ({words})"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and numbers; numbers that are not finite become None."""
        plain: dict[str, Any] = to_plain(self, finite_or_none)
        return plain

    def scalars(self) -> dict[str, float]:
        """The numbers of this check for any logger: a flat dict of finite floats.

        Names are "gradguard/check/loss" and so on for the check, "gradguard/ratio/Wh" and so on for a tensor. A verdict
        is its level: 0 agrees, 1 within float precision or as declared, 2 cannot tell, 3 a bug. What an earlier check
        measured is left out, and so is what is not finite.
        """
        numbers = dict(_numbers_of_check(self))
        for name, tensor in self.tensors.items():
            numbers |= {f"{metric}/{name}": value for metric, value in _numbers_of_tensor(self.step, tensor)}
        finite = {key: float(value) for key, value in numbers.items() if math.isfinite(value)}
        return {encodable(f"gradguard/{key}"): value for key, value in finite.items()}

    def __repr__(self) -> str:
        wrong = [one_line(name) for name, tensor in self.tensors.items() if tensor.verdict.is_bug]
        tensors = counted(len(self.tensors), "tensor")
        which = f"{len(wrong)} of {tensors} wrong: {listed_briefly(wrong)}" if wrong else tensors
        return f"<Report of step {self.step}: {self.verdict.label}, {which}>"

    def _repr_html_(self) -> str:
        """The report as a table for notebooks, the gravest verdicts first; `str` has all tensors."""
        tensors = sorted(self.tensors.values(), key=lambda tensor: -tensor.verdict.level)
        rows = "".join(_html_row(self.step, tensor) for tensor in tensors[:MAX_HTML_ROWS])
        others = len(tensors) - MAX_HTML_ROWS
        more = [f"{counted(others, 'tensor')} more in str(report)"] if others > 0 else []
        lines = "<br/>".join(map(_escaped, [self.explanation, *_counts(self), *more]))
        head = _escaped(f"gradguard, step {self.step}: {self.verdict.label}")
        return f"<p><b>{head}</b></p><table>{_HTML_HEAD}{rows}</table><p>{lines}</p>"

    def __str__(self) -> str:
        name_width = max((len(name) for name in self.tensors), default=0)
        label_width = max((len(tensor.verdict.label) for tensor in self.tensors.values()), default=0)
        rows = [line for tensor in self.tensors.values() for line in _rows(self.step, tensor, name_width, label_width)]
        return "\n".join(map(one_line, [*rows, self.explanation, *_counts(self)]))


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """The check of a function with a backward pass of its own, such as a `torch.autograd.Function`.

    Attributes:
        name: What the user calls it, such as "Cell.backward".
        calls: How often the training step called it.
        report: The check of the gradients that its backward pass returns; the tensors are its inputs. Without tensors
            it says why the function could not be checked.
        fault: What is wrong besides single gradients, in a clause: a kernel that ignores strides; "" if nothing.
    """

    name: str
    calls: int
    report: Report
    fault: str = ""


def _numbers_of_check(report: Report) -> Iterator[tuple[str, float]]:
    yield "check/verdict", report.verdict.level
    for metric in _CHECK_NUMBERS:
        if (value := getattr(report, metric)) is not None:
            yield f"check/{metric}", value


def _numbers_of_tensor(step: int, tensor: TensorReport) -> Iterator[tuple[str, float]]:
    """What is known of a tensor by a check of this step."""
    # Numbers that another program measured have no dates, and are all there is.
    is_undated = tensor.measured_at is None and tensor.screened_at is None and tensor.sampled > 0
    is_measured = is_undated or tensor.measured_at == step
    if tensor.has_verdict_of(step):
        yield "verdict", tensor.verdict.level
    for metric in _SCREENED_NUMBERS if is_measured or tensor.looked_at(step) else ():
        # A tensor without a ratio has a drift of 0, which is no measurement.
        if metric != "ratio_drift" or math.isfinite(tensor.ratio):
            yield metric, getattr(tensor, metric)
    for metric in _MEASURED_NUMBERS if is_measured else ():
        yield metric, getattr(tensor, metric)


_HTML_HEAD = "<tr><th>tensor</th><th>verdict</th><th>numerical against backprop</th></tr>"


def _html_row(step: int, tensor: TensorReport) -> str:
    cause = f"<br/>&#8594; {_escaped(tensor.cause)}" if tensor.cause else ""
    name, label = _escaped(listed_briefly([one_line(tensor.name)])), _escaped(tensor.verdict.label)
    cells = (f"<code>{name}</code>", label, f"{_escaped(_dated(step, tensor))}{cause}")
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    return html.escape(one_line(text))


def _rows(step: int, tensor: TensorReport, name_width: int, label_width: int) -> list[str]:
    lead = f"step {step}  {tensor.name:<{name_width}}  "
    row = f"{lead}{tensor.verdict.label:<{label_width}}  {_dated(step, tensor)}"
    return [row, f"{' ' * len(lead)}-> {tensor.cause}"] if tensor.cause else [row]


def _dated(step: int, tensor: TensorReport) -> str:
    """What is said of a tensor at a step, with the dates of what is older."""
    if tensor.measured_at == step or (tensor.measured_at is None and tensor.has_verdict_of(step)):
        return tensor.explanation
    if tensor.verdict.agrees:
        return "; ".join(filter(None, [_screen(step, tensor), _own_numbers(tensor)]))
    dates = [f"screened at step {tensor.screened_at}"] if tensor.screened_at not in (None, step) else []
    dates += [] if tensor.measured_at is None else [f"measured at step {tensor.measured_at}"]
    return "; ".join([tensor.explanation, *dates])


def _screen(step: int, tensor: TensorReport) -> str:
    """What the last screen promises of a tensor that it covered."""
    if tensor.screened_at is None:
        return "not checked since"
    when = (
        "screened" if tensor.screened_at == step else f"not checked since it was screened at step {tensor.screened_at}"
    )
    return f"{when}; smallest detectable scale error: {percent(tensor.smallest_visible)}"


def _own_numbers(tensor: TensorReport) -> str:
    """The discrepancy of an earlier step; "" where there is none."""
    if tensor.measured_at is None or not math.isfinite(tensor.discrepancy):
        return ""
    return f"d = {tensor.discrepancy:.1e} at step {tensor.measured_at}"


def _counts(report: Report) -> list[str]:
    """How many tensors were looked at, in a line; none where no tensor has a date, as in `diagnose`."""
    tensors = report.tensors.values()
    if all(tensor.measured_at is None and tensor.screened_at is None for tensor in tensors):
        return []
    of_all = f"of {counted(len(tensors), 'tensor')}"
    if not report.screened:
        return [f"{report.measured} {of_all} measured"]
    return [f"{report.screened} {of_all} screened, {report.measured} measured"]
