"""`gradguard diagnose`: diagnose gradients from the numbers of a file."""

import argparse

import numpy as np

from gradguard.cli.columns import Columns, read_columns
from gradguard.cli.options import EXIT_STATUSES, Commands, add_command, add_constants, add_json
from gradguard.cli.output import print_json, print_text, status_of
from gradguard.diagnosis import diagnose
from gradguard.report import Report, printable

DESCRIPTION = """\
Diagnoses gradients from numbers of another program: a CSV file with the columns `numeric` and `analytic` (by backprop)
and, optionally, `tensor` (a name) and `error` (the error bar of `numeric`). Other columns are ignored.
"""
EPILOG = f"""\
{EXIT_STATUSES}
example:
  gradguard diagnose gradients.csv --constant timesteps=39
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard diagnose` to the parser."""
    command = add_command(
        commands,
        "diagnose",
        run,
        help="diagnose gradients from a CSV file of numerical and backprop values",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument("file", metavar="FILE.csv", help="the CSV file; - for the standard input")
    add_constants(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the report on the numbers of a file, and return the exit status of its verdict."""
    columns = read_columns(options.file)
    if not options.json:
        columns = {printable(name): values for name, values in columns.items()}
    report = _report(columns, dict(options.constant))
    if options.json:
        print_json(report.to_dict())
    else:
        print_text(str(report))
    return status_of(report.verdict)


def _report(columns: dict[str, Columns], constants: dict[str, float]) -> Report:
    pairs = {name: (values.analytic, values.numeric) for name, values in columns.items()}
    errors = {name: values.error for name, values in columns.items() if values.error is not None}
    with np.errstate(all="ignore"):  # the file may hold any numbers
        return diagnose(pairs, error=errors or None, constants=constants)
