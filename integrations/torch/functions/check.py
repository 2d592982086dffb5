"""The check of all Functions that a step has called, each by itself."""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Sequence

import torch

from gradguard.diagnosis import summary, worst_verdict
from gradguard.environment import is_interruption
from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.products import check_call
from gradguard.integrations.torch.functions.recorder import CallRecorder, RecordedFunction
from gradguard.integrations.torch.functions.strides import fault_of_strides
from gradguard.loss import try_twice
from gradguard.report import FunctionReport, Report, TensorReport, Verdict

LATEST = 2
"""Calls of a kind that are checked beside the first one."""


class FunctionChecks:
    """Checks the Functions that a loss calls, and knows which hooks may change its gradients besides.

    Attributes:
        hooks: The hooks of the latest step that was looked at, as in "`scale` (model.py:31)".
    """

    def __init__(self) -> None:
        self.hooks: tuple[str, ...] = ()

    def check(self, record: Callable[[CallRecorder], object]) -> list[FunctionReport]:
        """The check of each Function, the wrong ones first.

        Args:
            record: Lets a recorder make the forward and backward passes of the loss.
        """
        recorder = CallRecorder()
        try:
            record(recorder)
        except Exception as error:  # any: the user's loss may raise anything
            if is_interruption(error):
                raise
            return [FunctionReport("the functions of the loss", 0, _unchecked(f"its backward pass raises {error!r}"))]
        self.hooks = tuple(recorder.hooks)
        return check_functions(recorder.functions.values())


def check_functions(recorded: Collection[RecordedFunction]) -> list[FunctionReport]:
    """The check of each Function, the wrong ones first.

    The upstream gradients are those of the step: what a backward pass does with others is not why a gradient of this
    step is wrong. Where no Function is wrong with them, a call that was not kept may be: random ones stand for its own.

    Args:
        recorded: The calls of each Function.
    """
    reports = [_report(each, _chosen(each)) for each in recorded]
    if not any(map(is_wrong, reports)):
        generator = torch.Generator().manual_seed(0)
        for i, each in enumerate(recorded):
            if each.count > len(_chosen(each)):
                others = [call.with_random_cotangents(generator) for call in _chosen(each)]
                reports[i] = _report(each, [*_chosen(each), *others])
    return sorted(reports, key=lambda report: not is_wrong(report))


def is_wrong(report: FunctionReport) -> bool:
    """Whether its check has found something wrong."""
    return bool(report.fault or report.report.verdict.is_bug)


def _chosen(recorded: RecordedFunction) -> list[FunctionCall]:
    """The first and the latest calls of each kind."""
    kinds = ([calls[number] for number in sorted(calls)] for calls in recorded.calls.values())
    return [call for calls in kinds for call in (*calls[:1], *calls[1:][-LATEST:])]


def _report(recorded: RecordedFunction, calls: Sequence[FunctionCall]) -> FunctionReport:
    name = f"{recorded.name}.backward"
    results = [try_twice(functools.partial(check_call, call)) for call in calls]
    reports = [result for result in results if isinstance(result, Report)]
    if not reports:
        reason = f"the call made again raises {results[0]!r}" if results else recorded.refusal
        return FunctionReport(name, recorded.count, _unchecked(reason))
    pairs = zip(calls, results, strict=True)
    wrong = [call for call, result in pairs if isinstance(result, Report) and result.verdict.is_bug]
    fault = next(filter(None, map(fault_of_strides, wrong)), "")
    report = merged(reports)
    if recorded.is_differentiated_twice and not report.verdict.is_bug:
        report = _unchecked("its gradients agree, but its backward pass is differentiated too, which is not checked")
    return FunctionReport(name, recorded.count, report, fault)


def merged(reports: Sequence[Report]) -> Report:
    """One report of several checks of one function: of each input the gravest verdict."""
    tensors: dict[str, TensorReport] = {}
    for report in reports:
        for name, tensor in report.tensors.items():
            if name not in tensors or tensor.verdict.level > tensors[name].verdict.level:
                tensors[name] = tensor
    return dataclasses.replace(
        reports[0],
        verdict=worst_verdict(tensors),
        tensors=tensors,
        evaluations=sum(report.evaluations for report in reports),
        seconds=sum(report.seconds for report in reports),
        explanation=summary(tensors, 0),
    )


def _unchecked(reason: str) -> Report:
    """The report of a function that could not be checked."""
    return Report(0, Verdict.inconclusive, {}, "native", 0, 0.0, reason, math.nan)
