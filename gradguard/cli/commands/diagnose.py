"""`gradguard diagnose`: diagnose gradients from numbers that another program printed."""

import argparse

import numpy as np

from gradguard.cli.columns import Columns
from gradguard.cli.options import EXIT_STATUSES, Commands, add_command, add_constants, add_json
from gradguard.cli.output import print_json, print_text, status_of
from gradguard.cli.source import read_pasted
from gradguard.diagnosis import diagnose
from gradguard.report import Report, one_line, printable

DESCRIPTION = """\
Diagnoses gradients from numbers of another program, as it printed them: two columns under a header such as
`numeric,analytic`, lines such as `numerical: 0.24 analytic: 0.12`, or two printed arrays. A CSV file may have the
columns `tensor` (a name) and `error` (the error bar of `numeric`). Without labels, numerical values come first.
"""
EPILOG = f"""\
{EXIT_STATUSES}
example:
  gradguard diagnose gradients.csv --constant timesteps=39
  python check_gradients.py | gradguard diagnose -
"""


def add_to(commands: Commands) -> None:
    """Add `gradguard diagnose` to the parser."""
    command = add_command(
        commands,
        "diagnose",
        run,
        help="diagnose gradients from numerical and backprop values that another program printed",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument("file", metavar="FILE", help="the text with the numbers; - for the standard input")
    add_constants(command)
    add_json(command)


def run(options: argparse.Namespace) -> int:
    """Print the report on the numbers of a text, and return the exit status of its verdict."""
    pasted = read_pasted(options.file)
    tensors = pasted.tensors
    if not options.json:
        tensors = {printable(name): columns for name, columns in tensors.items()}
    report = _report(tensors, dict(options.constant))
    if options.json:
        print_json({**report.to_dict(), "notes": list(pasted.notes)})
    else:
        print_text("\n".join([str(report), *(f"note: {one_line(note)}" for note in pasted.notes)]))
    return status_of(report.verdict)


def _report(tensors: dict[str, Columns], constants: dict[str, float]) -> Report:
    pairs = {name: (columns.analytic, columns.numeric) for name, columns in tensors.items()}
    errors = {name: columns.error for name, columns in tensors.items() if columns.error}
    with np.errstate(all="ignore"):  # the text may hold any numbers
        return diagnose(pairs, error=errors or None, constants=constants)
