"""`gradguard diagnose`."""

import argparse

import numpy as np

from gradguard.cli.columns import Columns, read_columns
from gradguard.cli.options import EXIT_STATUSES, Commands, add_command, add_constants, add_json
from gradguard.cli.output import say, say_json, status_of
from gradguard.diagnosis.from_arrays import diagnose
from gradguard.report.results import Report
from gradguard.report.text import printable

DESCRIPTION = """\
Tells what is wrong with gradients from numbers measured elsewhere: a CSV file with the columns `numeric` and `analytic`
(by backprop), and perhaps `tensor` (a name) and `error` (the error bar of numeric). Other columns are left alone.
"""
EPILOG = f"""\
{EXIT_STATUSES}
example:
  gradguard diagnose gradients.csv --constant timesteps=39
"""


def add_to(commands: Commands) -> None:
    """Adds the options of `gradguard diagnose`."""
    command = add_command(
        commands,
        "diagnose",
        run,
        help="tell what is wrong from numbers measured elsewhere",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument("file", metavar="FILE.csv", help="the numbers; - for the standard input")
    add_constants(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """`gradguard diagnose`: prints the verdict on the numbers of a file, and ends with it."""
    columns = read_columns(options.file)
    if not options.json:
        columns = {printable(name): values for name, values in columns.items()}
    report = _report(columns, dict(options.constant))
    if options.json:
        say_json(report.to_dict())
    else:
        say(str(report))
    return status_of(report.verdict)


def _report(columns: dict[str, Columns], constants: dict[str, float]) -> Report:
    pairs = {name: (values.analytic, values.numeric) for name, values in columns.items()}
    errors = {name: values.error for name, values in columns.items() if values.error is not None}
    with np.errstate(all="ignore"):  # hostile numbers are the file's
        return diagnose(pairs, error=errors or None, constants=constants)
