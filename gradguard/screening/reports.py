"""What a screen lets be said of a tensor of which nothing else was measured at this check."""

import dataclasses
import math
from typing import Any

from gradguard.diagnosis import unmeasured_tensor
from gradguard.report import TensorReport, Thresholds, Verdict, percent

SUSPECTED = "suspected"
UNSEEN = "screen_too_coarse"
UNSCREENED = "unscreened"
TOO_WIDE = (
    "loss_too_noisy",
    "loss_too_rough",
    "loss_not_moved",
    UNSEEN,
)  # causes of an own measurement that tells nothing
# A gradient that is wrong by a relative error e has the discrepancy e / 2.
ERRORS_PER_DISCREPANCY = 2.0


def is_visible(error: float, thresholds: Thresholds) -> bool:
    """Whether a screen that shows such an error of a tensor shows every error above the threshold."""
    return error <= ERRORS_PER_DISCREPANCY * thresholds.discrepancy


def sentences(cause_key: str, visible: float) -> tuple[str, str]:
    """The explanation and the cause of a tensor of which only a screen tells something.

    Args:
        cause_key: `UNSEEN`, `UNSCREENED`, or "" where the screen found it right.
        visible: The smallest relative error that the screen would have shown.
    """
    if cause_key == UNSCREENED:
        return (
            "not checked yet: groups of tensors take turns in a large model, and its group has no reliable step size",
            "the next checks continue with it",
        )
    if cause_key != UNSEEN:
        return f"screened with the whole model; smallest detectable scale error: {percent(visible)}", ""
    shown = (
        f"but the smallest detectable scale error is {percent(visible)}"
        if math.isfinite(visible)
        else "but the gradient of this tensor is too small to be seen in it"
    )
    cause = "its gradient is small beside those of the other tensors; it is measured by itself in turn"
    return f"screened with the whole model without an alarm, {shown}", cause


def screened(name: str, shape: tuple[int, ...], visible: float, step: int, thresholds: Thresholds) -> TensorReport:
    """The report of a tensor that a screen covered without an alarm, and of which nothing else was ever measured.

    Args:
        name: Its name.
        shape: Its shape.
        visible: The smallest relative error that the screen would have shown.
        step: The training step.
        thresholds: What counts as agreement.
    """
    verdict, key = _found(visible, thresholds)
    says, cause = sentences(key, visible)
    report = unmeasured_tensor(name, shape, verdict, says, cause, cause_key=key, deep=False)
    return dataclasses.replace(report, discrepancy=math.nan, floor=math.inf, smallest_visible=visible, screened_at=step)


def _found(visible: float, thresholds: Thresholds) -> tuple[Verdict, str]:
    """The verdict of a screen without an alarm, and the identifier of its cause."""
    return (Verdict.ok, "") if is_visible(visible, thresholds) else (Verdict.inconclusive, UNSEEN)


def suspected(name: str, shape: tuple[int, ...], group: tuple[str, ...]) -> TensorReport:
    """The report of a tensor in a group whose probe alarmed, and which there was no time to look at by itself.

    Args:
        name: Its name.
        shape: Its shape.
        group: All tensors of the group, in order.
    """
    where = name if len(group) == 1 else f"{group[0]} to {group[-1]} ({len(group)} tensors)"
    says = f"suspected: the loss does not follow the gradient of {where}"
    cause = "there was no time to find the wrong tensor among them; the next check begins with it"
    return unmeasured_tensor(name, shape, Verdict.inconclusive, says, cause, cause_key=SUSPECTED, deep=False)


def unscreened(name: str, shape: tuple[int, ...]) -> TensorReport:
    """The report of a tensor that no screen covered yet."""
    says, cause = sentences(UNSCREENED, math.inf)
    return unmeasured_tensor(name, shape, Verdict.inconclusive, says, cause, cause_key=UNSCREENED, deep=False)


def carried(
    before: TensorReport | None,
    name: str,
    shape: tuple[int, ...],
    visible: float,
    step: int,
    thresholds: Thresholds,
    ratio: tuple[float, float] = (math.nan, math.inf),
) -> TensorReport:
    """The report of a tensor that the screen of this check covered without an alarm; its own numbers are older, if any.

    Args:
        before: Its last report.
        name: Its name.
        shape: Its shape.
        visible: The smallest relative error that the screen would have shown.
        step: The training step.
        thresholds: What counts as agreement.
        ratio: n/g and its standard error, from the latest screens.
    """
    if before is None or before.screened_at is before.measured_at is None:
        before = screened(name, shape, visible, step, thresholds)
    dates: dict[str, Any] = {
        "smallest_visible": visible,
        "screened_at": step,
        "ratio": ratio[0],
        "ratio_error": ratio[1],
    }
    verdict, key = _found(visible, thresholds)
    is_dated = before.measured_at is not None and (
        (before.verdict.is_bug is False and verdict is Verdict.ok)
        or before.verdict is Verdict.kink
        or before.cause_key == "not_confirmed"
    )
    if is_dated:
        return dataclasses.replace(before, **dates)
    says, cause = sentences(key, visible)
    return dataclasses.replace(before, verdict=verdict, explanation=says, cause=cause, cause_key=key, **dates)


def with_screen(own: TensorReport, visible: float, step: int, thresholds: Thresholds) -> TensorReport:
    """The report of a tensor from its own measurement, at a check whose screen covered it without an alarm.

    A few entries may be too noisy to tell anything, where the screen sees small errors of the whole gradient.

    Args:
        own: The report from its own measurement.
        visible: The smallest relative error that the screen would have shown.
        step: The training step.
        thresholds: What counts as agreement.
    """
    if own.verdict.is_bug is not False and own.cause_key not in TOO_WIDE:
        return own
    seen = min(visible, own.smallest_visible)
    if own.verdict.is_bug is None and is_visible(visible, thresholds):
        says = f"{own.explanation}; screened with the whole model; smallest detectable scale error: {percent(visible)}"
        own = dataclasses.replace(own, verdict=Verdict.ok, explanation=says, cause="", cause_key="")
    return dataclasses.replace(own, smallest_visible=seen, screened_at=step)
