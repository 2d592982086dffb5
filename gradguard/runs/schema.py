"""Records and reports read back: a missing field, or one of a wrong type, gets a default that can be shown."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from gradguard.report import Verdict
from gradguard.writers.record import SWEEP_CURVES, Record

MAX_NUMBER = sys.float_info.max
_TENSOR_NUMBERS = (
    *("discrepancy", "floor", "ratio", "ratio_error", "ratio_drift", "sign_agreement", "evidence", "resolvable"),
    *("sampled", "unresolved", "kinks", "coverage", "step_size", "noise", "smallest_visible"),
)
_BLOCK_NUMBERS = ("discrepancy", "floor", "ratio", "ratio_error", "sign_agreement", "resolvable", "sampled")
_CHECK_NUMBERS = ("evaluations", "seconds", "loss", "overhead", "screened", "began", "checks")


class Tensors(Mapping[str, Record]):
    """The tensors of a check, each read when it is asked for: of a long run, most are never looked at.

    Args:
        raw: The tensors as they were written; what is no mapping is left out.
        step: The step of the check.
        details: Whether to keep blocks and single entries.
    """

    def __init__(self, raw: Mapping[str, Any], step: int, details: bool) -> None:
        self._raw = {name: one for name, one in raw.items() if _is_mapping(one)}
        self._step, self._details = step, details
        self._read: dict[str, Record] = {}

    def __getitem__(self, name: str) -> Record:
        if name not in self._read:
            self._read[name] = _tensor(self._raw[name], self._step, self._details)
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._raw

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def dates_of(self, name: str) -> dict[str, int | None]:
        """When a tensor was measured and screened last, without anything else of it."""
        return _dates(self._raw[name], self._step)


def read_check(raw: object, *, details: bool = True) -> Record | None:
    """A check from the output of `Report.to_dict` or from a record; None if `raw` is neither.

    Args:
        raw: The JSON value that was read.
        details: Whether to keep blocks and single entries, which are most of a report.
    """
    if not isinstance(raw, Mapping) or not _is_step(raw.get("step")):
        return None
    tensors = raw.get("tensors")
    if not isinstance(tensors, Mapping):
        return None
    return {
        "step": raw["step"],
        **_numbers(raw, _CHECK_NUMBERS),
        **_texts(raw, ("verdict", "precision", "explanation")),
        "tensors": Tensors(tensors, raw["step"], details),
        "alerts": [_alert(alert) for alert in _mappings(raw.get("alerts"))],
        "changes": {name: _changes(changes) for name, changes in _items(raw.get("changes"))},
        "right": {name: step for name, step in _items(raw.get("right")) if _is_step(step)},
        "last": [step for step in _list(raw.get("last")) if _is_step(step)],
    }


def read_sweep(raw: object) -> Record | None:
    """The record of a sweep; None if `raw` is no such record."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("steps"), list) or not raw["steps"]:
        return None
    steps = [_number(step) for step in raw["steps"]]
    tensors = {name: _curve(curve, len(steps)) for name, curve in _items(raw.get("tensors")) if _is_mapping(curve)}
    return {
        "steps": steps,
        **_curve(raw, len(steps)),
        **_texts(raw, ("explanation", "precision")),
        "tensors": tensors,
    }


def _curve(raw: Mapping[str, Any], size: int) -> Record:
    curves = {name: [_number(value) for value in _list(raw.get(name))] for name in SWEEP_CURVES}
    best = raw.get("best")
    return {name: curve if len(curve) == size else [None] * size for name, curve in curves.items()} | {
        "best": best if _is_step(best) and 0 <= best < size else None
    }


def _tensor(raw: Mapping[str, Any], step: int, details: bool) -> Record:
    interval = [_number(bound) for bound in _list(raw.get("sign_interval"))]
    return {
        **_numbers(raw, _TENSOR_NUMBERS),
        **_texts(raw, ("cause", "cause_key", "explanation", "faulty_block", "expected")),
        "factors": [label for label in _list(raw.get("factors")) if isinstance(label, str)],
        "verdict": _verdict(raw),
        **_dates(raw, step),
        "deep": raw.get("deep") is True,
        "shape": _list(raw.get("shape")),
        "sign_interval": interval if len(interval) == 2 else [None, None],
        "constants": {name: value for name, value in _items(raw.get("constants")) if _number(value) is not None},
        **(_details(raw) if details else {}),
    }


def _dates(raw: Mapping[str, Any], step: int) -> dict[str, int | None]:
    # Versions without dates measured every tensor of a report at its step.
    return {
        "measured_at": _step_or_none(raw.get("measured_at", step)),
        "screened_at": _step_or_none(raw.get("screened_at")),
    }


def _details(raw: Mapping[str, Any]) -> Record:
    blocks = ((name, block) for name, block in _items(raw.get("blocks")) if isinstance(block, Mapping))
    return {
        "blocks": {name: _numbers(block, _BLOCK_NUMBERS) | {"verdict": _verdict(block)} for name, block in blocks},
        "worst": [_entry(entry) for entry in _mappings(raw.get("worst"))],
        "entries": [_entry(entry) for entry in _mappings(raw.get("entries"))],
    }


def _entry(raw: Mapping[str, Any]) -> Record:
    return _numbers(raw, ("analytic", "numeric", "error")) | {"index": _list(raw.get("index"))}


def _alert(raw: Mapping[str, Any]) -> Record:
    return _numbers(raw, ("step", "level")) | _texts(raw, ("tensor", "verdict", "message", "finding", "subject"))


def _changes(raw: object) -> list[tuple[int, str]]:
    pairs = (pair for pair in _list(raw) if isinstance(pair, list | tuple) and len(pair) == 2)
    return [(step, verdict) for step, verdict in pairs if _is_step(step) and isinstance(verdict, str)]


def _verdict(raw: Mapping[str, Any]) -> str:
    return _texts(raw, ("verdict",))["verdict"] or str(Verdict.inconclusive)


def _numbers(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, float | None]:
    return {name: _number(raw.get(name)) for name in names}


def _texts(raw: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: text if isinstance(text := raw.get(name), str) else "" for name in names}


def _number(value: Any) -> float | None:
    # The comparison is false for nan, and the type of True is bool.
    return value if type(value) in (int, float) and abs(value) <= MAX_NUMBER else None


def _is_step(value: object) -> TypeGuard[int]:
    return type(value) is int


def _step_or_none(value: object) -> int | None:
    return value if _is_step(value) else None


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in _list(value) if isinstance(item, Mapping))


def _items(value: object) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()
