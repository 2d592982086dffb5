"""Records of checks: what each check measured or screened anew, and reports completed from records.

A record holds all numbers of the tensors that its check measured, and of the others the few that a screen gives. What
is older is in the record of the check that measured it, whose step is in `measured_at`; `Completion` puts it together.

TensorBoard keeps a sample of a run's checks, which always holds the latest one. Each record in an event file therefore
says when the verdict of each tensor changed, when each was last found right, and which checks were the last, so that
the summary of a run is exact however few checks TensorBoard keeps.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from gradguard.report import Report, TensorReport, Verdict, finite_or_none, to_plain
from gradguard.screening.reports import UNSCREENED, UNSEEN, sentences

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
MAX_CHARACTERS = 2000  # of a text
SIGNIFICANT_DIGITS = 9  # enough to distinguish any two float32 numbers
SCREEN_DIGITS = 6  # of the numbers of a screen, whose errors are larger
MAX_UNPACKED_BYTES = 2**27  # of a packed record: a damaged one may claim any size
_ZLIB_START = b"x"

_NUMBERS_OF_SCREEN = ("ratio", "ratio_error", "ratio_drift", "evidence", "smallest_visible")
_DATES = ("measured_at", "screened_at")
_SAID_BY_NUMBERS = (UNSEEN, UNSCREENED)  # causes whose sentences a reader makes of the numbers
_TEXTS = ("explanation", "cause", "cause_key", "faulty_block", "factors", "expected")

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
        record = _bounded(looked_at_anew(report), max(1, MAX_ENTRIES // max(1, len(report.tensors))))
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


def looked_at_anew(report: Report) -> Record:
    """What a check measured or screened, as plain values: a report without what earlier records hold."""
    tensors = {name: _anew(tensor, report.step) for name, tensor in report.tensors.items()}
    plain: Record = dataclasses.replace(report, tensors={}, functions=()).to_dict()
    return plain | {"tensors": tensors}


def _anew(tensor: TensorReport, step: int) -> Record:
    """All that is not empty of a tensor that was measured; what a screen says of any other."""
    if tensor.measured_at == step or (tensor.measured_at is None and tensor.sampled):
        plain = to_plain(tensor, finite_or_none)
        # Without a date, a reader takes a tensor for one of an old version, which measured all of them.
        return {key: value for key, value in plain.items() if key in _DATES or not _is_left_out(key, value)}
    numbers = {key: finite_or_none(_rounded(getattr(tensor, key), SCREEN_DIGITS)) for key in _NUMBERS_OF_SCREEN}
    dates = {key: getattr(tensor, key) for key in _DATES}
    anew = {"verdict": str(tensor.verdict), **numbers, **dates}
    if tensor.measured_at is None:
        anew["shape"] = list(tensor.shape)
    if tensor.expected:
        anew["expected"] = tensor.expected
    if tensor.cause_key in _SAID_BY_NUMBERS:
        anew["cause_key"] = tensor.cause_key
    # A right tensor is described by its numbers, a wrong one by its own measurement until it is looked at again.
    elif tensor.verdict.is_bug is not False and tensor.has_verdict_of(step):
        anew |= {key: to_plain(getattr(tensor, key), finite_or_none) for key in _TEXTS}
    return anew


def _is_left_out(key: str, value: object) -> bool:
    return key == "name" or value is None or value in ("", [], {})


class Completion:
    """Completes the records of a run: each tensor gets what the record of its last own measurement says.

    Where that record is missing, the tensor lacks those numbers.
    """

    def __init__(self) -> None:
        self._measured: dict[str, Mapping[str, Any]] = {}

    def complete(self, record: Record) -> Record:
        """The next record, as it was read, completed; what is no mapping stays as it is."""
        tensors, step = record.get("tensors"), record.get("step")
        if not isinstance(tensors, Mapping):
            return record
        whole = {name: self._whole(name, tensor) for name, tensor in tensors.items()}
        mappings = {name: tensor for name, tensor in whole.items() if isinstance(tensor, Mapping)}
        self._measured |= {name: tensor for name, tensor in mappings.items() if tensor.get("measured_at") == step}
        return record | {"tensors": whole}

    def _whole(self, name: str, tensor: object) -> object:
        if not isinstance(tensor, Mapping) or "sampled" in tensor:
            return tensor
        before = self._measured.get(name, {})
        if tensor.get("measured_at") is None or tensor["measured_at"] != before.get("measured_at"):
            before = {}
        if before and "cause_key" not in tensor:
            return {**before, **tensor}
        own = {key: value for key, value in before.items() if key not in _TEXTS}
        return {**own, **_sentences(tensor), **tensor}


def _sentences(tensor: Mapping[str, Any]) -> Record:
    """The sentences that a record leaves out, of a tensor of which only a screen tells something."""
    key, visible = tensor.get("cause_key", ""), tensor.get("smallest_visible")
    is_right = key == "" and tensor.get("verdict") == Verdict.ok and isinstance(visible, float)
    if "explanation" in tensor or not (is_right or key in _SAID_BY_NUMBERS):
        return {}
    explanation, cause = sentences(key, visible if isinstance(visible, float) else math.inf)
    return {"explanation": explanation, "cause": cause}


def packed(record: Mapping[str, Any]) -> bytes:
    """A record as compressed JSON."""
    text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    # NumPy strips zero bytes from the end of a string, and compressed data may end with one.
    return zlib.compress(text, 1) + b"\n"


def unpacked(data: bytes | str) -> Record | None:
    """The record, compressed or not, or None if the data is not a JSON object."""
    try:
        if isinstance(data, bytes) and data.startswith(_ZLIB_START):
            data = zlib.decompressobj().decompress(data, MAX_UNPACKED_BYTES)
        record = json.loads(data)
    except (ValueError, RecursionError, zlib.error):
        return None
    return record if isinstance(record, dict) else None


def _bounded(report: Record, max_entries: int) -> Record:
    tensors = {name: _bounded_tensor(tensor, max_entries) for name, tensor in report["tensors"].items()}
    others = report | {"explanation": report["explanation"][:MAX_CHARACTERS], "tensors": {}}
    return {**_with_fewer_digits(others), "tensors": tensors}


def _bounded_tensor(tensor: Record, max_entries: int) -> Record:
    texts = {key: tensor[key][:MAX_CHARACTERS] for key in _TEXTS if isinstance(tensor.get(key), str)}
    bounded = {key: value for key, value in tensor.items() if key != "ratios"} | texts
    if "entries" in tensor:
        bounded["entries"] = tensor["entries"][:: max(1, -(-len(tensor["entries"]) // max_entries))]
        if len(bounded["entries"]) <= len(tensor.get("worst", ())):  # `entries` already holds them
            bounded.pop("worst", None)
        return _with_fewer_digits(bounded)
    return bounded


def _with_fewer_digits(plain: Record) -> Record:
    rounded: Record = to_plain(plain, lambda value: _rounded(value, SIGNIFICANT_DIGITS))
    return rounded


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
