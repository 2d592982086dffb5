"""`gradguard COMMAND`: the parser of all commands, and the exit status."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import metadata

from gradguard.cli.commands import check, demo, diagnose, native, report, sweep
from gradguard.cli.options import Parser
from gradguard.cli.output import CANNOT_TELL, Failure, print_failure

INTERRUPTED = 130  # the status of a shell command that SIGINT ended
BROKEN_PIPE = 141  # the status of a shell command that SIGPIPE ended, as before `head`


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, by default that of the process, and return the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except Failure as failure:
        print_failure(options.prog, failure)
        return CANNOT_TELL
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception:  # a defect of gradguard itself
        traceback.print_exc()
        return CANNOT_TELL  # Python's own 1 would mean a bug in a gradient
    return status


def parser() -> Parser:
    """The parser of all commands."""
    top = Parser(
        prog="gradguard",
        description="Checks hand-written gradients, and separates rounding error from gradient bugs.",
        epilog="example:\n  gradguard demo --logdir runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"gradguard {version()}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, check, sweep, diagnose, native, report):
        command.add_to(commands)
    return top


def version() -> str:
    """The installed version."""
    try:
        return metadata.version("gradguard")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its sources)"
