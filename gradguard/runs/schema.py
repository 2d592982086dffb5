"""Records and reports read back: whatever is missing or of another kind becomes a default, so that it can be shown."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeGuard

from gradguard.report.verdict import Verdict
from gradguard.writers.record import SWEEP_CURVES, Record

LARGEST = sys.float_info.max
_NUMBERS = (
    *("discrepancy", "floor", "ratio", "ratio_error", "ratio_drift", "sign_agreement", "evidence", "resolvable"),
    *("sampled", "unresolved", "kinks", "coverage", "step_size", "noise", "smallest_visible"),
)
_OF_BLOCK = ("discrepancy", "floor", "ratio", "ratio_error", "sign_agreement", "resolvable", "sampled")
_OF_CHECK = ("evaluations", "seconds", "loss", "overhead", "began", "checks")


def read_check(given: object, *, details: bool = True) -> Record | None:
    """A report as `Report.to_dict` gave it, or a record of one; None where it is neither.

    Args:
        given: What was read.
        details: Whether blocks and single entries are wanted, which are most of it.
    """
    if not isinstance(given, Mapping) or not _is_step(given.get("step")):
        return None
    tensors = given.get("tensors")
    if not isinstance(tensors, Mapping):
        return None
    return {
        "step": given["step"],
        **_numbers(given, _OF_CHECK),
        **_texts(given, ("verdict", "precision", "explanation")),
        "tensors": {name: _tensor(tensor, details) for name, tensor in tensors.items() if isinstance(tensor, Mapping)},
        "alerts": [_alert(alert) for alert in _mappings(given.get("alerts"))],
        "changes": {name: _changes(changes) for name, changes in _items(given.get("changes"))},
    }


def read_sweep(given: object) -> Record | None:
    """The record of a sweep; None where it is none."""
    if not isinstance(given, Mapping) or not isinstance(given.get("steps"), list) or not given["steps"]:
        return None
    steps = [_number(step) for step in given["steps"]]
    tensors = {name: _curve(curve, len(steps)) for name, curve in _items(given.get("tensors")) if _is_mapping(curve)}
    return {
        "steps": steps,
        **_curve(given, len(steps)),
        **_texts(given, ("explanation", "precision")),
        "tensors": tensors,
    }


def _curve(given: Mapping[str, Any], size: int) -> Record:
    curves = {name: [_number(value) for value in _list(given.get(name))] for name in SWEEP_CURVES}
    best = given.get("best")
    return {name: curve if len(curve) == size else [None] * size for name, curve in curves.items()} | {
        "best": best if _is_step(best) and 0 <= best < size else None
    }


def _tensor(given: Mapping[str, Any], details: bool) -> Record:
    interval = [_number(bound) for bound in _list(given.get("sign_interval"))]
    return {
        **_numbers(given, _NUMBERS),
        **_texts(given, ("cause", "explanation", "faulty_block")),
        "verdict": _verdict(given),
        "deep": given.get("deep") is True,
        "shape": _list(given.get("shape")),
        "sign_interval": interval if len(interval) == 2 else [None, None],
        "constants": {name: value for name, value in _items(given.get("constants")) if _number(value) is not None},
        **(_details(given) if details else {}),
    }


def _details(given: Mapping[str, Any]) -> Record:
    blocks = ((name, block) for name, block in _items(given.get("blocks")) if isinstance(block, Mapping))
    return {
        "blocks": {name: _numbers(block, _OF_BLOCK) | {"verdict": _verdict(block)} for name, block in blocks},
        "worst": [_entry(entry) for entry in _mappings(given.get("worst"))],
        "entries": [_entry(entry) for entry in _mappings(given.get("entries"))],
    }


def _entry(given: Mapping[str, Any]) -> Record:
    return _numbers(given, ("analytic", "numeric", "error")) | {"index": _list(given.get("index"))}


def _alert(given: Mapping[str, Any]) -> Record:
    return _numbers(given, ("step", "level")) | _texts(given, ("tensor", "verdict", "message"))


def _changes(given: object) -> list[tuple[int, str]]:
    pairs = (pair for pair in _list(given) if isinstance(pair, list | tuple) and len(pair) == 2)
    return [(step, verdict) for step, verdict in pairs if _is_step(step) and isinstance(verdict, str)]


def _verdict(given: Mapping[str, Any]) -> str:
    return _texts(given, ("verdict",))["verdict"] or str(Verdict.inconclusive)


def _numbers(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, float | None]:
    return {name: _number(given.get(name)) for name in names}


def _texts(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: text if isinstance(text := given.get(name), str) else "" for name in names}


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and abs(value) <= LARGEST else None  # nan is not, and True is no number


def _is_step(value: object) -> TypeGuard[int]:
    return type(value) is int


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (item for item in _list(value) if isinstance(item, Mapping))


def _items(value: object) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, Mapping) else ()
