"""The check of all Functions that a step has called, each by itself."""

import functools
import time
from collections.abc import Callable, Collection, Sequence

import torch

from gradguard.environment import is_interruption
from gradguard.functions import merged, unchecked
from gradguard.integrations.torch.functions.calls import FunctionCall
from gradguard.integrations.torch.functions.products import check_call
from gradguard.integrations.torch.functions.recorder import CallRecorder, RecordedFunction
from gradguard.integrations.torch.functions.strides import fault_of_strides
from gradguard.loss import try_twice
from gradguard.report import FunctionReport, Report

LATEST = 2
"""Calls of a kind that are checked beside the first one."""
MAX_SECONDS = 10.0
"""Once the checks of a step's Functions have taken so long, none is begun."""


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
            self.hooks = tuple(recorder.hooks)
            return check_functions(recorder.functions.values())
        except Exception as error:  # any: the user's loss may raise anything
            if is_interruption(error):
                raise
            return [FunctionReport("the functions of the loss", 0, unchecked(f"repeating it raises {error!r}"))]


def check_functions(recorded: Collection[RecordedFunction]) -> list[FunctionReport]:
    """The check of each Function, the wrong ones first.

    The upstream gradients are those of the step: what a backward pass does with others is not why a gradient of this
    step is wrong. Where no Function is wrong with them, a call that was not kept may be: random ones stand for its own.

    Args:
        recorded: The calls of each Function.
    """
    end = time.perf_counter() + MAX_SECONDS
    calls = [_chosen(each) for each in recorded]
    results = _results(calls, end)
    if not any(result.verdict.is_bug for each in results for result in each if isinstance(result, Report)):
        generator = torch.Generator().manual_seed(0)
        others = [
            [call.with_random_cotangents(generator) for call in chosen] if each.count > len(chosen) else []
            for each, chosen in zip(recorded, calls, strict=True)
        ]
        results = [[*one, *other] for one, other in zip(results, _results(others, end), strict=True)]
        calls = [[*one, *other] for one, other in zip(calls, others, strict=True)]
    reports = list(map(_report, recorded, calls, results))
    return sorted(reports, key=lambda report: not _is_wrong(report))


def _results(calls: Sequence[Sequence[FunctionCall]], end: float) -> list[list[Report | Exception]]:
    """The checks of the calls of each Function: of one call of each first, and no further ones once time is over."""
    results: list[list[Report | Exception]] = [[] for _ in calls]
    for number in range(max(map(len, calls), default=0)):
        for of_function, found in zip(calls, results, strict=True):
            if number < len(of_function) and time.perf_counter() < end:
                found.append(try_twice(functools.partial(check_call, of_function[number])))
    return results


def _is_wrong(report: FunctionReport) -> bool:
    """Whether its check has found something wrong."""
    return bool(report.fault or report.report.verdict.is_bug)


def _chosen(recorded: RecordedFunction) -> list[FunctionCall]:
    """The latest calls of each kind and its first one, those first that zeros do not begin."""
    kinds = ([calls[number] for number in sorted(calls)] for calls in recorded.calls.values())
    return [call for calls in kinds for call in (*calls[1:][-LATEST:], *calls[:1])]


def _report(
    recorded: RecordedFunction, calls: Sequence[FunctionCall], results: Sequence[Report | Exception]
) -> FunctionReport:
    """The report of a Function, from the checks of its first calls."""
    name = f"{recorded.name}.backward"
    reports = [result for result in results if isinstance(result, Report)]
    if not reports:
        reason = f"repeating a call raises {results[0]!r}" if results else recorded.refusal or "there was no time left"
        return FunctionReport(name, recorded.count, unchecked(reason))
    checked = [(call, it) for call, it in zip(calls, results, strict=False) if isinstance(it, Report)]
    fault = next(filter(None, (fault_of_strides(call, result) for call, result in checked)), "")
    report = merged(reports)
    if recorded.is_differentiated_twice and not report.verdict.is_bug:
        report = unchecked("its gradients agree, but its backward pass is differentiated too, and this is not checked")
    return FunctionReport(name, recorded.count, report, fault)
