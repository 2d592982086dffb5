"""The report of a single function: from the checks of several of its calls, or where none could be checked."""

import dataclasses
import math
from collections.abc import Sequence

from gradguard.diagnosis import summary, worst_verdict
from gradguard.report import Report, TensorReport, Verdict


def merged(reports: Sequence[Report]) -> Report:
    """One report of several checks of one function: of each input the gravest verdict.

    Where a call could not be checked and no other one is wrong, the report says that.
    """
    gravest = max(reports, key=lambda report: report.verdict.level)
    if not gravest.tensors:
        return gravest
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


def unchecked(reason: str) -> Report:
    """The report of a function that could not be checked."""
    return Report(0, Verdict.inconclusive, {}, "native", 0, 0.0, reason, math.nan)
