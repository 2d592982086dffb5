"""Records of checks for the GradGuard tab: each is a report of bounded size with the earlier changes of its verdicts.

TensorBoard keeps a sample of a run's checks, which always holds the latest one. Each record therefore says when the
verdict of each tensor changed, when each was last found right, and which checks were the last, so that the summary of a
run is exact however few checks TensorBoard keeps.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from gradguard.report import Report, to_plain

PLUGIN = "gradguard"
"""The name of the plugin and of its data in TensorBoard."""
CHECK_TAG = "gradguard.record/check"
"""The tag of every check."""
ALERT_TAG = "gradguard.record/alerted"
"""The tag of checks with alerts, which are written under both tags, so that sampling cannot drop them."""
SWEEP_TAG = "gradguard.record/sweep"
"""The tag of sweeps."""

SWEEP_CURVES = ("discrepancy", "floor", "noise", "truncation")
"""The arrays of a sweep that a record holds, each with one number a step."""

# Checks of a run, at one of which each tensor must have been found right for the run to be called right. Two in a row
# may pass a tensor by: one that searches its steps anew, and one that spends its time on an alarm.
LAST_CHECKS = 3
MAX_CHANGES = 50  # of a tensor's verdict; the latest are kept
MAX_ENTRIES = 2000  # sampled entries of all tensors together
MAX_CHARACTERS = 2000  # of an explanation or cause
SIGNIFICANT_DIGITS = 9  # enough to distinguish any two float32 numbers

Record: TypeAlias = dict[str, Any]


class History:
    """The changes of each tensor's verdict over the reports of one writer, and when each was last found right."""

    def __init__(self) -> None:
        self._changes: dict[str, list[tuple[int, str]]] = {}
        self._right: dict[str, int] = {}
        self._last: list[int] = []
        self._began: int | None = None
        self._checks = 0

    def record(self, report: Report) -> Record:
        """The record of the next report of the run."""
        self._began = report.step if self._began is None else min(self._began, report.step)
        self._checks += 1
        # A step that is not higher: the training was set back, and what followed it never happened.
        self._right = {name: step for name, step in self._right.items() if step < report.step}
        self._last = [*(step for step in self._last if step < report.step), report.step][-LAST_CHECKS:]
        for name, tensor in report.tensors.items():
            if tensor.has_verdict_of(report.step) or name not in self._changes:
                self._add_verdict(name, report.step, str(tensor.verdict))
            if tensor.has_verdict_of(report.step) and tensor.verdict.is_bug is False:
                self._right[name] = report.step
        record = _bounded(report.to_dict(), max(1, MAX_ENTRIES // max(1, len(report.tensors))))
        changes = {name: list(changes) for name, changes in self._changes.items()}
        whole_run = {"changes": changes, "right": dict(self._right), "last": list(self._last)}
        return record | {"began": self._began, "checks": self._checks} | whole_run

    def _add_verdict(self, name: str, step: int, verdict: str) -> None:
        changes = self._changes.setdefault(name, [])
        while changes and changes[-1][0] >= step:  # the training was set back
            changes.pop()
        if not changes or changes[-1][1] != verdict:
            changes.append((step, verdict))
            del changes[:-MAX_CHANGES]


def packed(record: Mapping[str, Any]) -> bytes:
    """A record as compact JSON."""
    return json.dumps(record, allow_nan=False, separators=(",", ":")).encode()


def unpacked(data: bytes | str) -> Record | None:
    """The record, or None if the data is not a JSON object."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _bounded(report: Record, max_entries: int) -> Record:
    tensors = {name: _bounded_tensor(tensor, max_entries) for name, tensor in report["tensors"].items()}
    shortened = report | {"explanation": report["explanation"][:MAX_CHARACTERS], "tensors": tensors}
    bounded: Record = to_plain(shortened, _rounded)
    return bounded


def _bounded_tensor(tensor: Record, max_entries: int) -> Record:
    entries = tensor["entries"][:: max(1, -(-len(tensor["entries"]) // max_entries))]
    texts = {key: tensor[key][:MAX_CHARACTERS] for key in ("cause", "cause_key", "explanation", "faulty_block")}
    others = {key: value for key, value in tensor.items() if key not in ("name", "ratios")}
    worst = tensor["worst"] if len(entries) > len(tensor["worst"]) else []  # else `entries` already holds them
    return others | texts | {"entries": entries, "worst": worst}


def _rounded(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
