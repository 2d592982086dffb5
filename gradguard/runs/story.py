"""The story of a run from its checks: when gradients were right, when they were wrong, the cause, and what to do."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TypeAlias

from gradguard.report import Verdict, counted, printable
from gradguard.runs.coverage import Coverage, coverage_of, has_verdict_of
from gradguard.writers.record import Record

MAX_NAMES_IN_SENTENCE = 5  # tensors; the others are counted
EXPLAINED = "rounding and truncation account for"
MORE_TIME = "raise max_overhead to give the checks more time, or lower every_n_steps to make more of them"

Change: TypeAlias = tuple[int, str]
Changes: TypeAlias = Mapping[str, Sequence[Change]]
Moment: TypeAlias = tuple[int, str, tuple[str, ...]]


class State(StrEnum):
    """The state of a run after its last check."""

    bug = "bug"
    recovered = "recovered"
    unclear = "unclear"
    fine = "fine"
    empty = "empty"

    @property
    def status(self) -> int:
        """The exit status of a command: 0 no bug, 1 a bug at some check, 2 the last checks cannot tell."""
        return {State.bug: 1, State.recovered: 1, State.fine: 0}.get(self, 2)


@dataclass(frozen=True, slots=True)
class Finding:
    """Tensors with the same error over the same checks.

    Attributes:
        tensors: The names of the tensors.
        verdict: The verdict of the last check that found them wrong.
        faulty_block: The only block or blocks that are wrong; "" if there are none.
        since: The step of the first check that found them wrong.
        until: The step of the check that found them right again; None if there is none.
        explanation: The verdict in a sentence, with the numbers of the first tensor.
        cause: The likely cause; "" if none is known.
        cause_key: The identifier of the cause, the same wherever the cause is the same; "" if none is known.
        advice: What to do; "" if the cause says it.
    """

    tensors: tuple[str, ...]
    verdict: str
    faulty_block: str
    since: int
    until: int | None
    explanation: str
    cause: str
    cause_key: str
    advice: str


@dataclass(frozen=True, slots=True)
class Story:
    """The summary of a run.

    Attributes:
        state: The state after the last check.
        headline: The state in a sentence: what is wrong, where, and since when.
        findings: The errors of the last check, then those that are over.
        causes: The findings in groups with one cause, whenever each began.
        unclear: Tensors that the last checks could not judge.
        unseen: Tensors that none of the last checks looked at.
        suspected: Tensors that alarmed at the last check, which had no time to look at them more closely.
        doubts: What the last checks leave open, in clauses; empty where they judged every tensor.
        advice: What gives the checks more time; "" where that is not what they lack.
        first: The step of the first check; None if there is none.
        last: The step of the last check; None if there is none.
        checks: The number of checks.
        moments: When verdicts changed between right and wrong: the step, the change in words, and the tensors.
    """

    state: State
    headline: str
    findings: tuple[Finding, ...] = ()
    causes: tuple[tuple[Finding, ...], ...] = ()
    unclear: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    suspected: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    advice: str = ""
    first: int | None = None
    last: int | None = None
    checks: int = 0
    moments: tuple[Moment, ...] = ()


def story_of(records: Sequence[Record]) -> Story:
    """The story of a run.

    Args:
        records: The checks as `read_check` returns them, with rising steps. A sample of them is enough if each has its
            changes, as the records in event files have.
    """
    changes = changes_of(records)
    if not changes:
        return Story(State.empty, "No check was recorded")
    findings = _findings(records, changes)
    coverage = coverage_of(records, [name for one in findings if one.until is None for name in one.tensors])
    story = Story(
        state=_state(findings, coverage),
        headline="",
        findings=findings,
        causes=_causes(findings),
        unclear=coverage.unjudged,
        unseen=coverage.unseen,
        suspected=coverage.suspected,
        doubts=tuple(_doubts(coverage, changes)),
        advice=MORE_TIME if coverage.unseen or coverage.suspected else "",
        first=min(record["step"] if record["began"] is None else record["began"] for record in records),
        last=records[-1]["step"],
        checks=count_checks(records),
        moments=_moments(changes),
    )
    return dataclasses.replace(story, headline=_headline(story, coverage))


def count_checks(records: Iterable[Record]) -> int:
    """The number of checks, with those that TensorBoard did not keep."""
    counted: dict[int, int] = {}
    without_count = 0
    for record in records:
        if record["began"] is None or record["checks"] is None:
            without_count += 1
        else:
            counted[record["began"]] = max(record["checks"], counted.get(record["began"], 0))
    return without_count + sum(counted.values())


def changes_of(records: Iterable[Record]) -> dict[str, list[Change]]:
    """The steps at which the verdict of each tensor changed, with the new verdict; the first check is a change."""
    verdicts: dict[str, dict[int, str]] = {}
    for record in records:
        for name, changes in record["changes"].items():
            verdicts.setdefault(name, {}).update(changes)
        # The changes of a record in an event file end with what its own check found.
        for name in (name for name in record["tensors"] if not record["changes"].get(name)):
            tensor = record["tensors"][name]
            if name not in verdicts or has_verdict_of(tensor, record["step"]):
                verdicts.setdefault(name, {})[record["step"]] = tensor["verdict"]
    return {name: _only_changes(sorted(steps.items())) for name, steps in verdicts.items() if steps}


def _only_changes(verdicts: Sequence[Change]) -> list[Change]:
    return [*verdicts[:1], *(after for before, after in pairwise(verdicts) if before[1] != after[1])]


def is_bug(verdict: str) -> bool | None:
    """`Verdict.is_bug`; None also for a verdict that this version does not know."""
    known = Verdict.of(verdict)
    return known.is_bug if known else None


def _findings(records: Sequence[Record], changes: Changes) -> tuple[Finding, ...]:
    """Present errors, earliest first, then past ones, latest first; tensors with the same error are one finding."""
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for name, verdicts in changes.items():
        for since, until in _faulty_periods(verdicts):
            one = _finding(name, since, until, records, verdicts)
            key = (one.verdict, one.faulty_block, one.since, one.until, one.cause_key or one.cause or one.explanation)
            groups.setdefault(key, []).append(one)
    findings = [_merged(group) for group in groups.values()]
    present = sorted((one for one in findings if one.until is None), key=lambda one: one.since)
    return *present, *sorted((one for one in findings if one.until is not None), key=lambda one: -one.since)


def _causes(findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], ...]:
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for one in findings:
        key = (one.until is None, one.verdict, one.faulty_block, one.cause_key or one.cause or one.explanation)
        groups.setdefault(key, []).append(one)
    return tuple(map(tuple, groups.values()))


def _moments(changes: Changes) -> tuple[Moment, ...]:
    """When tensors were first right, became wrong and became right again; tensors with the same change together."""
    groups: dict[Change, list[str]] = {}
    for name, verdicts in changes.items():
        for moment in _moments_of_tensor(verdicts):
            groups.setdefault(moment, []).append(name)
    return tuple((step, what, tuple(names)) for (step, what), names in sorted(groups.items()))


def _moments_of_tensor(changes: Sequence[Change]) -> list[Change]:
    verdicts, periods = dict(changes), _faulty_periods(changes)
    first = next((step for step, verdict in changes if is_bug(verdict) is False), None)
    was_wrong_before = first in [until for _, until in periods]
    moments = [] if first is None or was_wrong_before else [(first, _told_of(verdicts[first], "fine"))]
    for since, until in periods:
        moments.append((since, f"BUG: {words(verdicts[since])}"))
        moments += [] if until is None else [(until, _told_of(verdicts[until], "fine again"))]
    return moments


def _told_of(verdict: str, fine: str) -> str:
    """What a tensor is that is no bug: as declared, or fine."""
    return words(verdict) if verdict == Verdict.expected else fine


def _faulty_periods(changes: Sequence[Change]) -> list[tuple[int, int | None]]:
    """The steps (since, until) of each period in which a tensor was wrong; a check that cannot tell does not end it."""
    periods: list[tuple[int, int | None]] = []
    since: int | None = None
    for step, verdict in changes:
        wrong = is_bug(verdict)
        if wrong and since is None:
            since = step
        elif wrong is False and since is not None:
            periods.append((since, step))
            since = None
    return periods if since is None else [*periods, (since, None)]


def _finding(name: str, since: int, until: int | None, records: Sequence[Record], changes: Sequence[Change]) -> Finding:
    tensor = _last_wrong(name, since, until, records)
    in_period = [verdict for step, verdict in changes if since <= step and (until is None or step < until)]
    # Where no check of that time was kept, its verdict is known from the changes.
    verdict = tensor.get("verdict", "") or [one for one in in_period if is_bug(one)][-1]
    known = Verdict.of(verdict)
    return Finding(
        tensors=(name,),
        verdict=verdict,
        faulty_block=tensor.get("faulty_block", ""),
        since=since,
        until=until,
        explanation=tensor.get("explanation", ""),
        cause=tensor.get("cause", ""),
        cause_key=tensor.get("cause_key", ""),
        advice=known.advice if known else "",
    )


def _last_wrong(name: str, since: int, until: int | None, records: Sequence[Record]) -> Record:
    for record in reversed(records):
        tensor: Record = record["tensors"].get(name, {})
        if since <= record["step"] and (until is None or record["step"] < until) and is_bug(tensor.get("verdict", "")):
            return tensor
    return {}  # TensorBoard kept no check of that time


def _merged(group: Sequence[Finding]) -> Finding:
    return dataclasses.replace(group[0], tensors=tuple(name for one in group for name in one.tensors))


def _state(findings: Sequence[Finding], coverage: Coverage) -> State:
    if any(one.until is None for one in findings):
        return State.bug
    if findings:
        return State.recovered
    return State.fine if coverage.is_whole else State.unclear


def _headline(story: Story, coverage: Coverage) -> str:
    if story.state is State.bug:
        present = [_present(group, story) for group in story.causes if group[0].until is None]
        return f"BUG: {'; '.join(present)}"
    if story.state is State.recovered:
        return f"No bug at the last check, but at an earlier one: {'; '.join(map(_past, story.findings))}"
    if story.state is State.unclear:
        return f"Cannot tell: {'; '.join(story.doubts)}"
    which = counted(len(coverage.tensors), "tensor")
    if not coverage.expected:
        return f"No bug in {which}: {EXPLAINED} every difference measured in {_checks(story)}"
    differ = f"{listed(coverage.expected)} {'differs' if len(coverage.expected) == 1 else 'differ'} as declared"
    if len(coverage.expected) == len(coverage.tensors):
        return f"No bug in {which}: {differ} in {_checks(story)}"
    return f"No bug in {which}: {differ}, and {EXPLAINED} every other difference measured in {_checks(story)}"


def _doubts(coverage: Coverage, changes: Changes) -> Iterator[str]:
    """What the last checks of a run leave open."""
    tensors = len(coverage.tensors)
    last = "the last check" if len(coverage.last) == 1 else f"the last {len(coverage.last)} checks"
    if coverage.suspected:
        yield f"the last check suspects {listed(coverage.suspected)} and had no time to examine it"
    if coverage.unseen:
        count = f"{len(coverage.unseen)} of {counted(tensors, 'tensor')}"
        was = "was" if len(coverage.unseen) == 1 else "were"
        yield f"{count} {was} not checked in {last} ({listed(coverage.unseen)})"
    never = [name for name in coverage.unjudged if not any(is_bug(verdict) is False for _, verdict in changes[name])]
    if never:
        yield f"no check could judge {_which(never, tensors)}"
    lately = [name for name in coverage.unjudged if name not in never]
    if lately:
        yield f"{last} could not judge {_which(lately, tensors)}"


def _which(names: Sequence[str], tensors: int) -> str:
    return "any tensor" if len(names) == tensors else listed(names)


def _present(group: Sequence[Finding], story: Story) -> str:
    """The findings with one cause in a clause."""
    since = min(one.since for one in group)
    if any(one.since > since for one in group):
        began = f"the first since step {since}"
    else:
        began = f"from the first check on (step {since})" if since == story.first else f"since step {since}"
    return f"{_what(_merged(group))}, {began}"


def _past(one: Finding) -> str:
    return f"{_what(one)}, from step {one.since}, right again at step {one.until}"


def _what(one: Finding) -> str:
    where = f" ({printable(one.faulty_block)} only)" if one.faulty_block else ""
    return f"{words(one.verdict)} in {listed(one.tensors)}{where}"


def _checks(story: Story) -> str:
    if story.checks == 1:
        return f"the check at step {story.first}"
    return f"{story.checks} checks, steps {story.first} to {story.last}"


def words(verdict: str) -> str:
    """A verdict in words; "a bug" where no check of that time was kept."""
    known = Verdict.of(verdict)
    return known.words if known else "a bug"


def listed(names: Sequence[str]) -> str:
    """Names for a sentence; beyond `MAX_NAMES_IN_SENTENCE` they are counted."""
    shown = [printable(name) for name in names[:MAX_NAMES_IN_SENTENCE]]
    if len(names) > MAX_NAMES_IN_SENTENCE:
        return f"{', '.join(shown)} and {len(names) - MAX_NAMES_IN_SENTENCE} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
