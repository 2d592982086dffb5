"""`gradguard check`."""

import argparse

from gradguard.checks.check import check
from gradguard.checks.effort import ENTRIES
from gradguard.cli.factory import guarded, make, working_directory_on_path
from gradguard.cli.options import (
    EXIT_STATUSES,
    FACTORY,
    Commands,
    add_command,
    add_constants,
    add_json,
    add_measurement,
)
from gradguard.cli.output import say, say_json, status_of, stdout_for_json_only

DESCRIPTION = f"""\
Checks the gradients that a factory makes, once, deeply: no training loop is needed.

{FACTORY}"""
EPILOG = f"""\
{EXIT_STATUSES}
example:
  gradguard check train:make --constant timesteps=39
"""


def add_to(commands: Commands) -> None:
    """Adds the options of `gradguard check`."""
    command = add_command(
        commands, "check", run, help="check the gradients that a factory makes", description=DESCRIPTION, epilog=EPILOG
    )
    add_measurement(command, "auto", ENTRIES)
    add_constants(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """`gradguard check`: prints the report, and ends with its verdict."""
    with working_directory_on_path(), stdout_for_json_only(options.json):
        case = make(options.factory)
        report = guarded(
            lambda: check(
                case.params,
                case.grads,
                case.loss,
                constants={**(case.constants or {}), **dict(options.constant)},
                blocks=case.blocks,
                reduction=options.reduction or case.reduction,
                precision=options.precision,
                snapshot=case.snapshot,
                entries=options.entries,
                seed=options.seed,
            )
        )
    if options.json:
        say_json(report.to_dict())
    else:
        say(str(report))
    return status_of(report.verdict)
