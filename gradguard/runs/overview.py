"""A run as the GradGuard tab and the page of `gradguard report` draw it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gradguard.diagnosis.explain import ADVICE
from gradguard.report.verdict import Verdict
from gradguard.runs.story import changes_of, is_bug, tell
from gradguard.writers.record import Record

SERIES = ("verdict", "deep", "discrepancy", "floor", "ratio", "ratio_error", "sign_agreement", "step_size")
ALERTS = 200  # shown


def overview(records: Sequence[Record], unreadable: int = 0, sweep: Record | None = None) -> dict[str, Any]:
    """What is drawn of a run before a check of it is chosen.

    Args:
        records: Its checks as `read_check` gives them, rising in step, or a sample of them.
        unreadable: How many more there are that cannot be read.
        sweep: Its last sweep.
    """
    changes = changes_of(records)
    told = dataclasses.asdict(tell(records))
    return {
        "story": told,
        "shown": len(records),
        "unreadable": unreadable,
        "steps": [record["step"] for record in records],
        "tensors": [
            {"name": name, "changes": changes[name], "series": _series(name, records)} | _fixed(name, records)
            for name in _worst_first(changes)
        ],
        "alerts": _alerts(records),
        "sweep": sweep,
        "cost": {key: records[-1][key] for key in ("overhead", "precision")} if records else {},
    }


def _worst_first(changes: Mapping[str, Sequence[tuple[int, str]]]) -> list[str]:
    """Wrong now, then wrong once, then unclear, then fine; each in the model's order."""

    def rank(name: str) -> int:
        last, seen = changes[name][-1][1], [is_bug(verdict) for _, verdict in changes[name]]
        return 0 if is_bug(last) else 1 if True in seen else 2 if is_bug(last) is None else 3

    return sorted(changes, key=rank)


def _series(name: str, records: Sequence[Record]) -> dict[str, list[Any]]:
    tensors = [record["tensors"].get(name, {}) for record in records]
    columns = {key: [tensor.get(key) for tensor in tensors] for key in SERIES}
    bounds = [tensor.get("sign_interval", (None, None)) for tensor in tensors]
    return columns | {"sign_low": [low for low, _ in bounds], "sign_high": [high for _, high in bounds]}


def _fixed(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """What does not change with the step: the shape, the first confirmed ratio, the constants of the training."""
    tensors = [record["tensors"][name] for record in records if name in record["tensors"]]
    constants = [tensor["constants"] for tensor in tensors if tensor["constants"]]
    return {
        "shape": tensors[-1]["shape"] if tensors else [],
        "baseline": next(filter(None, map(_baseline, reversed(tensors))), None),
        "constants": constants[-1] if constants else {},
    }


def _baseline(tensor: Record) -> float | None:
    ratio, drift = tensor["ratio"], tensor["ratio_drift"]
    return ratio * math.exp(-drift) if ratio and ratio > 0 and drift else None


def _alerts(records: Sequence[Record]) -> list[Record]:
    """Newest first, each with what to do."""
    alerts = [alert for record in records for alert in record["alerts"]]
    return [alert | {"advice": _advice(alert["verdict"])} for alert in reversed(alerts[-ALERTS:])]


def _advice(verdict: str) -> str:
    return ADVICE.get(Verdict(verdict), "") if verdict in Verdict.__members__ else ""
