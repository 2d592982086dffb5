"""`gradguard COMMAND`: the commands, and how the process ends."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from gradguard.cli.commands import check, demo, diagnose, native, report, sweep
from gradguard.cli.options import Parser
from gradguard.cli.output import CANNOT_TELL, Failure, complain

INTERRUPTED = 130
NOBODY_READS = 141  # as a process ends whose reader went away, such as `head`


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default that of the process, and returns the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except Failure as failure:
        complain(options.prog, failure)
        return CANNOT_TELL
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except Exception:  # a defect of ours, whatever it is
        traceback.print_exc()
        return CANNOT_TELL  # Python's own 1 would say that there is a bug in a gradient
    return status


def parser() -> Parser:
    """The options of every command."""
    top = Parser(
        prog="gradguard",
        description="Checks hand-written gradients during training, and tells float precision from a bug.",
        epilog="example:\n  gradguard demo --logdir runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gradguard {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, check, sweep, diagnose, native, report):
        command.add_to(commands)
    return top


def version() -> str:
    """The version installed."""
    try:
        return metadata.version("gradguard")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"
