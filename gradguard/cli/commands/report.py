"""`gradguard report`: summarize logged runs."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradguard.cli.options import Commands, add_command, add_json
from gradguard.cli.output import BUG, CANNOT_TELL, FINE, Failure, print_json, print_text
from gradguard.report import counted, one_line, printable

if TYPE_CHECKING:
    from gradguard.runs import Finding, Log, Skipped, Story

MAX_ROWS = 20  # of the table of wrong tensors; the others are counted
DESCRIPTION = """\
Reads the logs of gradguard, event files or JSON lines. Lists the tensors with a gradient bug first, then summarizes
each run: when its gradients were right, when they were wrong, and why.
"""
EPILOG = """\
exit status:
  0 no bug, and one of the last 3 checks found each tensor right
  1 a bug at some check
  2 no bug, but some tensors were not checked or not judged at the last 3 checks, or a file could not be read completely
  2 also for an error: no log that can be read, or a wrong command line

example:
  gradguard report runs --html report.html
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard report` to the parser."""
    command = add_command(commands, "report", run, help="summarize logged runs", description=DESCRIPTION, epilog=EPILOG)
    command.add_argument("logdir", metavar="LOGDIR", help="the folder of a run or of several runs, or a log file")
    command.add_argument("--html", metavar="FILE", help="write summary and charts into one self-contained page")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the summaries, and return the worst exit status of all runs."""
    from gradguard.runs import (
        read_logs,  # imports TensorBoard, which is slow
        story_of,
    )

    skipped: list[Skipped] = []
    try:
        logs = read_logs(options.logdir, details=options.html is not None, skip=skipped.append)
    except (OSError, ValueError, ImportError) as error:
        raise Failure(f"cannot read {options.logdir!r}: {error}") from error
    with_checks = [log for log in logs if log.checks or log.unreadable]  # not those with a sweep only
    if not with_checks:
        raise Failure(
            f"{options.logdir!r} holds no log of gradguard; expected event files that TensorBoardWriter wrote (version "
            "0.1 or later), or lines that JSONLWriter wrote",
            details="".join(f"{line}\n" for line in _skipped_lines(skipped)),
        )
    stories = {log.run: story_of(log.checks) for log in with_checks}
    statuses = [story.state.status for story in stories.values()]
    status = worst_status([*statuses, *(CANNOT_TELL for one in skipped if one.is_loss)])
    if options.html is not None:
        _write_page(options.html, logs)
    if options.json:
        runs = {log.run: _as_dict(log, stories[log.run]) for log in with_checks}
        print_json({"status": status, "runs": runs, "skipped": [dataclasses.asdict(one) for one in skipped]})
    else:
        named = [(_name(log.run, options.logdir), log, stories[log.run]) for log in with_checks]
        table = wrong_tensors([(name, story) for name, _, story in named])
        print_text("\n\n".join([*table, *(summary(name, log, story) for name, log, story in named)]))
        if skipped:
            print_text("\n" + "\n".join(_skipped_lines(skipped)))
        if options.html is not None:
            print_text(f"\nPage written to {options.html}")
    return status


def _skipped_lines(skipped: Iterable["Skipped"]) -> list[str]:
    return [one_line(f"Skipped {one.path}: {one.reason}.") for one in skipped]


def worst_status(statuses: Iterable[int]) -> int:
    """The exit status of several runs: a bug in any run counts most, then what could not be judged or read."""
    distinct = set(statuses)
    return BUG if BUG in distinct else CANNOT_TELL if CANNOT_TELL in distinct else FINE


def _name(run: str, logdir: str) -> str:
    """What a run is called: its folder below LOGDIR, or the name of LOGDIR."""
    is_local = "://" not in logdir
    return run if run != "." else Path(logdir).resolve().name if is_local else logdir.rstrip("/").rpartition("/")[2]


def wrong_tensors(stories: Sequence[tuple[str, "Story"]]) -> list[str]:
    """A table of all tensors that a check found wrong, the runs in their order; nothing where there are none."""
    from gradguard.runs import words

    rows = [
        (name, printable(tensor), words(one.verdict), f"{one.since}", "" if one.until is None else f"{one.until}")
        for name, story in stories
        for one in story.findings
        for tensor in one.tensors
    ]
    table = [("run", "tensor", "BUG", "from step", "right again at"), *rows[:MAX_ROWS]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += [f"and {counted(len(rows) - MAX_ROWS, 'more tensor')}"] if len(rows) > MAX_ROWS else []
    return ["\n".join(lines)] if rows else []


def summary(name: str, log: "Log", story: "Story") -> str:
    """The summary of a run, in lines."""
    lines = [f"{name}: {story.headline}."]
    lines += [line for one in story.findings for line in _finding(one, len(story.findings) > 1)]
    lines += [f"  Besides, {doubt}." for doubt in story.doubts if story.findings]  # else the headline says it
    lines += [f"  -> {story.advice}"] if story.advice else []
    lines += (
        [f"  {log.unreadable} checks cannot be read: they are damaged, or another version wrote them."]
        if log.unreadable
        else []
    )
    return "\n".join(map(one_line, [*lines, *_moments(story), *_cost(log, story)]))


def _finding(one: "Finding", with_names: bool) -> list[str]:
    from gradguard.runs import listed

    lead = f"{listed(one.tensors)}: " if with_names else ""
    parts = [f"  {lead}{one.explanation}", f"  -> {one.cause}" if one.cause else ""]
    return [part for part in [*parts, f"  -> {one.advice}" if one.advice else ""] if part]


def _moments(story: "Story") -> list[str]:
    """When verdicts changed, if there is more than the first line says."""
    from gradguard.runs import listed

    if len(story.moments) < 2:
        return []
    width = len(f"step {story.last}")
    words_width = max(len(moment[1]) for moment in story.moments)
    return [
        f"  {f'step {step}':<{width}}  {words:<{words_width}}  {listed(names)}" for step, words, names in story.moments
    ]


def _cost(log: "Log", story: "Story") -> list[str]:
    if not log.checks:
        return []
    checks = "1 check" if story.checks == 1 else f"{story.checks} checks, steps {story.first} to {story.last}"
    overhead = log.checks[-1]["overhead"]
    return [
        f"  {checks}" + (f"; the checks after the first took {100 * overhead:.2g} % of the time" if overhead else "")
    ]


def _as_dict(log: "Log", story: "Story") -> Mapping[str, Any]:
    return dataclasses.asdict(story) | {"unreadable": log.unreadable}


def _write_page(path: str, logs: Sequence["Log"]) -> None:
    from gradguard.tensorboard_plugin.page import page

    try:
        Path(path).write_text(page(logs), encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot write {path!r}: {error}") from error
