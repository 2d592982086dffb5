"""The overview of a run, which the GradGuard tab and the page of `gradguard report` draw."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gradguard.report import Verdict
from gradguard.runs.coverage import has_verdict_of, is_as_declared, looked_at
from gradguard.runs.story import changes_of, is_bug, story_of
from gradguard.writers.record import Record

OWN_SERIES = ("deep", "discrepancy", "floor", "sign_agreement", "step_size")  # of a measurement of the tensor itself
SCREEN_SERIES = ("ratio", "ratio_error")  # of a screen of the model too
MAX_ALERTS = 200  # the latest


def overview(records: Sequence[Record], unreadable: int = 0, sweep: Record | None = None) -> dict[str, Any]:
    """The overview of a run as plain JSON values: its story, and a series for each number of each tensor.

    Args:
        records: The checks of the run as `read_check` returns them, with rising steps, or a sample of them.
        unreadable: How many other checks could not be read.
        sweep: The last sweep of the run.
    """
    changes = changes_of(records)
    stale = {name: _stale_since(name, records) for name in changes}
    return {
        "story": dataclasses.asdict(story_of(records)),
        "shown": len(records),
        "unreadable": unreadable,
        "steps": [record["step"] for record in records],
        "tensors": [
            {"name": name, "changes": changes[name], "stale_since": stale[name], "series": _series(name, records)}
            | _constants(name, records)
            for name in _worst_first(changes, stale)
        ],
        "alerts": _alerts(records),
        "sweep": sweep,
        "cost": {key: records[-1][key] for key in ("overhead", "precision")} if records else {},
    }


def verdicts() -> dict[str, dict[str, Any]]:
    """What is drawn of each verdict, by its name: how grave it is, what it is called, and of what kind it is."""
    return {
        str(verdict): {
            "level": verdict.level.name,
            "words": verdict.words,
            "label": verdict.label,
            "is_factor": verdict.is_factor,
            "agrees": verdict.agrees,
        }
        for verdict in Verdict
    }


def _worst_first(changes: Mapping[str, Sequence[tuple[int, str]]], stale: Mapping[str, int | None]) -> list[str]:
    """Tensors that are wrong, that were wrong, that are unclear and that are right; each group in the model's order.

    A tensor that was right when it was last looked at, and was not since, is unclear.
    """

    def rank(name: str) -> int:
        last, verdicts = changes[name][-1][1], [is_bug(verdict) for _, verdict in changes[name]]
        is_unclear = is_bug(last) is None or stale[name] is not None
        return 0 if is_bug(last) else 1 if True in verdicts else 2 if is_unclear else 3

    return sorted(changes, key=rank)


def _series(name: str, records: Sequence[Record]) -> dict[str, list[Any]]:
    """The numbers of a tensor, each with a value where it is of the check and None where it is older."""
    at = [(record["tensors"].get(name, {}), record["step"]) for record in records]
    measured = [tensor if tensor and tensor["measured_at"] == step else {} for tensor, step in at]
    seen = [tensor if tensor and looked_at(tensor, step) else {} for tensor, step in at]
    bounds = [tensor.get("sign_interval", (None, None)) for tensor in measured]
    return {
        "verdict": [tensor.get("verdict") for tensor, _ in at],
        **{key: [tensor.get(key) for tensor in measured] for key in OWN_SERIES},
        **{key: [tensor.get(key) for tensor in seen] for key in SCREEN_SERIES},
        "sign_low": [low for low, _ in bounds],
        "sign_high": [high for _, high in bounds],
    }


def _stale_since(name: str, records: Sequence[Record]) -> int | None:
    """The step of the first check after the last one that looked at a tensor; None if the last check did.

    Of a sample of checks it may be a later one than of all. One that may differ as declared is looked at in turn only.
    """
    last = records[-1]["tensors"].get(name)
    if last is not None and is_as_declared(last):
        return None
    tensors = [(record["tensors"].get(name), record["step"]) for record in records]
    stale = None
    for tensor, step in reversed(tensors):
        if tensor is not None and has_verdict_of(tensor, step):
            break
        stale = step
    return stale


def _constants(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """What does not depend on the step: the shape, the first confirmed ratio and the constants of the training."""
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
    """The faults that alerted, newest first, each with its advice: the alert of its first tensor, and the others."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for alert in (alert for record in records for alert in record["alerts"]):
        key = alert["step"], alert["level"], alert["subject"] or alert["message"]
        groups.setdefault(key, []).append(alert)
    return [
        first | {"others": [alert["tensor"] for alert in others], "advice": _advice(first["verdict"])}
        for first, *others in reversed(list(groups.values())[-MAX_ALERTS:])
    ]


def _advice(verdict: str) -> str:
    known = Verdict.of(verdict)
    return known.advice if known else ""
