"""The story of a run, from its checks: when it was fine, when it moved, what it is, and what to do."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TypeAlias

from gradguard.diagnosis.explain import ADVICE
from gradguard.report.text import printable
from gradguard.report.verdict import Verdict
from gradguard.writers.record import Record

LISTED = 5  # names in a sentence

Change: TypeAlias = tuple[int, str]
Changes: TypeAlias = Mapping[str, Sequence[Change]]
Moment: TypeAlias = tuple[int, str, tuple[str, ...]]


class State(StrEnum):
    """How a run stands."""

    bug = "bug"
    recovered = "recovered"
    unclear = "unclear"
    fine = "fine"
    empty = "empty"

    @property
    def status(self) -> int:
        """How a command ends that was asked for it: 0 fine, 1 a bug, over or not, 2 it cannot be told."""
        return {State.bug: 1, State.recovered: 1, State.fine: 0}.get(self, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """Tensors that are, or were, wrong alike.

    Attributes:
        tensors: Their names.
        verdict: Of the last check that found them wrong.
        faulty_block: The block, or blocks, that alone are wrong; "" where there are none.
        since: The step of the first check that found them wrong.
        until: The step of the check that found them right again; None where none did.
        explanation: The verdict in a sentence, with the numbers of the first of them.
        cause: The likely cause; "" where there is none.
        advice: What to do; "" where the cause says it.
    """

    tensors: tuple[str, ...]
    verdict: str
    faulty_block: str
    since: int
    until: int | None
    explanation: str
    cause: str
    advice: str


@dataclass(frozen=True, slots=True)
class Story:
    """A run, told.

    Attributes:
        state: How it stands.
        headline: That in a sentence: what is wrong, where, and since when.
        findings: What is wrong, and then what was.
        unclear: Tensors that no check could judge.
        first: The step of the first check; None where there is none.
        last: That of the latest.
        moments: When something moved: the step, what, and which tensors.
        checks: How many there were.
    """

    state: State
    headline: str
    findings: tuple[Finding, ...] = ()
    unclear: tuple[str, ...] = ()
    first: int | None = None
    last: int | None = None
    checks: int = 0
    moments: tuple[Moment, ...] = ()


def tell(records: Sequence[Record]) -> Story:
    """The story of a run.

    Args:
        records: Its checks as `read_check` gives them, rising in step; a sample of them will do where each has its
            changes, as the records in event files have.
    """
    changes = changes_of(records)
    if not changes:
        return Story(State.empty, "There is no check to tell of")
    findings = _findings(records, changes)
    unclear = tuple(
        name for name, seen in changes.items() if not any(is_bug(verdict) is not None for _, verdict in seen)
    )
    story = Story(
        state=_state(findings, unclear),
        headline="",
        findings=findings,
        unclear=unclear,
        first=min(record["step"] if record["began"] is None else record["began"] for record in records),
        last=records[-1]["step"],
        checks=count(records),
        moments=_moments(changes),
    )
    return dataclasses.replace(story, headline=_headline(story, records, changes))


def count(records: Iterable[Record]) -> int:
    """How many checks there were, also those that TensorBoard did not keep."""
    counted: dict[int, int] = {}
    alone = 0
    for record in records:
        if record["began"] is None or record["checks"] is None:
            alone += 1
        else:
            counted[record["began"]] = max(record["checks"], counted.get(record["began"], 0))
    return alone + sum(counted.values())


def changes_of(records: Iterable[Record]) -> dict[str, list[Change]]:
    """Of each tensor, the steps at which its verdict became another, with that verdict; the first is where it began."""
    seen: dict[str, dict[int, str]] = {}
    for record in records:
        for name, changes in record["changes"].items():
            seen.setdefault(name, {}).update(changes)
        for name, tensor in record["tensors"].items():
            seen.setdefault(name, {})[record["step"]] = tensor["verdict"]
    return {name: _only_changes(sorted(steps.items())) for name, steps in seen.items() if steps}


def _only_changes(seen: Sequence[Change]) -> list[Change]:
    return [*seen[:1], *(after for before, after in pairwise(seen) if before[1] != after[1])]


def is_bug(verdict: str) -> bool | None:
    """As `Verdict.is_bug`; None also for a verdict that is not known here."""
    return Verdict(verdict).is_bug if verdict in Verdict.__members__ else None


def _findings(records: Sequence[Record], changes: Changes) -> tuple[Finding, ...]:
    """What is wrong now, the earliest first, then what was, the latest first; tensors that are alike together."""
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for name, seen in changes.items():
        for since, until in _periods(seen):
            one = _finding(name, since, until, records)
            key = (one.verdict, one.faulty_block, one.since, one.until, one.cause or one.explanation)
            alike.setdefault(key, []).append(one)
    together = [_together(group) for group in alike.values()]
    now = sorted((one for one in together if one.until is None), key=lambda one: one.since)
    return *now, *sorted((one for one in together if one.until is not None), key=lambda one: -one.since)


def _moments(changes: Changes) -> tuple[Moment, ...]:
    """When tensors were first judged, when they went wrong, and when they were right again; those alike together."""
    alike: dict[Change, list[str]] = {}
    for name, seen in changes.items():
        for moment in _of_tensor(seen):
            alike.setdefault(moment, []).append(name)
    return tuple((step, what, tuple(names)) for (step, what), names in sorted(alike.items()))


def _of_tensor(seen: Sequence[Change]) -> list[Change]:
    verdicts = dict(seen)
    first = next((step for step, verdict in seen if is_bug(verdict) is False), None)
    moments = [] if first is None else [(first, "fine")]
    for since, until in _periods(seen):
        moments.append((since, f"BUG: {words(verdicts[since])}"))
        moments += [] if until is None else [(until, "fine again")]
    return [moment for moment in moments if moment != (first, "fine") or (first, "fine again") not in moments]


def _periods(seen: Sequence[Change]) -> list[tuple[int, int | None]]:
    """From when to when a tensor was wrong; a check that cannot tell ends nothing."""
    periods: list[tuple[int, int | None]] = []
    since: int | None = None
    for step, verdict in seen:
        wrong = is_bug(verdict)
        if wrong and since is None:
            since = step
        elif wrong is False and since is not None:
            periods.append((since, step))
            since = None
    return periods if since is None else [*periods, (since, None)]


def _finding(name: str, since: int, until: int | None, records: Sequence[Record]) -> Finding:
    tensor = _last_wrong(name, since, until, records)
    verdict = tensor.get("verdict", "")
    return Finding(
        tensors=(name,),
        verdict=verdict,
        faulty_block=tensor.get("faulty_block", ""),
        since=since,
        until=until,
        explanation=tensor.get("explanation", ""),
        cause=tensor.get("cause", ""),
        advice=ADVICE.get(Verdict(verdict), "") if verdict else "",
    )


def _last_wrong(name: str, since: int, until: int | None, records: Sequence[Record]) -> Record:
    for record in reversed(records):
        tensor: Record = record["tensors"].get(name, {})
        if since <= record["step"] and (until is None or record["step"] < until) and is_bug(tensor.get("verdict", "")):
            return tensor
    return {}  # TensorBoard kept no check of that time


def _together(group: Sequence[Finding]) -> Finding:
    return dataclasses.replace(group[0], tensors=tuple(name for one in group for name in one.tensors))


def _state(findings: Sequence[Finding], unclear: Sequence[str]) -> State:
    if any(one.until is None for one in findings):
        return State.bug
    if findings:
        return State.recovered
    return State.unclear if unclear else State.fine


def _headline(story: Story, records: Sequence[Record], changes: Changes) -> str:
    if story.state is State.bug:
        return f"BUG: {'; '.join(_now(one, story) for one in story.findings if one.until is None)}"
    if story.state is State.recovered:
        return f"No bug at the last check, but there was one: {'; '.join(map(_then, story.findings))}"
    if story.state is State.unclear:
        which = "any tensor" if len(story.unclear) == len(changes) else listed(story.unclear)
        return f"Cannot tell: no check could judge {which}"
    tensors = len({name for record in records for name in record["tensors"]})
    which = f"{tensors} tensor{'' if tensors == 1 else 's'}"
    return f"No bug in {which}: float precision explains all that {_checks(story)} could measure"


def _now(one: Finding, story: Story) -> str:
    began = f"from the first check on (step {one.since})" if one.since == story.first else f"since step {one.since}"
    return f"{_what(one)}, {began}"


def _then(one: Finding) -> str:
    return f"{_what(one)}, from step {one.since} until it was over at step {one.until}"


def _what(one: Finding) -> str:
    where = f" ({printable(one.faulty_block)} only)" if one.faulty_block else ""
    return f"{words(one.verdict)} in {listed(one.tensors)}{where}"


def _checks(story: Story) -> str:
    if story.checks == 1:
        return f"the one check, at step {story.first},"
    return f"{story.checks} checks from step {story.first} to {story.last}"


def words(verdict: str) -> str:
    """A verdict as it is read."""
    return verdict.replace("_", " ") or "a bug"


def listed(names: Sequence[str]) -> str:
    """Names for a sentence; the last of many are counted."""
    shown = [printable(name) for name in names[:LISTED]]
    if len(names) > LISTED:
        return f"{', '.join(shown)} and {len(names) - LISTED} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
