"""The overview of a run, which the GradGuard tab and the page of `gradguard report` draw."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from gradguard.report import Verdict
from gradguard.runs.coverage import has_verdict_of, is_as_declared, looked_at
from gradguard.runs.story import State, changes_of, is_bug, story_of
from gradguard.writers.record import LAST_CHECKS, Record

OWN_SERIES = ("deep", "discrepancy", "floor", "sign_agreement", "step_size")  # of a measurement of the tensor itself
SCREEN_SERIES = ("ratio", "ratio_error")  # of a screen of the model too
MAX_ALERTS = 200  # the latest

Part: TypeAlias = tuple[int, int | None]
"""Steps from and up to which something is so; None: up to the end of the run."""


def overview(records: Sequence[Record], unreadable: int = 0, sweep: Record | None = None) -> dict[str, Any]:
    """The overview of a run as plain JSON values: its story, and the verdicts of each tensor over the steps.

    Args:
        records: The checks of the run as `read_check` returns them, with rising steps, or a sample of them.
        unreadable: How many other checks could not be read.
        sweep: The last sweep of the run.
    """
    changes = changes_of(records)
    stale = {name: _stale_parts(name, records) for name in changes}
    ranks = {name: _rank(changes[name], stale[name]) for name in changes}
    names = sorted(changes, key=lambda name: ranks[name])
    order = {name: place for place, name in enumerate(changes)}
    alerts = _alerts(records)
    return {
        "story": dataclasses.asdict(story_of(records)),
        "shown": len(records),
        "unreadable": unreadable,
        "steps": [record["step"] for record in records],
        "start": _start(names[0], records, alerts) if names else None,
        "tensors": [
            {
                "name": name,
                "order": order[name],
                "is_suspect": ranks[name] < _RIGHT,
                "changes": changes[name],
                "stale": stale[name],
            }
            for name in names
        ],
        "screen": {key: [record[key] for record in records] for key in ("verdict", "screened")},
        "alerts": alerts,
        "sweep": sweep,
        "cost": {key: records[-1][key] for key in ("overhead", "precision")} if records else {},
    }


def summary(records: Sequence[Record]) -> dict[str, Any]:
    """A run in a line: its state, its story in a sentence, and how many checks it has up to which step.

    Args:
        records: The checks of the run; of a run in event files the last one is enough.
    """
    story = story_of(records)
    return {"state": story.state, "headline": story.headline, "checks": story.checks, "last": story.last}


def worst_first(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Summaries of runs by their state, in the order of `State`."""
    states = list(State)
    return sorted(runs, key=lambda run: states.index(run["state"]))


def tensor_over_time(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """A series for each number of a tensor, and what does not depend on the step, as plain JSON values."""
    return {"series": _series(name, records)} | _constants(name, records)


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


_RIGHT = 3  # the rank of a tensor that nothing is held against


def _rank(changes: Sequence[tuple[int, str]], stale: Sequence[Part]) -> int:
    """0 for a tensor that is wrong, then that was wrong, that is unclear, and `_RIGHT`.

    A tensor that was right when it was last looked at, and was not since, is unclear.
    """
    last, verdicts = changes[-1][1], [is_bug(verdict) for _, verdict in changes]
    is_unclear = is_bug(last) is None or _is_stale(stale)
    return 0 if is_bug(last) else 1 if True in verdicts else 2 if is_unclear else _RIGHT


def _is_stale(parts: Sequence[Part]) -> bool:
    return bool(parts) and parts[-1][1] is None


def _start(name: str, records: Sequence[Record], alerts: Sequence[Record]) -> int:
    """The check to show first of a tensor: the last with an alarm of a bug, else the last deep one, else the last."""
    steps: list[int] = [record["step"] for record in records]
    alarms = (alert["step"] for alert in alerts if alert["tensor"] == name and is_bug(alert["verdict"]))
    deep = (record["step"] for record in reversed(records) if _is_deep(record["tensors"].get(name), record["step"]))
    return next((step for step in (*alarms, *deep) if step in steps), steps[-1])


def _is_deep(tensor: Record | None, step: int) -> bool:
    return tensor is not None and tensor["measured_at"] == step and tensor["deep"]


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


def _stale_parts(name: str, records: Sequence[Record]) -> list[Part]:
    """Where nobody looked at a tensor: each from a check that did not, up to the first look after it.

    Of a sample of checks a part may begin later than of all. Gaps of less than `LAST_CHECKS` checks between two looks
    are none. One that may differ as declared is looked at in turn only.
    """
    last = records[-1]["tensors"].get(name)
    if last is not None and is_as_declared(last):
        return []
    parts: list[Part] = []
    waiting: list[int] = []  # the checks since the last look
    for record in records:
        step = record["step"]
        looks = _looks(record, name)
        if waiting and (ends := [look for look in looks if look > waiting[0]]):
            parts += [(waiting[0], min(ends))] if len(waiting) >= LAST_CHECKS else []
            waiting = []
        if step not in looks:
            waiting.append(step)
    return [*parts, (waiting[0], None)] if waiting else parts


def _looks(record: Record, name: str) -> list[int]:
    """The steps of which a record says that its tensor was looked at."""
    if name not in record["tensors"]:
        return []
    dates, step = record["tensors"].dates_of(name), record["step"]
    return [step] if has_verdict_of(dates, step) else [look for look in dates.values() if look is not None]


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
