"""`gradguard native`."""

import argparse

from gradguard.cli.options import Commands, add_command
from gradguard.cli.output import FINE, say

DESCRIPTION = """\
What a trainer in C or C++ is built with: it includes gradguard.h, fills in its table, and becomes a shared library that
gradguard.integrations.native loads.
"""
EPILOG = """\
example:
  g++ -O2 -shared -fPIC -I"$(gradguard native --include-dir)" trainer.cpp -o libtrainer.so
"""


def add_to(commands: Commands) -> None:
    """Adds the options of `gradguard native`."""
    command = add_command(
        commands,
        "native",
        run,
        help="tell where the header for trainers in C and C++ is",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    command.add_argument(
        "--include-dir", action="store_true", required=True, help="print the folder of gradguard.h, for the compiler"
    )


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - a command takes its options
    """`gradguard native`: prints the folder."""
    from gradguard.integrations.native import INCLUDE_DIR  # no other command needs the integrations

    say(str(INCLUDE_DIR))
    return FINE
