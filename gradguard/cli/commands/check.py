"""`gradguard check`: check the gradients that a factory returns."""

import argparse

from gradguard.checks.check import check
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
from gradguard.cli.output import print_json, print_text, status_of, stdout_for_json_only
from gradguard.examination import ENTRIES

DESCRIPTION = f"""\
Checks the gradients that a factory returns, once, without a training loop: first all tensors together, then those that
disagree, and finally a few entries of the others.

{FACTORY}"""
EPILOG = f"""\
{EXIT_STATUSES}
example:
  gradguard check train:make --constant timesteps=39
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard check` to the parser."""
    command = add_command(
        commands,
        "check",
        run,
        help="check the gradients that a factory returns",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add_measurement(command, "auto", ENTRIES)
    add_constants(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the report, and return the exit status of its verdict."""
    with working_directory_on_path(), stdout_for_json_only(options.json):
        case = make(options.factory)
        report = guarded(
            lambda: check(
                case.params,
                case.grads,
                case.loss,
                value=case.value,
                constants={**(case.constants or {}), **dict(options.constant)},
                blocks=case.blocks,
                reduction=options.reduction or case.reduction,
                precision=options.precision,
                snapshot=case.snapshot,
                entries=options.entries,
                expected=case.expected,
                seed=options.seed,
            )
        )
    if options.json:
        print_json(report.to_dict())
    else:
        print_text(str(report))
    return status_of(report.verdict)
