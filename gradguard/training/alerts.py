"""Alerts: one when a tensor goes wrong, one when what is wrong changes, one when it is right again; and their log."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gradguard.diagnosis import SMALL_ERROR
from gradguard.examination import IN_STEPS
from gradguard.intended import CHANGED, declaration, how_to_declare
from gradguard.report import (
    Alert,
    Report,
    TensorReport,
    Thresholds,
    Verdict,
    alike,
    counted,
    listed_briefly,
    log_message,
    one_line,
)
from gradguard.screening import SUSPECTED
from gradguard.screening.reports import UNSCREENED, UNSEEN
from gradguard.statistics import ALARM_Z, EXPLAINED_FLOORS

NOT_CONFIRMED = "an examination did not confirm a bug; gradguard.check(..., entries=300) measures more"
NOT_FOLLOWED_UP = "there was no time to examine it; one of the next checks does"
MORE_CHECKS = "lower every_n_steps for more checks, or raise max_overhead to give them more time"
WHOLE_CHECK = ""  # the tensor of an alert that concerns all of them
RECOVERED = "recovered"
MAX_MESSAGES = 5  # in the log, of a check; the last one counts the alerts that are left
LOG_RATIO_UNITS = 4  # log(ratio) is rounded to quarters: a factor that changes by e^(1/4), 28 %, is another factor


AlertAction = str | Callable[[Alert], object]
"""What is done at an alert: "log", "raise", or a callable that takes it."""


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


def require_alert_actions(on_alert: AlertAction | Sequence[AlertAction]) -> tuple[AlertAction, ...]:
    """What to do at an alert, one or several.

    Raises:
        ValueError: It is none of the actions, or holds something that is none.
    """
    actions = tuple(on_alert) if isinstance(on_alert, list | tuple) else (on_alert,)
    for action in actions:
        if not callable(action) and action not in ("log", "raise"):
            place = f"on_alert holds {action!r}" if isinstance(on_alert, list | tuple) else f"on_alert is {action!r}"
            raise ValueError(f"{place}; expected 'log', 'raise' or a callable that takes an Alert, or a list of these")
    return actions


class Alerts:
    """Remembers the standing alert of each tensor, so that only a change of it makes another alert.

    Args:
        thresholds: What alerts, beside a confirmed bug.

    Attributes:
        standing: The level and the subject of the last alert, by tensor; recovered tensors have none.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self.standing: dict[str, tuple[int, str]] = {}

    def of(self, step: int, tensors: Mapping[str, TensorReport]) -> tuple[Alert, ...]:
        """The alerts of this check: those that the check before did not make already."""
        first = next(iter(tensors.values()), None)
        if first is not None and first.verdict is Verdict.other_loss:
            return self._of_whole_check(step, first)
        alerts = (self._new(step, tensor) for tensor in tensors.values())
        # All tensors of a suspected group say the same, which is one alert.
        told = {(alert.finding if alert.subject == SUSPECTED else alert): alert for alert in alerts if alert}
        return tuple(told.values())

    def _of_whole_check(self, step: int, tensor: TensorReport) -> tuple[Alert, ...]:
        """One warning in a training; what stands against single tensors stands, since nothing was measured."""
        if WHOLE_CHECK in self.standing:
            return ()
        self.standing[WHOLE_CHECK] = (logging.WARNING, str(tensor.verdict))
        finding = one_line(_warning(tensor, tensor.verdict))
        return (
            Alert(
                step,
                logging.WARNING,
                WHOLE_CHECK,
                tensor.verdict,
                f"step {step}: {finding}",
                finding,
                str(tensor.verdict),
            ),
        )

    def _new(self, step: int, tensor: TensorReport) -> Alert | None:
        level, subject = _level_and_subject(tensor, self._thresholds)
        if level == logging.NOTSET:
            if tensor.verdict.is_bug is None:  # a check that cannot tell is no recovery
                return None
            before, _ = self.standing.pop(tensor.name, (logging.NOTSET, ""))
            if before == logging.NOTSET or tensor.verdict is Verdict.expected:
                return None
            # Who was told of a bug is told of its end: without a configured logger, only warnings are shown.
            level = min(before, logging.WARNING)
            return _alert(step, level, tensor, RECOVERED, f"{RECOVERED}, {tensor.explanation}")
        if self.standing.get(tensor.name) == (level, subject):
            return None
        self.standing[tensor.name] = (level, subject)
        if level == logging.ERROR:
            advice = "; ".join(filter(None, [tensor.verdict.advice, how_to_declare([tensor])]))
            return _alert(step, level, tensor, subject, _bug(tensor), advice)
        return _alert(step, level, tensor, subject, _warning(tensor, subject))


def _alert(step: int, level: int, tensor: TensorReport, subject: str, finding: str, advice: str = "") -> Alert:
    message = f"step {step} {tensor.name}: {'; '.join(filter(None, [finding, advice]))}"
    return Alert(step, level, tensor.name, tensor.verdict, one_line(message), one_line(finding), subject)


def log_messages(alerts: Iterable[Alert]) -> Iterator[tuple[int, str]]:
    """The level and the text of what the log gets of the alerts of a check: one message for each fault.

    A fault in many tensors has the numbers of the first. Of many faults the gravest are told, and the others counted.
    """
    groups = sorted(alike(alerts), key=lambda group: -group[0].level)
    single = groups if len(groups) <= MAX_MESSAGES else groups[: MAX_MESSAGES - 1]
    for group in single:
        yield group[0].level, log_message(_of_group(group))
    others = [alert for group in groups[len(single) :] for alert in group]
    if others:
        names = listed_briefly(_names(others))
        text = f"step {others[0].step} {names}: {counted(len(others), 'more alert')}, in guard.report.alerts"
        yield others[0].level, log_message(text)


def _of_group(group: Sequence[Alert]) -> str:
    """A fault as the log tells it: step, tensors, finding and advice."""
    alert = group[0]
    first, *others = _names(group)
    where = listed_briefly([first]) + (f", likewise {listed_briefly(others)}" if others else "")
    advice = [alert.verdict.advice, _declaration(alert, _names(group))] if alert.level >= logging.ERROR else []
    return f"{f'step {alert.step} {where}'.rstrip()}: {'; '.join(filter(None, [alert.finding, *advice]))}"


def _declaration(alert: Alert, names: Sequence[str]) -> str:
    return declaration(names, alert.verdict.meant) if alert.verdict.meant else ""


def _names(alerts: Iterable[Alert]) -> list[str]:
    return [one_line(alert.tensor) for alert in alerts]


def _level_and_subject(tensor: TensorReport, thresholds: Thresholds) -> tuple[int, str]:
    """The level of an alert, NOTSET for none, and what it is about; equal subjects are one alert."""
    if tensor.verdict.is_bug:
        return logging.ERROR, _subject_of_bug(tensor)
    if tensor.verdict is Verdict.expected:
        return (logging.WARNING, CHANGED) if tensor.cause_key == CHANGED else (logging.NOTSET, "")
    if tensor.cause_key == SMALL_ERROR:
        return logging.INFO, SMALL_ERROR
    if tensor.cause_key == SUSPECTED:
        return logging.WARNING, SUSPECTED
    unmeasurable = tensor.verdict is Verdict.inconclusive and tensor.deep and not tensor.sampled
    if tensor.verdict is Verdict.nondeterministic or unmeasurable or tensor.cause_key == IN_STEPS:
        return logging.WARNING, str(tensor.verdict)
    crossed = _crossed(tensor, thresholds)
    return (logging.WARNING, crossed) if crossed else (logging.NOTSET, "")


def _subject_of_bug(tensor: TensorReport) -> str:
    """Verdict, block, size of the factor and cause; the digits of a ratio differ from check to check, and do not count.

    A string, since checkpoints keep it.
    """
    size = round(LOG_RATIO_UNITS * math.log(abs(tensor.ratio))) if tensor.verdict.is_factor and tensor.ratio else 0
    return f"{tensor.verdict} {tensor.faulty_block} {size}: {tensor.cause_key}"


def _crossed(tensor: TensorReport, thresholds: Thresholds) -> str:
    """The field of the report that is past its threshold by more than its error bar; "" where none is."""
    # Few entries may make up the floor, and then the discrepancy scatters as a single deviation does.
    if tensor.discrepancy > max(thresholds.discrepancy, ALARM_Z * tensor.floor):
        return "discrepancy"
    uncertainty = ALARM_Z * tensor.ratio_error / abs(tensor.ratio) if tensor.ratio else 0.0
    if abs(tensor.ratio_drift) > max(thresholds.ratio_drift, uncertainty):
        return "ratio_drift"
    # A discrepancy is at most 1. Where rounding accounts for that, it may have turned any sign.
    explains_any = EXPLAINED_FLOORS * tensor.floor >= 1
    if tensor.sign_interval[1] < thresholds.sign_agreement and not explains_any:
        return "sign_agreement"
    return ""


def _bug(tensor: TensorReport) -> str:
    parts = [f"BUG, {tensor.verdict}: {tensor.explanation}", tensor.cause]
    if tensor.last_fine is not None:
        parts.append(f"last ok at step {tensor.last_fine}")
    # One factor may be certain from many entries together, each of which float precision would explain.
    if tensor.sampled and tensor.discrepancy > EXPLAINED_FLOORS * tensor.floor:
        parts.append(_discrepancy(tensor, f" in {tensor.sampled} entries,"))
    return "; ".join(filter(None, parts))


def _warning(tensor: TensorReport, subject: str) -> str:
    if subject in (tensor.verdict, SUSPECTED, SMALL_ERROR, CHANGED):
        lead = f"{tensor.verdict}: " if subject == tensor.verdict else ""
        return f"{lead}{tensor.explanation}; {tensor.cause}"
    return (
        f"{subject} is {getattr(tensor, subject):.3g}, past its threshold and more than rounding accounts for "
        f"({_discrepancy(tensor)}); {NOT_CONFIRMED if tensor.deep else NOT_FOLLOWED_UP}"
    )


def _discrepancy(tensor: TensorReport, where: str = "") -> str:
    explained = EXPLAINED_FLOORS * tensor.floor
    return f"d = {tensor.discrepancy:.2g}{where} where rounding and truncation account for {explained:.1g}"


def open_at_the_end(names: Iterable[str], tensors: Mapping[str, TensorReport]) -> Iterator[str]:
    """What the checks of a whole training leave open, in a line each.

    Args:
        names: The tensors of the model.
        tensors: The last report of each tensor that a check looked at.
    """
    everything = list(names)
    unseen = [name for name in everything if name not in tensors or _was_never_judged(tensors[name])]
    if unseen:
        count = f"{len(unseen)} of {counted(len(everything), 'tensor')}"
        what_to_do = MORE_CHECKS if tensors else "the warnings of the checks say why"
        yield log_message(f"no check of this training covered {count}: {listed_briefly(unseen)}; {what_to_do}")
    suspected = [name for name in everything if name in tensors and tensors[name].cause_key == SUSPECTED]
    if suspected:
        names = listed_briefly(suspected)
        yield log_message(f"the last check suspects {names}, and no later check examined it; {MORE_CHECKS}")


def _was_never_judged(tensor: TensorReport) -> bool:
    return tensor.measured_at is None and tensor.cause_key in (UNSCREENED, UNSEEN)
