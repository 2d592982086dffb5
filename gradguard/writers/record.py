"""A check as it is kept for the GradGuard tab: the report, cut to a bounded size, with what led up to it.

TensorBoard keeps a sample of a run's checks, always the latest among them. Each record therefore tells when the verdict
of each tensor changed before, so that the story is exact however few of the checks are still there.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from gradguard.report.results import Report

PLUGIN = "gradguard"
"""The name that TensorBoard knows the tab and its data by."""
CHECK, ALERTED, SWEEP = "gradguard.record/check", "gradguard.record/alerted", "gradguard.record/sweep"
"""Tags: of every check; once more of those with alerts, since alerts must not fall to the sampling; of sweeps."""

CURVES = ("discrepancy", "floor", "noise", "truncation")
"""What is kept of a sweep, at each of its steps."""

CHANGES = 50  # of a tensor's verdict, the latest
ENTRIES = 2000  # of all tensors together
WORDS = 2000  # characters of an explanation
DIGITS = 9  # of a number: what tells any two of float32

Record: TypeAlias = dict[str, Any]


class History:
    """When each tensor's verdict changed, as far as one writer saw it."""

    def __init__(self) -> None:
        self._changes: dict[str, list[tuple[int, str]]] = {}
        self._began: int | None = None
        self._checks = 0

    def record(self, report: Report) -> Record:
        """The record of the next report of the run."""
        self._began = report.step if self._began is None else min(self._began, report.step)
        self._checks += 1
        for name, tensor in report.tensors.items():
            self._see(name, report.step, str(tensor.verdict))
        record = _cut(report.to_dict(), max(1, ENTRIES // max(1, len(report.tensors))))
        changes = {name: list(changes) for name, changes in self._changes.items()}
        return record | {"began": self._began, "checks": self._checks, "changes": changes}

    def _see(self, name: str, step: int, verdict: str) -> None:
        changes = self._changes.setdefault(name, [])
        while changes and changes[-1][0] >= step:  # the training was set back
            changes.pop()
        if not changes or changes[-1][1] != verdict:
            changes.append((step, verdict))
            del changes[:-CHANGES]


def packed(record: Mapping[str, Any]) -> bytes:
    """A record as compact JSON."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()


def unpacked(data: bytes | str) -> Record | None:
    """The record, or None where it is not one."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _cut(report: Record, entries: int) -> Record:
    tensors = {name: _cut_tensor(tensor, entries) for name, tensor in report["tensors"].items()}
    cut: Record = _rounded(report | {"explanation": report["explanation"][:WORDS], "tensors": tensors})
    return cut


def _cut_tensor(tensor: Record, entries: int) -> Record:
    kept = tensor["entries"][:: max(1, -(-len(tensor["entries"]) // entries))]
    words = {key: tensor[key][:WORDS] for key in ("cause", "explanation", "faulty_block")}
    left = {key: value for key, value in tensor.items() if key not in ("name", "ratios")}
    worst = tensor["worst"] if len(kept) > len(tensor["worst"]) else []  # a routine check's few entries are all there
    return left | words | {"entries": kept, "worst": worst}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
