"""`gradguard report`."""

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradguard.cli.options import Commands, add_command, add_json
from gradguard.cli.output import BUG, CANNOT_TELL, FINE, Failure, say, say_json
from gradguard.report.text import one_line

if TYPE_CHECKING:
    from gradguard.runs.logs import Log
    from gradguard.runs.story import Finding, Story

DESCRIPTION = """\
Reads what gradguard logged, event files or JSON lines, and tells the story of each run: when it was fine, when it
moved, and what it is.
"""
EPILOG = """\
exit status:
  0 no bug, and every tensor could be judged, 1 a bug was confirmed at some check, 2 it cannot be told (or nothing could
  be read, or the command line is wrong)

example:
  gradguard report runs --html report.html
"""


def add_to(commands: Commands) -> None:
    """Adds the options of `gradguard report`."""
    command = add_command(
        commands, "report", run, help="tell the story of logged runs", description=DESCRIPTION, epilog=EPILOG
    )
    command.add_argument("logdir", metavar="LOGDIR", help="the folder of a run, or one with runs in it, or a file")
    command.add_argument("--html", metavar="FILE", help="write the story and its charts into one self-contained page")
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """`gradguard report`: prints the stories, and ends with the gravest."""
    from gradguard.runs.logs import read_logs  # TensorBoard is not light
    from gradguard.runs.story import tell

    try:
        logs = read_logs(options.logdir, details=options.html is not None)
    except (OSError, ValueError, ImportError) as error:
        raise Failure(f"cannot read {options.logdir!r}: {error}") from error
    told_of = [log for log in logs if log.checks or log.unreadable]  # a sweep by itself has no story
    if not told_of:
        raise Failure(
            f"{options.logdir!r} holds no log of gradguard; expected event files that TensorBoardWriter wrote (version "
            "0.1 or later), or lines that JSONLWriter wrote"
        )
    stories = {log.run: tell(log.checks) for log in told_of}
    status = gravest(story.state.status for story in stories.values())
    if options.html is not None:
        _write_page(options.html, logs)
    if options.json:
        say_json({"status": status, "runs": {log.run: _as_dict(log, stories[log.run]) for log in told_of}})
    else:
        say("\n\n".join(told(log, stories[log.run]) for log in told_of))
        if options.html is not None:
            say(f"\nThe page: {options.html}")
    return status


def gravest(statuses: Iterable[int]) -> int:
    """The status of several: a bug in one is a bug, and one that cannot be told leaves all untold."""
    seen = set(statuses)
    return BUG if BUG in seen else CANNOT_TELL if CANNOT_TELL in seen else FINE


def told(log: "Log", story: "Story") -> str:
    """A run's story in lines."""
    lines = [f"{log.run}: {story.headline}."]
    lines += [line for one in story.findings for line in _finding(one, len(story.findings) > 1)]
    lines += (
        [f"  {log.unreadable} checks cannot be read: they are torn, or of another version."] if log.unreadable else []
    )
    return "\n".join(map(one_line, [*lines, *_moments(story), *_cost(log, story)]))


def _finding(one: "Finding", named: bool) -> list[str]:
    from gradguard.runs.story import listed

    lead = f"{listed(one.tensors)}: " if named else ""
    parts = [f"  {lead}{one.explanation}", f"  -> {one.cause}" if one.cause else ""]
    return [part for part in [*parts, f"  -> {one.advice}" if one.advice else ""] if part]


def _moments(story: "Story") -> list[str]:
    """When it was fine and when it moved, where there is more to tell than the first line does."""
    from gradguard.runs.story import listed

    if len(story.moments) < 2:
        return []
    width = len(f"step {story.last}")
    what = max(len(moment[1]) for moment in story.moments)
    return [f"  {f'step {step}':<{width}}  {words:<{what}}  {listed(names)}" for step, words, names in story.moments]


def _cost(log: "Log", story: "Story") -> list[str]:
    if not log.checks:
        return []
    checks = "1 check" if story.checks == 1 else f"{story.checks} checks, steps {story.first} to {story.last}"
    overhead = log.checks[-1]["overhead"]
    return [f"  {checks}" + (f", {100 * overhead:.2g} % of the time after the first" if overhead else "")]


def _as_dict(log: "Log", story: "Story") -> Mapping[str, Any]:
    return dataclasses.asdict(story) | {"unreadable": log.unreadable}


def _write_page(path: str, logs: Sequence["Log"]) -> None:
    from gradguard.tensorboard_plugin.page import page

    try:
        Path(path).write_text(page(logs), encoding="utf-8")
    except OSError as error:
        raise Failure(f"cannot write {path!r}: {error}") from error
