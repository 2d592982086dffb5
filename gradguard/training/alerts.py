"""What a person is told: the first time, when it changes, and when it is over."""

import logging
import math
import re
from collections.abc import Mapping

from gradguard.diagnosis.explain import ADVICE
from gradguard.report.results import Alert, Report, TensorReport
from gradguard.report.text import one_line
from gradguard.report.thresholds import Thresholds
from gradguard.report.verdict import Verdict
from gradguard.statistics.pairs import ALARM, BEYOND_FLOOR

LOOKED_INTO = "a deep check could not confirm a bug: gradguard.check(...) with more entries would tell more"
NOT_LOOKED_INTO = "there was no time left for a deep check of it: one of the next checks makes it"


class GradientError(RuntimeError):
    """A confirmed gradient bug, raised by a guard with `on_alert="raise"`.

    Attributes:
        alert: What is wrong.
        report: The whole check.
    """

    def __init__(self, alert: Alert, report: Report) -> None:
        super().__init__(alert.message)
        self.alert = alert
        self.report = report


class Alerts:
    """Remembers what was told of each tensor, so that it is told once, and again when it changes or ends.

    Args:
        thresholds: What alerts, beside a confirmed bug.

    Attributes:
        told: How loud, and about what, by tensor.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self.told: dict[str, tuple[int, str]] = {}

    def of(self, step: int, tensors: Mapping[str, TensorReport]) -> tuple[Alert, ...]:
        """What is new at this check."""
        alerts = (self._new(step, tensor) for tensor in tensors.values())
        return tuple(alert for alert in alerts if alert is not None)

    def _new(self, step: int, tensor: TensorReport) -> Alert | None:
        level, what = _state(tensor, self._thresholds)
        before = self.told.get(tensor.name)
        if level == logging.NOTSET:
            if tensor.verdict.is_bug is None:  # a check that cannot tell is no recovery
                return None
            if self.told.pop(tensor.name, None) is None:
                return None
            message = one_line(f"step {step} {tensor.name}: recovered, {tensor.explanation}")
            return Alert(step, logging.INFO, tensor.name, tensor.verdict, message)
        if before == (level, what):
            return None
        self.told[tensor.name] = (level, what)
        return Alert(step, level, tensor.name, tensor.verdict, one_line(_message(step, tensor, level, what)))


def _state(tensor: TensorReport, thresholds: Thresholds) -> tuple[int, str]:
    """How loud, and about what; what is already told must compare equal at the next check."""
    if tensor.verdict.is_bug:
        return logging.ERROR, _news(tensor)
    unmeasurable = tensor.verdict is Verdict.inconclusive and tensor.deep and not tensor.sampled
    if tensor.verdict is Verdict.nondeterministic or unmeasurable:
        return logging.WARNING, str(tensor.verdict)
    crossed = _crossed(tensor, thresholds)
    return (logging.WARNING, crossed) if crossed else (logging.NOTSET, "")


def _news(tensor: TensorReport) -> str:
    """What is new when it changes: the digits of a ratio are measured anew at each check, and are not."""
    cause = re.sub(r"\d+\.\d+(e[+-]?\d+)?(\(\d+\))?|\d+\(\d+\)", "", tensor.cause)
    size = round(4 * math.log(abs(tensor.ratio))) if tensor.verdict.is_factor and tensor.ratio else 0
    return f"{tensor.verdict} {tensor.faulty_block} {size}: {cause}"


def _crossed(tensor: TensorReport, thresholds: Thresholds) -> str:
    """The threshold that is crossed and that the error bar does not explain, if any."""
    # Few entries may make up the floor, and then the discrepancy scatters as a single deviation does.
    if tensor.discrepancy > max(thresholds.discrepancy, ALARM * tensor.floor):
        return "discrepancy"
    uncertainty = ALARM * tensor.ratio_error / abs(tensor.ratio) if tensor.ratio else 0.0
    if abs(tensor.ratio_drift) > max(thresholds.ratio_drift, uncertainty):
        return "ratio_drift"
    if tensor.sign_interval[1] < thresholds.sign_agreement:
        return "sign_agreement"
    return ""


def _message(step: int, tensor: TensorReport, level: int, what: str) -> str:
    lead = f"step {step} {tensor.name}:"
    sure = f"d = {tensor.discrepancy:.2g} where float precision explains {BEYOND_FLOOR * tensor.floor:.1g}"
    if level == logging.ERROR:
        parts = [f"{lead} BUG, {tensor.verdict}: {tensor.explanation}", tensor.cause]
        if tensor.last_fine is not None:
            parts.append(f"it set in after step {tensor.last_fine}")
        if tensor.sampled:
            parts.append(f"{sure}, on {tensor.sampled} entries")
        return "; ".join([*parts, ADVICE.get(tensor.verdict, "")]).rstrip("; ")
    if what in ("discrepancy", "ratio_drift", "sign_agreement"):
        value = getattr(tensor, what)
        return (
            f"{lead} {what} is {value:.3g}, past its threshold, and float precision does not explain it ({sure}); "
            f"{LOOKED_INTO if tensor.deep else NOT_LOOKED_INTO}"
        )
    return f"{lead} {tensor.verdict}: {tensor.explanation}; {tensor.cause}"
